from __future__ import annotations

import time
from typing import Any

import pytest
import trio

from oq.clock import WallClock


async def test_wall_time_follows_trios_clock(autojump_clock: Any) -> None:
    clock = WallClock()
    begin = clock.now()
    await trio.sleep(1e6)
    assert clock.now() - begin == pytest.approx(1e6, abs=1e-3)


async def test_wall_time_is_unix_time_at_the_start(autojump_clock: Any) -> None:
    before = time.time()
    assert before <= WallClock().now() + 1e-3
    assert WallClock().now() <= time.time() + 1e-3
