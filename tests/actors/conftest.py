from __future__ import annotations

from typing import Any

import pytest
import trio

from oq.clock import WallClock


class Answers:
    """A `Reply` that keeps what it is sent."""

    def __init__(self) -> None:
        self.found: list[Any] = []

    def send_nowait(self, value: Any, /) -> None:
        self.found.append(value)


@pytest.fixture
async def clock() -> WallClock:
    return WallClock()


def drained(channel: trio.MemoryReceiveChannel[Any]) -> list[Any]:
    """Return what waits in *channel*."""
    found = []
    while True:
        try:
            found.append(channel.receive_nowait())
        except (trio.WouldBlock, trio.EndOfChannel):
            return found
