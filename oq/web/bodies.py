"""Answers that never end by themselves: a child fills a channel, the answer empties it, silence makes a heartbeat."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from types import TracebackType

import trio
from quart import Response
from quart.wrappers.response import ResponseBody

HEARTBEAT_SECONDS = 15.0  # proxies cut what is silent for 30 to 60 seconds

Produce = Callable[[trio.MemorySendChannel[bytes]], Awaitable[None]]


class Pumped(ResponseBody):
    """A body that *produce* writes. It ends when *produce* does, when the client leaves, or on *stopping*.

    Entering and leaving happen in one task (Quart's `_send_response`), so holding a nursery open in between is
    sound. *held* is closed at the end: resources that the route opened to be able to refuse with a status.
    """

    def __init__(
        self, produce: Produce, heartbeat: bytes, stopping: trio.Event, held: AsyncExitStack | None = None
    ) -> None:
        self._produce, self._heartbeat, self._stopping = produce, heartbeat, stopping
        self._held = held or AsyncExitStack()
        self._filling = trio.CancelScope()
        self._manager: AbstractAsyncContextManager[trio.Nursery]

    async def __aenter__(self) -> Pumped:
        self._manager = trio.open_nursery()
        nursery = await self._manager.__aenter__()
        self._nursery = nursery
        # No room: what waits here has not been read from the queue's side, where readers cannot pile up.
        send, self._pieces = trio.open_memory_channel[bytes](0)
        nursery.start_soon(self._fill, send)
        nursery.start_soon(self._end_on_stop)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        self._nursery.cancel_scope.cancel()
        try:
            await self._manager.__aexit__(exc_type, exc_value, tb)  # noqa: ASYNC102 - its children were cancelled above
        finally:
            await self._held.aclose()

    def __aiter__(self) -> Pumped:
        return self

    async def __anext__(self) -> bytes:
        with trio.move_on_after(HEARTBEAT_SECONDS):
            try:
                return await self._pieces.receive()
            except trio.EndOfChannel:
                raise StopAsyncIteration from None
        return self._heartbeat

    async def _fill(self, send: trio.MemorySendChannel[bytes]) -> None:
        with send, self._filling:
            await self._produce(send)

    async def _end_on_stop(self) -> None:
        await self._stopping.wait()
        self._filling.cancel()


def endless(body: Pumped, content_type: str) -> Response:
    """Return the answer that sends *body* as it comes."""
    response = Response(content_type=content_type)
    response.response = body
    response.timeout = None
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Accel-Buffering"] = "no"  # nginx: pass each piece on at once
    return response


def sse(data: bytes, event: str | None = None, id: str | None = None) -> bytes:
    """Return one server-sent event; *data* is JSON, so it has no newline."""
    head = b"" if event is None else b"event: %b\n" % event.encode()
    if id is not None:
        head += b"id: %b\n" % id.encode()
    return head + b"data: " + data + b"\n\n"
