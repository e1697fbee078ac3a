"""A real server on a real socket, in front of a scriptable or a real model server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import trio
from fake_ollama import FakeOllama, open_fake_ollama

from oq.config import settings_from
from oq.engine import open_queue
from oq.queue import Queue
from oq.web import make_app, serve_app


class Place:
    """A served queue: where it is, what is behind it, and a client that waits for as long as it takes."""

    def __init__(self, url: str, queue: Queue, client: httpx.AsyncClient) -> None:
        self.url, self.queue, self.client = url, queue, client

    async def post_raw(self, path: str, value: object) -> trio.SocketStream:
        """Send a request over a socket of its own, so that a test can go away as it likes."""
        where = httpx.URL(self.url)
        assert where.port is not None
        stream = await trio.open_tcp_stream(where.host, where.port)
        body = json.dumps(value).encode()
        await stream.send_all(
            b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n%b"
            % (path.encode(), len(body), body)
        )
        return stream

    async def tasks(self) -> list[Any]:
        return list(await self.queue.list(limit=1000, sort="created"))

    async def until(self, condition: Any) -> None:
        """Wait until *condition* holds; it is tried after every event of the queue."""
        with trio.fail_after(20):
            async with self.queue.subscribe() as subscribed, aclosing(cast(Any, subscribed)) as events:
                if condition():
                    return
                async for _ in events:
                    if condition():
                        return


async def read_until(stream: trio.SocketStream, mark: bytes) -> bytes:
    """Return what comes, until *mark* is in it."""
    found = bytearray()
    with trio.fail_after(20):
        while mark not in found:
            data = await stream.receive_some(65_536)
            assert data, bytes(found)
            found += data
    return bytes(found)


@asynccontextmanager
async def open_place(folder: Path, *urls: str, **settings: Any) -> AsyncIterator[Place]:
    given = settings_from(
        hosts=list(urls),
        port=0,
        storage_path=str(folder),
        **{"retry_config__initial_delay": 0.01, **settings},
    )
    async with open_queue(settings=given) as queue, trio.open_nursery() as nursery:
        app = make_app(queue, given)
        (url, *_) = await nursery.start(partial(serve_app, app, given))
        async with httpx.AsyncClient(base_url=url, timeout=30) as client:
            yield Place(url, queue, client)
        nursery.cancel_scope.cancel()


@pytest.fixture
async def fake() -> AsyncIterator[FakeOllama]:
    async with open_fake_ollama() as found:
        yield found


@pytest.fixture
async def place(fake: FakeOllama, tmp_path: Path) -> AsyncIterator[Place]:
    async with open_place(tmp_path, fake.url) as found:
        yield found


@pytest.fixture
async def real(model_server: str, tmp_path: Path) -> AsyncIterator[Place]:
    """A served queue in front of the small real model."""
    async with AsyncExitStack() as held:
        yield await held.enter_async_context(open_place(tmp_path, model_server))
