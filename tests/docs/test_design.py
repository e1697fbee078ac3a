"""What docs/design.md draws is what the code does."""

from __future__ import annotations

import re

import pytest

from oq import engine
from oq.actors import writer
from oq.core.lifecycle import TRANSITIONS
from tests.docs.pages import ROOT

TEXT = (ROOT / "docs/design.md").read_text(encoding="utf-8")


def test_the_diagram_of_states_is_the_table_of_transitions():
    drawn = set(re.findall(r"^ +(\S+) --> (\S+)$", TEXT, re.MULTILINE))
    table = {
        ("[*]" if before is None else str(before), str(after))
        for before, following in TRANSITIONS.items()
        for after in following
    }
    assert drawn == table


def test_the_channels_have_the_sizes_that_are_written_there():
    sizes = dict(re.findall(r"^\| `(\w+)` \|[^|]*\|[^|]*\| ([^|]+) \|", TEXT, re.MULTILINE))
    numbers = {
        "requests": engine.REQUESTS,
        "inbox": engine.INBOX,
        "steps": engine.STEPS,
        "events": engine.EVENTS,
    }
    assert {name: int(sizes[name]) for name in numbers} == numbers
    assert set(sizes) == {*numbers, "jobs", "alarms"}
    assert f"(at most {writer.BATCH_STEPS})" in TEXT


@pytest.mark.parametrize("page", ["docs/design.md", "CONTRIBUTING.md"])
def test_every_file_that_is_named_is_there(page: str):
    text = (ROOT / page).read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:oq|tests|docs|bench|examples|frontend)/[\w/]*(?:\.\w+)?)`", text))
    assert {name for name in named if not (ROOT / name).exists()} == set()
    assert "oq/core/lifecycle.py" in named
