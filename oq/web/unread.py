"""The part of a request's body that is still to come when the answer is known already.

Left unread, its pieces fill Hypercorn's channel to an app that is over, and the connection jams: neither its next
request nor the client's leaving is noticed again. So the answer waits a moment for the end of the body. If the end
does not come, the answer says ``Connection: close``, and the connection is cut if the client then still sends.
"""

from __future__ import annotations

import trio

from oq.errors import TooLarge
from oq.web.submit import Message, Receive, Scope

READ_ON_SECONDS = (
    5.0  # so that a sender past the limit, or of a wrong request, sees the answer and not a reset
)
CUT = "oq.cut"  # in ``scope["state"]``: ends the connection at once (oq.web.serve)
PASSED = "oq.passed"  # beside it: takes how many bytes of the body are in memory no more (oq.web.connection)


class Body:
    """Stands between the server's `receive` and the app; counts what comes and knows when it is over.

    Attributes:
        cut: more than *limit* bytes came; the app was told that the client went away.
    """

    def __init__(self, receive: Receive, limit: float) -> None:
        self._receive, self._limit = receive, limit
        self._received = 0
        self._ended = trio.Event()
        self.cut = False

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    async def receive(self) -> Message:
        message = await self._next()
        if self._received > self._limit:
            self.cut = True
            return {"type": "http.disconnect"}
        return message

    async def _next(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._received += len(message.get("body", b""))
        if message["type"] != "http.request" or not message.get("more_body"):
            self._ended.set()
        return message

    async def wait_ended(self) -> None:
        """Wait a moment for the end, which another task reads."""
        with trio.move_on_after(READ_ON_SECONDS):
            await self._ended.wait()

    async def read_on(self, scope: Scope) -> None:
        """Read a moment longer and forget what comes."""
        with trio.move_on_after(READ_ON_SECONDS):
            while not self.ended:
                passed(scope, len((await self._next()).get("body", b"")))

    async def finish(self, scope: Scope) -> None:
        """After the answer: see to it that nothing is left, or cut the connection."""
        await self.read_on(scope)
        if not self.ended and (end := scope.get("state", {}).get(CUT)):
            end()


def passed(scope: Scope, count: int) -> None:
    """Say that so many bytes of a body are written, sent on or forgotten, and count for `server.max_body_memory` no more."""
    tell = scope.get("state", {}).get(PASSED)
    if tell is not None:
        tell(count)


def closing(message: Message) -> Message:
    """Return the start of an answer after which the client must not send another request."""
    return {**message, "headers": [*message["headers"], (b"connection", b"close")]}


def too_large(limit: int) -> TooLarge:
    return TooLarge(f"the body is larger than {limit} bytes (server.max_body_bytes); send it in parts")
