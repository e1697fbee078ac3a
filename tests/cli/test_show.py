"""What is told of one task: notes of the truth guards on stderr, and all that `oq show` has to say."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from fake_ollama import FakeOllama, Reply, lines, status

from oq.cli.tasks import _details
from oq.cli.words import when
from oq.client import Client
from oq.wire.remote import RemoteTask, RemoteWaiting
from tests.cli.conftest import Oq

PROMPT_CUT = (
    "note: the prompt did not fit into the context and was cut: a larger num_ctx, or a shorter prompt\n"
)
CUT = "note: the answer was cut at its end: a larger num_predict, or a larger num_ctx\n"
NOT_JSON = "note: the answer is not the JSON that was asked for\n"
NOT_THE_SCHEMA = "note: the answer does not validate against the schema that was asked for\n"
SCHEMA = '{"type": "object"}'


def answers(text: str, **last: Any) -> Reply:
    line = {
        "model": "m",
        "created_at": "2026-01-01T00:00:00Z",
        "response": "",
        "done": True,
        "done_reason": "stop",
    }
    return lines({**line, "response": text, "done": False}, {**line, **last})


GUARDED = [
    pytest.param(("--option", "num_ctx=8"), answers("Hel", prompt_eval_count=8), PROMPT_CUT, id="prompt_cut"),
    pytest.param(("--format", "json"), answers("Hel"), NOT_JSON, id="invalid_json"),
    pytest.param(("--format", SCHEMA), answers("[]"), NOT_THE_SCHEMA, id="schema_mismatch"),
    pytest.param(
        ("--option", "num_ctx=8"), answers("Hel", prompt_eval_count=8, done_reason="length"), PROMPT_CUT + CUT, id="two",
    ),
    pytest.param((), answers("Hel"), "", id="none"),
]  # fmt: skip


@pytest.mark.parametrize("how", ["--wait", "--stream"])
@pytest.mark.parametrize(("flags", "reply", "notes"), GUARDED)
def test_what_a_guard_found_is_a_note_beside_the_text_and_no_failure(
    oq: Oq, model_server: FakeOllama, flags: tuple[str, ...], reply: Reply, notes: str, how: str
):
    model_server.default = reply
    found = oq("submit", "generate", "-m", "m", "x", *flags, how)
    assert found.exit_code == 0
    assert found.stdout == ("[]\n" if SCHEMA in flags else "Hel\n")
    assert re.fullmatch(r"task \w{13}\n" + re.escape(notes), found.stderr)


def test_quiet_says_no_note_and_json_has_the_codes(oq: Oq, model_server: FakeOllama):
    model_server.default = answers("Hel", done_reason="length")
    found = oq("submit", "generate", "-m", "m", "x", "--wait", "-q")
    assert (found.exit_code, found.stdout, found.stderr) == (0, "Hel\n", "")
    found = oq("submit", "generate", "-m", "m", "x", "--wait", "-o", "json")
    assert (found.exit_code, json.loads(found.stdout)["warnings"], "note" in found.stderr) == (
        0,
        ["length"],
        False,
    )


@pytest.mark.parametrize("how", ["--wait", "--stream"])
def test_a_guard_that_fails_the_task_exits_with_4_and_its_words(oq: Oq, model_server: FakeOllama, how: str):
    model_server.default = answers("Hel")
    found = oq("submit", "generate", "-m", "m", "x", "--format", "json", "--guard", "fail", how)
    assert found.exit_code == 4
    assert "the answer is not the JSON that was asked for" in found.stderr


def test_a_finding_that_only_a_newer_server_knows_is_told_by_its_code():
    rows = _details(RemoteTask("a", status="completed", warnings=("length", "brand_new")))
    assert [text for name, text in rows if name == "warning"][1] == "brand_new"


def test_how_much_a_model_said_is_a_row():
    rows = dict(_details(RemoteTask("a", tokens=312, tokens_per_second=41.5)))
    assert rows["tokens"] == "312, 41.5 a second"
    assert "tokens" not in dict(_details(RemoteTask("a")))


# --- show


def shown(oq: Oq, id: str) -> tuple[dict[str, str], list[dict[str, str]]]:
    """Return the rows of a task, and those of its attempts."""
    details, _, attempts = oq("show", id).stdout.partition("\n\n")
    rows = dict(re.split(r"  +", line, maxsplit=1) for line in details.splitlines())
    head, *others = [re.split(r"  +", line) for line in attempts.partition("\n\n")[0].splitlines()] or [[]]
    return rows, [dict(zip(head, other, strict=False)) for other in others]


def test_show_tells_host_and_error_of_each_attempt(oq: Oq, model_server: FakeOllama):
    model_server.default = status(400, "this prompt is bad")
    id = oq("submit", "generate", "-m", "m", "x", "-o", "id").stdout.strip()
    assert oq("wait", id).exit_code == 4
    rows, attempts = shown(oq, id)
    assert rows["host"] == "default"
    assert "this prompt is bad" in rows["error"]
    (attempt,) = attempts
    assert (attempt["ATTEMPT"], attempt["HOST"], attempt["OUTCOME"]) == ("1", "default", "failed")
    assert "this prompt is bad" in attempt["ERROR"]


def test_show_tells_the_place_of_a_task_that_waits_and_why(oq: Oq, queue: Client):
    queue.pause()
    ids = [oq("submit", "generate", "-m", "m", "x", "-o", "id").stdout.strip() for _ in range(2)]
    rows, attempts = shown(oq, ids[1])
    assert (rows["place"], rows["waits"], attempts) == ("2", "the queue is paused", [])


def test_show_tells_when_a_task_is_expected_to_start_and_the_error_it_waits_for():
    waiting = RemoteWaiting("no_host", "no model server answers", error="Connection refused")
    rows = dict(_details(RemoteTask("a", waiting=waiting, expected_start_at=1e9, queue_position=3)))
    assert rows["waits"] == "no model server answers (Connection refused)"
    assert rows["expected start"] == when(1e9)
    assert rows["place"] == "3"


def test_show_tells_an_error_once():
    waiting = RemoteWaiting("retry", "it failed and is tried again", error="boom")
    rows = dict(_details(RemoteTask("a", waiting=waiting, error="boom")))
    assert (rows["waits"], rows["error"]) == ("it failed and is tried again", "boom")


def test_show_hides_nothing_on_a_narrow_terminal(
    oq: Oq, model_server: FakeOllama, monkeypatch: pytest.MonkeyPatch
):
    words = "it is bad for " + "many many reasons " * 8 + "and at last for this"
    model_server.default = status(400, words)
    id = oq("submit", "generate", "-m", "m", "x", "-o", "id").stdout.strip()
    oq("wait", id)
    monkeypatch.setenv("COLUMNS", "80")
    found = re.sub(r"\x1b\[[0-9;]*m", "", oq("--color", "show", id).stdout)
    assert "…" not in found
    for part in found.split("\n\n"):  # the task, its attempt
        assert "forthis" in re.sub(r"\s+", "", part)
    assert all(len(line) <= 80 for line in found.splitlines())
