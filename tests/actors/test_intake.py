from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio

from oq.actors.intake import run_intake
from oq.actors.scheduler import run_scheduler
from oq.clock import WallClock
from oq.core.hosts import Host
from oq.core.ids import COUNTER_BITS, IdSource, created_at
from oq.core.messages import (
    Admit,
    Cancel,
    Drain,
    Inbound,
    Pause,
    Request,
    Respond,
    Resume,
    Run,
    Start,
    Step,
    Stop,
    Submit,
)
from oq.core.model import Recovered, TaskSpec
from oq.core.schedule import Schedule
from oq.errors import QueueClosed, StorageFull
from oq.health import Health
from oq.payloads import Payloads

from .conftest import Answers, drained

SPEC = TaskSpec("generate", "m", b'{"prompt": "x"}')


class Door:
    def __init__(self) -> None:
        self.requests, self.requests_out = trio.open_memory_channel[Request](10)
        self.inbox, self.inbox_out = trio.open_memory_channel[Inbound | Stop](10)
        self.health = Health()
        self.reply = Answers()


@asynccontextmanager
async def open_door() -> AsyncIterator[Door]:
    door = Door()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_intake, door.requests_out, door.inbox, IdSource(1), door.health, WallClock())
        async with door.requests:
            yield door


async def test_a_submission_gets_its_keys_and_other_requests_pass(autojump_clock: Any) -> None:
    async with open_door() as door:
        door.requests.send_nowait(Submit((SPEC, SPEC), door.reply, True))
        door.requests.send_nowait(Pause(door.reply))
        admit = await door.inbox_out.receive()
        assert isinstance(admit, Admit)
        assert (admit.specs, admit.atomic) == ((SPEC, SPEC), True)
        assert admit.keys[0] < admit.keys[1]
        assert created_at(admit.keys[0]) == pytest.approx(WallClock().now(), abs=0.01)
        assert await door.inbox_out.receive() == Pause(door.reply)


async def test_a_batch_larger_than_a_millisecond_holds_gets_ascending_keys(autojump_clock: Any) -> None:
    count = 3 * (1 << COUNTER_BITS) + 5
    async with open_door() as door:
        door.requests.send_nowait(Submit((SPEC,) * count, door.reply))
        admit = await door.inbox_out.receive()
        assert isinstance(admit, Admit)
        assert len(set(admit.keys)) == count
        assert list(admit.keys) == sorted(admit.keys)


async def test_while_the_disk_refuses_nothing_comes_in_but_the_switches(autojump_clock: Any) -> None:
    error = StorageFull("full")
    async with open_door() as door:
        door.health.storage_error = error
        for request in (Submit((SPEC,), door.reply), Cancel((1,), door.reply)):
            await door.requests.send(request)
        switches = [Pause(door.reply), Resume(door.reply), Drain(1.0, door.reply)]
        for switch in switches:
            await door.requests.send(switch)
            assert await door.inbox_out.receive() == switch
        assert door.reply.found == [error, error]


async def test_when_the_scheduler_is_gone_callers_are_told(autojump_clock: Any) -> None:
    async with open_door() as door:
        await door.inbox_out.aclose()
        door.requests.send_nowait(Cancel((1,), door.reply))
    assert [type(answer) for answer in door.reply.found] == [QueueClosed]


async def test_the_last_message_is_a_stop(autojump_clock: Any) -> None:
    async with open_door() as door:
        door.requests.send_nowait(Pause(door.reply))
    assert drained(door.inbox_out) == [Pause(door.reply), Stop()]


# --- the scheduler
async def test_a_start_leaves_although_the_writer_is_busy_and_its_request_is_at_hand(
    autojump_clock: Any,
) -> None:
    schedule, payloads, clock = Schedule([Host("h", 1)]), Payloads(), WallClock()
    first = schedule.recover(Recovered([], []), clock.now())
    inbox, inbox_out = trio.open_memory_channel[Inbound | Stop](10)
    steps, steps_out = trio.open_memory_channel[Step](0)
    jobs, jobs_out = trio.open_memory_channel[Start](4)
    (key,) = IdSource(1).take(1, clock.now())
    reply = Answers()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_scheduler, inbox_out, steps, jobs, schedule, first, payloads, clock)
        await steps_out.receive()  # the first alarm, from recovery
        inbox.send_nowait(Admit((key,), (SPEC,), reply))
        assert await jobs_out.receive() == Run(key, 1, "h", "generate", "m", None)
        assert payloads.get(key) == SPEC
        step = await steps_out.receive()
        assert Respond(reply, (key,)) in step.effects
        assert reply.found == [], "a promise is the writer's to release"
        inbox.send_nowait(Stop())
        assert [step async for step in steps_out] == []
