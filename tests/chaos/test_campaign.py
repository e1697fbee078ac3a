"""The short form of the kill campaign; the long one is ``python -m tests.chaos``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.campaign import Campaign

pytestmark = pytest.mark.slow


def test_after_25_kills_every_promise_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = Campaign(tmp_path, kills=25, seed=7, say=print).run()
    assert sum(figures["deaths"].values()) == 25
    assert len(figures["deaths"]) > 5, "the named instants must come about"
    assert figures["tasks"] > 50
    assert figures["acknowledged"] > 100
