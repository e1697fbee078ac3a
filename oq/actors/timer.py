"""Timer (retry timer): owns one deadline, the earliest due time there is."""

from __future__ import annotations

import math

import trio

from oq.core.messages import Inbound, Stop, Tick, WakeAt
from oq.ports import Clock

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
            with trio.move_on_after(wait) as limit:
                try:
                    at = (await alarms.receive()).at
                except trio.EndOfChannel:
                    return
                again = False
            if limit.cancelled_caught:
                try:
                    inbox.send_nowait(Tick(at))
                except trio.WouldBlock:
                    again = True
                except trio.BrokenResourceError:
                    at, again = math.inf, False  # the scheduler has stopped; the end of `alarms` follows
                else:
                    at, again = math.inf, False
