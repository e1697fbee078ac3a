"""A real queue on a file, before fake model servers on real sockets, under a clock that jumps.

The journal works inline: a thread would make the clock jump (see `oq.engine.inline`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio.testing

from oq.backends import OllamaBackend
from oq.config import settings_from
from oq.engine import inline, open_queue_from
from oq.queue import Queue
from oq.store import open_journal
from tests.fake_ollama import FakeOllama, open_fake_ollama

OpenQueue = Callable[..., AbstractAsyncContextManager[Queue]]


@pytest.fixture
def autojump_clock() -> trio.testing.MockClock:
    """Jumps when nothing moves; bytes on the loopback get 20 ms to arrive."""
    return trio.testing.MockClock(autojump_threshold=0.02)


@pytest.fixture
async def fake() -> AsyncIterator[FakeOllama]:
    async with open_fake_ollama() as found:
        yield found


@pytest.fixture
def open_queue(tmp_path: Path) -> OpenQueue:
    """Opens a queue on the model servers at these URLs, with every setting as it is but the jitter."""

    @asynccontextmanager
    async def open_at(*urls: str, slots: int = 2, **changed: Any) -> AsyncIterator[Queue]:
        hosts = [{"name": f"gpu{n}", "url": url, "slots": slots} for n, url in enumerate(urls, 1)]
        settings = settings_from(hosts=hosts, retry_config__jitter=0.0, **changed)
        backends = {
            host.name: OllamaBackend(
                host.name,
                host.url,
                connect_timeout=settings.ollama.connect_timeout,
                idle_timeout=settings.ollama.idle_timeout,
                max_result_bytes=settings.queue.max_result_bytes,
            )
            for host in settings.hosts
        }
        journal = open_journal(tmp_path / "data")
        async with open_queue_from(settings, journal=journal, backends=backends, offload=inline) as queue:
            yield queue

    return open_at
