"""The body of an answer as the asynchronous client reads it: by a deadline, and closed to its last generator."""

from __future__ import annotations

from contextlib import suppress

import anyio
import httpx

from oq.client.transport import Arriving

CLOSE_SECONDS = 2.0  # for closing a connection, also while cancelled


def answered_by(arriving: Arriving) -> anyio.CancelScope:
    """Return a scope that ends when it is too late for the answer."""
    return anyio.CancelScope(deadline=arriving.until)


class Body:
    """The pieces of an open answer. `close` it: what httpx iterates with is not left to the garbage collector."""

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._pieces = response.aiter_bytes()

    async def read(self) -> bytes | None:
        """Return the next bytes, None at the end; raises `httpx.HTTPError`."""
        return await anext(self._pieces, None)

    async def whole(self, arriving: Arriving, scope: anyio.CancelScope) -> bytes:
        """Read it to its end and close it; *scope* moves with what has arrived."""
        try:
            while (piece := await self.read()) is not None:
                arriving.add(piece)
                scope.deadline = arriving.until
        finally:
            with anyio.move_on_after(CLOSE_SECONDS, shield=True):
                await self.close()
        return arriving.whole()

    async def close(self) -> None:
        with suppress(httpx.HTTPError):
            await self._response.aclose()
            # Each generator in httpx waits for the one below it: only an error from there ends them all. Trio warns
            # of those that end otherwise.
            while await self.read() is not None:
                pass
