"""Wall time that follows Trio's clock, so that a test's clock moves both together."""

from __future__ import annotations

import logging
import time

import trio

STEP_SECONDS = 1.0  # less is not worth a jump

log = logging.getLogger(__name__)


class WallClock:
    """Unix time: Trio's clock plus an offset taken at the start. Make it inside `trio.run`.

    Trio's clock stands still while the machine sleeps, and knows nothing of a clock that was wrong when we started: where the
    machine's goes ahead, the offset follows. It never goes back: what waits for a time would wait longer.
    """

    def __init__(self) -> None:
        self._offset = time.time() - trio.current_time()
        self._steady = time.time() - time.monotonic()

    def now(self) -> float:
        ahead = time.time() - time.monotonic() - self._steady
        if ahead > STEP_SECONDS:
            self._offset += ahead
            self._steady += ahead
            log.warning("the machine's clock went ahead by %.0f s: it was set, or the machine slept", ahead)
        return trio.current_time() + self._offset
