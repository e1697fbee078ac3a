"""Waiting for what another process does, which tells nobody: look again until it is so."""

from __future__ import annotations

import time
from collections.abc import Callable

DEADLINE = 60.0  # seconds; generous: the machine may be busy
PAUSE_SECONDS = 0.01


def wait_until(true: Callable[[], object], what: str | Callable[[], str], seconds: float = DEADLINE) -> None:
    """Return when *true* is; AssertionError, saying *what* was waited for, after so many seconds."""
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, (
            f"it never came about that {what if isinstance(what, str) else what()}"
        )
        time.sleep(PAUSE_SECONDS)
