from __future__ import annotations

import subprocess
import sys
from math import inf

import pytest

from oq.demo.knobs import Knobs, knobs_from
from oq.errors import ConfigError


def test_nothing_set_is_ollamas_defaults():
    assert knobs_from({}) == Knobs()


def test_nought_means_the_default_where_it_does_in_ollama():
    nought = {"OLLAMA_NUM_PARALLEL": "0", "OLLAMA_MAX_LOADED_MODELS": "0", "OLLAMA_CONTEXT_LENGTH": "0"}
    assert knobs_from(nought) == Knobs()
    assert knobs_from({"OLLAMA_MAX_QUEUE": "0"}).max_queue == 0


@pytest.mark.parametrize(("text", "seconds"), [("90", 90.0), ("2m", 120.0), ("0", 0.0), ("-1", inf)])
def test_keep_alive_is_seconds_or_a_duration(text: str, seconds: float):
    assert knobs_from({"OLLAMA_KEEP_ALIVE": text}).keep_alive == seconds


@pytest.mark.parametrize(
    ("name", "text"),
    [("NUM_PARALLEL", "many"), ("MAX_QUEUE", "-1"), ("CONTEXT_LENGTH", "2k"), ("KEEP_ALIVE", "soon")],
)
def test_what_does_not_parse_is_named(name: str, text: str):
    with pytest.raises(ConfigError, match=f"OLLAMA_{name} is '{text}'"):
        knobs_from({f"OLLAMA_{name}": text})


@pytest.mark.slow
def test_the_command_says_it_in_one_line():
    done = subprocess.run(
        [sys.executable, "-m", "oq.demo", "--port", "0"],
        capture_output=True,
        text=True,
        env={"OLLAMA_NUM_PARALLEL": "many", "PYTHONPATH": ":".join(filter(None, sys.path))},
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "error: OLLAMA_NUM_PARALLEL is 'many': it must be a whole number, 0 or more\n"
