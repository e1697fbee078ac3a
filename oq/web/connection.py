"""One HTTP connection: Hypercorn's, with three of its costs taken out and two of its leaks closed.

Measured with 64 connections that post single tasks, Hypercorn 0.18 starts and cancels a child for the idle timeout at
each request, sets up a read timeout that oq does not use, and hands an answer to the socket in three pieces, the last
one empty: together about a sixth of the CPU of a request. And a connection that the client closes stays in memory
until the idle timeout ends. And one that the client asks to be closed after the answer (``Connection: close``) stays open,
because the close is cancelled with the request.

It also holds the client to its word: a request that does not arrive in time (`oq.web.patience`), or whose body finds
no room (`oq.web.places`), is answered and the connection closed. HTTP/2 is not spoken: nothing here needs it, and
these bounds would not hold for its streams. Nor is a WebSocket compressed: a page's compressor takes 0.3 MB, a few
bytes become megabytes before their length is looked at, and Hypercorn fails at an offer that is no number.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import h11
import trio
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.protocol.ws_stream import WSStream
from hypercorn.trio.tcp_server import MAX_RECV, TCPServer

from oq.errors import OqError, QueueBusy
from oq.web.patience import BODY, Patience, raw_answer
from oq.web.places import Places
from oq.web.unread import PASSED

NO_ROOM = QueueBusy("the server has too many large requests at once (server.max_body_memory); try again")
LAST_WORD_SECONDS = 1.0  # for the answer of a client that is refused
READ_ON_SECONDS = 5.0  # so that it sees the answer and not a reset


class IdleWatch:
    """Closes a connection that has been idle for between one and two *timeout* seconds, and at the server's end.

    Takes the place of Hypercorn's `TrioSingleTask`: one child for the life of a connection, and going idle or
    busy is an assignment.
    """

    def __init__(self, timeout: float, terminated: Any, places: Places, end: Callable[[], None]) -> None:
        self._places, self._end = places, end
        self._timeout = timeout
        self._terminated = terminated
        self._since: float | None = None
        self._scope: trio.CancelScope | None = None
        self.close: Callable[[], Awaitable[None]]

    async def restart(self, task_group: Any, _action: object) -> None:
        """The connection is idle from now on."""
        self._places.idle(self, self._end)
        self._since = trio.current_time()
        if self._scope is None:
            self._scope = trio.CancelScope()
            task_group._nursery.start_soon(self._watch, self._scope)

    async def stop(self) -> None:
        """The connection is busy."""
        self._places.busy(self)
        self._since = None

    def end(self) -> None:
        """The connection is closed."""
        self._places.busy(self)
        if self._scope is not None:
            self._scope.cancel()

    async def _watch(self, scope: trio.CancelScope) -> None:
        with scope:
            while not self._terminated.is_set():
                with trio.move_on_after(self._timeout):
                    await self._terminated.wait()
                if self._since is not None and (
                    self._terminated.is_set() or trio.current_time() - self._since >= self._timeout
                ):
                    break
            if self._since is not None:  # a busy one closes after its answer
                with trio.CancelScope(shield=True):
                    await self.close()


class Connection(TCPServer):
    """See the module. *end* closes it at once, from outside of it."""

    def __init__(
        self,
        app: Any,
        config: Any,
        context: Any,
        state: Any,
        stream: Any,
        *,
        patience: Patience,
        places: Places,
        end: Callable[[], None],
    ) -> None:
        state[PASSED] = self._let_go
        super().__init__(app, config, context, state, stream)
        self._head = b""
        self._patience, self._places = patience, places
        self._held = 0  # bytes of the body of the request at hand; less than none of one that was let go before it was counted
        watch = IdleWatch(config.keep_alive_timeout, context.terminated, places, end)
        watch.close = self._initiate_server_close
        self.idle_task: Any = watch

    async def protocol_send(self, event: Event) -> None:
        if isinstance(event, RawData):
            data = self._head + event.data
            if not self._head and data.startswith(b"HTTP/1.1 ") and b"\r\ncontent-length: " in data.lower():
                self._head = data  # the body, or the empty end of one, follows at once
                return
            self._head = b""
            if not data:
                return
            event = RawData(data=data)
        elif isinstance(event, Closed):
            # After the answer, in the app's own task, which Quart cancels as soon as it hears of the end.
            with trio.move_on_after(LAST_WORD_SECONDS, shield=True):
                await super().protocol_send(event)
            return
        elif isinstance(event, Updated) and event.idle:
            self._release()
        await super().protocol_send(event)

    async def _read_data(self) -> None:
        protocol: Any = self.protocol.protocol
        protocol._check_protocol = _stay
        data: bytes | bytearray = b""
        try:
            while True:
                deadline = self._patience.deadline(protocol)
                if self._patience.part is BODY and not self._hold(len(data)):
                    await self._refuse(NO_ROOM)
                    break
                try:
                    with trio.CancelScope(deadline=deadline) as scope:
                        data = await self.stream.receive_some(MAX_RECV)
                except (trio.ClosedResourceError, trio.BrokenResourceError):
                    break
                if scope.cancelled_caught:
                    await self._refuse(self._patience.too_slow())
                    break
                await self.protocol.handle(RawData(bytes(data)))
                if not data:
                    break
                if _has_said_too_much(protocol.stream):
                    await self._read_on()
                    break
            await self.protocol.handle(Closed())
        finally:
            self.idle_task.end()
            self._release()

    def _hold(self, count: int) -> bool:
        if not self._places.hold(count):
            return False
        self._held += count
        return True

    def _let_go(self, count: int) -> None:
        self._held -= count
        self._places.release(count)

    def _release(self) -> None:
        if self._held:
            self._places.release(self._held)
            self._held = 0

    async def _refuse(self, error: OqError) -> None:
        """Say why, if the client can still be told, and give it a moment to read that."""
        self._release()  # now: what there is of the body is forgotten as soon as the app hears of it
        with trio.move_on_after(LAST_WORD_SECONDS):
            async with self.send_lock:
                told = self._patience.may_answer(self.protocol.protocol)
                if told:
                    await self.stream.send_all(raw_answer(error))
        await self.protocol.handle(Closed())
        if told:
            await self._read_on()

    async def _read_on(self) -> None:
        with trio.move_on_after(READ_ON_SECONDS):
            while await self.stream.receive_some(MAX_RECV):
                pass


def _has_said_too_much(stream: object) -> bool:
    """Return whether a message of a WebSocket is too long: Hypercorn closes with 1009, and goes on gathering it."""
    return isinstance(stream, WSStream) and stream.buffer.length > stream.buffer.max_length


async def _stay(request: h11.Request) -> None:
    """Take the place of Hypercorn's change to HTTP/2, and hide the offer to compress a WebSocket."""
    kept = [(name, value) for name, value in request.headers if name != b"sec-websocket-extensions"]
    if len(kept) < len(request.headers):
        plain = h11.Request(method=request.method, target=request.target, headers=kept)
        object.__setattr__(request, "headers", plain.headers)  # Hypercorn reads this object, which is frozen
