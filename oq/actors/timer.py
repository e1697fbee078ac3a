"""Timer (retry timer): owns one deadline, the earliest due time there is."""

from __future__ import annotations

import math

import trio

from oq.core.messages import Inbound, Stop, Tick, WakeAt
from oq.ports import Clock

# How often to look at the wall clock at least: it may be set, and Trio's stands still while the machine sleeps.
LOOK_SECONDS = 30.0
AGAIN_SECONDS = 0.05  # when the scheduler's inbox was full as the alarm rang


async def run_timer(
    alarms: trio.MemoryReceiveChannel[WakeAt], inbox: trio.MemorySendChannel[Inbound | Stop], clock: Clock
) -> None:
    """Ring at the time last set. Never blocks on the inbox, or it would close a cycle: it rings again instead."""
    at = math.inf
    again = False
    async with alarms, inbox:
        while True:
            wait = AGAIN_SECONDS if again else max(0.0, at - clock.now())
            look = wait > LOOK_SECONDS and at < math.inf
            with trio.move_on_after(LOOK_SECONDS if look else wait) as limit:
                try:
                    at = (await alarms.receive()).at
                except trio.EndOfChannel:
                    return
                again = False
            if limit.cancelled_caught and not look:
                try:
                    inbox.send_nowait(Tick(at))
                except trio.WouldBlock:
                    again = True
                except trio.BrokenResourceError:
                    at, again = math.inf, False  # the scheduler has stopped; the end of `alarms` follows
                else:
                    at, again = math.inf, False
