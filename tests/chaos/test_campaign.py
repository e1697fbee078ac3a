"""The short form of the kill campaign; the long one is ``python -m tests.chaos``. And that it tells what it should."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.chaos import __main__ as command
from tests.chaos.campaign import Campaign
from tests.chaos.ledger import Broken, Known


@pytest.mark.slow
def test_after_25_kills_every_promise_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = Campaign(tmp_path, kills=25, seed=7, say=print).run()
    assert sum(figures["deaths"].values()) == 25
    assert len(figures["deaths"]) > 5, "the named instants must come about"
    assert figures["tasks"] > 50
    assert figures["acknowledged"] > 100


@pytest.mark.parametrize("error", [Broken("life 2: a rule"), RuntimeError("life 2: a rule")])
def test_a_campaign_that_fails_in_whatever_way_tells_how_to_run_it_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    def fail(self: Campaign) -> dict[str, Any]:
        raise error

    monkeypatch.setattr(Campaign, "run", fail)
    monkeypatch.setattr(sys, "argv", ["chaos", "--kills", "3", "--seed", "9"])
    assert command.main() == 1
    said = capsys.readouterr().out
    assert "BROKEN: life 2: a rule\nagain: python -m tests.chaos --kills 3 --seed 9\n" in said


@pytest.mark.parametrize(
    ("pauses", "early"),
    [((1.0, 2.0, 3.0), None), ((0.5,), "attempt 2 came"), ((1.0, 1.2), "attempt 3 came")],
)
def test_an_attempt_before_its_retry_is_due_breaks_a_promise(
    pauses: tuple[float, ...], early: str | None
) -> None:
    at, attempts = 10.0, []
    for number, pause in enumerate((*pauses, None), 1):
        ended: dict[str, Any] = {} if pause is None else {"finished_at": _time(at), "outcome": "failed"}
        attempts.append({"number": number, "started_at": _time(at), **ended})
        at += pause or 0
    task = {
        "id": "x", "status": "running", "revision": 1, "priority": 5, "retry_count": len(pauses), "attempts": attempts,
    }  # fmt: skip
    known = Known("task-0.1", "key", {})
    if early is None:
        known.look(task, 1)
        assert known.seen == task
    else:
        with pytest.raises(Broken, match=early):
            known.look(task, 1)


def _time(second: float) -> str:
    return f"2026-01-01T00:00:{second:09.6f}Z"
