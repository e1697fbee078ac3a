"""Scheduler: owns the `Schedule`. Few lines, because the schedule is a plain object."""

from __future__ import annotations

import random
from collections.abc import Callable

import trio

from oq.actors.channels import put, take_waiting
from oq.core.messages import Inbound, Start, Step, Stop
from oq.core.schedule import Schedule
from oq.payloads import Payloads
from oq.ports import Clock

MESSAGES_PER_TURN = 16  # at most about a millisecond, so that others get their turn


async def run_scheduler(
    inbox: trio.MemoryReceiveChannel[Inbound | Stop],
    steps: trio.MemorySendChannel[Step],
    jobs: trio.MemorySendChannel[Start],
    schedule: Schedule,
    first: Step,
    payloads: Payloads,
    clock: Clock,
    luck: Callable[[], float] = random.random,
) -> None:
    """Turn each message into a step; own the schedule. *first* is the step that recovery led to.

    Starts leave at once: a start promises nothing. Everything else goes through the writer.
    """

    async def take(step: Step) -> None:
        payloads.hold(step.writes)
        for start in step.starts:
            jobs.send_nowait(start)  # never full: the size is argued in oq.engine
        if step.effects or step.for_disk:
            await put(steps, step)

    async with inbox, steps, jobs:
        await take(first)
        async for first_of_turn in inbox:
            for message in (first_of_turn, *take_waiting(inbox, MESSAGES_PER_TURN)):
                if isinstance(message, Stop):
                    return
                await take(schedule.handle(message, clock.now(), luck()))
