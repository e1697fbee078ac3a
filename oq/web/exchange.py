"""One HTTP request and the means to answer it, on bare ASGI: for answers that stream and clients that go away."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

import trio

from oq.web.submit import Receive, Scope, Send, read_body
from oq.web.unread import READ_ON_SECONDS, passed


class ClientGone(Exception):
    """The client closed the connection before its request was read."""


class Exchange:
    """See the module. Header names are lower case; of a repeated header the last one counts."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.raw_path: bytes = scope.get("raw_path") or self.path.encode()
        self.query: bytes = scope.get("query_string", b"")
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        self.begun = False
        self._body: bytes | None = None
        self._ended = False  # the body, read in parts
        self._receive = receive
        self._send = send
        self._scope = scope

    async def body(self) -> bytes:
        """Return the whole body, again when it was read before; raises `ClientGone`."""
        if self._body is None:
            self._body = await read_body(self._receive)
        if self._body is None:
            raise ClientGone
        return self._body

    async def parts(self) -> AsyncGenerator[bytes, None]:
        """Yield the body as it comes, or as it was read before; raises `ClientGone`."""
        if self._body is not None:
            if self._body:
                yield self._body
            return
        while not self._ended:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            self._ended = not message.get("more_body")
            data: bytes = message.get("body", b"")
            if data:
                yield data
                passed(self._scope, len(data))

    async def read_on(self) -> None:
        """Read the rest of a body that nobody reads any more, for a moment; `oq.web.unread` says why."""
        with trio.move_on_after(READ_ON_SECONDS):
            async with aclosing(self.parts()) as parts:
                async for _ in parts:
                    pass

    async def wait_gone(self) -> None:
        """Return when the client has closed the connection; call it after the body was read."""
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                return

    async def begin(self, status: int, headers: Mapping[str, str] | list[tuple[bytes, bytes]]) -> None:
        """Send the head of an answer whose body comes with `write` and ends with `end`."""
        if isinstance(headers, Mapping):
            headers = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
        self.begun = True
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def whole(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        """Send an answer in one go."""
        await self.begin(status, {**headers, "Content-Length": str(len(body))})
        await self._send({"type": "http.response.body", "body": body, "more_body": False})
