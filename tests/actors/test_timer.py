from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import pytest
import trio
import trio.testing

from oq.actors.timer import AGAIN_SECONDS, LOOK_SECONDS, run_timer
from oq.clock import WallClock
from oq.core.messages import Inbound, Stop, Tick, WakeAt

from .conftest import drained


class Timer(NamedTuple):
    alarms: trio.MemorySendChannel[WakeAt]
    inbox: trio.MemoryReceiveChannel[Inbound | Stop]
    clock: WallClock

    async def set(self, seconds: float) -> WakeAt:
        alarm = WakeAt(self.clock.now() + seconds)
        await self.alarms.send(alarm)
        return alarm


@asynccontextmanager
async def open_timer(size: int = 1) -> AsyncIterator[Timer]:
    alarms, alarms_out = trio.open_memory_channel[WakeAt](0)
    inbox, inbox_out = trio.open_memory_channel[Inbound | Stop](size)
    clock = WallClock()
    with trio.fail_after(1e6):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_timer, alarms_out, inbox, clock)
            async with alarms, inbox_out:
                yield Timer(alarms, inbox_out, clock)


async def test_it_rings_at_its_time_once(autojump_clock: Any) -> None:
    async with open_timer() as timer:
        begin = trio.current_time()
        alarm = await timer.set(7.5)
        assert await timer.inbox.receive() == Tick(alarm.at)
        assert trio.current_time() - begin == pytest.approx(7.5, abs=0.001)
        await trio.sleep(1000.0)
        assert drained(timer.inbox) == []


@pytest.mark.parametrize("second", [1.0, 20.0])
async def test_a_new_alarm_replaces_the_one_before(autojump_clock: Any, second: float) -> None:
    async with open_timer() as timer:
        await timer.set(10.0)
        alarm = await timer.set(second)
        assert await timer.inbox.receive() == Tick(alarm.at)
        await trio.sleep(1000.0)
        assert drained(timer.inbox) == []


async def test_an_alarm_for_the_past_rings_at_once(autojump_clock: Any) -> None:
    async with open_timer() as timer:
        begin = trio.current_time()
        alarm = await timer.set(-100.0)
        assert await timer.inbox.receive() == Tick(alarm.at)
        assert trio.current_time() == pytest.approx(begin, abs=0.001)


async def test_with_a_full_inbox_it_takes_alarms_and_rings_again_later(autojump_clock: Any) -> None:
    """It must never wait for the inbox, or the writer would wait for it, and the scheduler for the writer."""
    async with open_timer(size=0) as timer:
        first = await timer.set(1.0)
        await trio.sleep(5.0)
        with trio.fail_after(1.0):
            await timer.set(100.0)
        await trio.sleep(1.0)
        with trio.fail_after(1.0):
            last = await timer.set(-1.0)
        await trio.sleep(3.0)
        with trio.fail_after(2 * AGAIN_SECONDS):
            assert await timer.inbox.receive() == Tick(last.at)
    assert first.at < last.at + 20.0


async def test_it_ends_with_its_channel_also_when_nobody_hears_it(autojump_clock: Any) -> None:
    async with open_timer() as timer:
        await timer.set(5.0)
        await timer.inbox.aclose()
        await trio.sleep(10.0)
        await timer.set(5.0)
        await trio.sleep(10.0)
    assert timer.alarms.statistics().tasks_waiting_send == 0


async def test_it_rings_soon_after_the_wall_clock_was_put_past_its_time(
    autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the machine slept: Trio's clock stood still meanwhile."""
    real = time.time
    async with open_timer() as timer:
        alarm = await timer.set(8 * 3600.0)
        await trio.sleep(10)
        monkeypatch.setattr("oq.clock.time.time", lambda: real() + 9 * 3600)
        begin = trio.current_time()
        assert await timer.inbox.receive() == Tick(alarm.at)
        assert trio.current_time() - begin <= LOOK_SECONDS
