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


async def test_it_follows_where_the_machine_s_clock_goes_ahead_and_never_back(
    autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = time.time
    clock = WallClock()
    begin = clock.now()

    def put(seconds: float) -> float:
        monkeypatch.setattr("oq.clock.time.time", lambda: real() + seconds)
        return clock.now() - begin

    assert put(8 * 3600) == pytest.approx(8 * 3600, abs=0.1)  # the machine slept
    assert put(7 * 3600) == pytest.approx(8 * 3600, abs=0.1)
    await trio.sleep(60)
    assert put(-1e9) == pytest.approx(8 * 3600 + 60, abs=0.1)
    assert put(9 * 3600) == pytest.approx(9 * 3600 + 60, abs=0.1)
