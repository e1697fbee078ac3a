"""Wall time that follows Trio's clock, so that a test's clock moves both together."""

from __future__ import annotations

import time

import trio


class WallClock:
    """Unix time: Trio's clock plus an offset taken once at the start. Make it inside `trio.run`."""

    def __init__(self) -> None:
        self._offset = time.time() - trio.current_time()

    def now(self) -> float:
        return trio.current_time() + self._offset
