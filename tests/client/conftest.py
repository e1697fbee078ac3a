"""A server that says what a test tells it to, and a client that talks to it without a socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator

import httpx
import pytest

from oq.client import Client, Patience

Reply = httpx.Response | httpx.HTTPError | Callable[[httpx.Request], httpx.Response]


class Script:
    """Answers requests with the replies in order, and keeps what was asked."""

    def __init__(self, *replies: Reply) -> None:
        self.replies = list(replies)
        self.requests: list[httpx.Request] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        request.read()
        self.requests.append(request)
        assert self.replies, f"nothing was expected after {request.method} {request.url}"
        reply = self.replies.pop(0)
        if isinstance(reply, httpx.HTTPError):
            raise reply
        return reply if isinstance(reply, httpx.Response) else reply(request)

    @property
    def paths(self) -> list[str]:
        return [f"{request.method} {request.url.raw_path.decode()}" for request in self.requests]


class Broken(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A body that breaks off after its pieces."""

    def __init__(self, *pieces: bytes, error: httpx.HTTPError | None = None) -> None:
        self._pieces = pieces
        self._error = error or httpx.ReadError("connection reset")

    def __iter__(self) -> Iterator[bytes]:
        yield from self._pieces
        raise self._error

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece


QUICK = Patience(retries=3, first=0.0, longest=0.0)


@pytest.fixture
def serve() -> Iterator[Callable[..., tuple[Client, Script]]]:
    """Return a function: replies in, a client and the script of its conversation out."""
    clients: list[Client] = []

    def start(*replies: Reply) -> tuple[Client, Script]:
        script = Script(*replies)
        client = Client("http://oq.test", patience=QUICK, transport=httpx.MockTransport(script))
        clients.append(client)
        return client, script

    yield start
    for client in clients:
        client.close()
