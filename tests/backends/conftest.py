from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio.testing

from oq.backends import OllamaBackend
from tests.backends.attempts import MakeBackend
from tests.fake_ollama import FakeOllama, open_fake_ollama


@pytest.fixture
def clock() -> trio.testing.MockClock:
    """Trio's clock, which jumps when nothing moves; bytes on the loopback get 20 ms to arrive."""
    return trio.testing.MockClock(autojump_threshold=0.02)


@pytest.fixture
async def fake() -> AsyncIterator[FakeOllama]:
    async with open_fake_ollama() as found:
        yield found


@pytest.fixture
async def make_backend(fake: FakeOllama) -> AsyncIterator[MakeBackend]:
    """A backend for the fake, with settings of the test's own; closed at the end."""
    made: list[OllamaBackend] = []

    def make(url: str | None = None, **settings: Any) -> OllamaBackend:
        made.append(OllamaBackend("gpu1", url or fake.url, **settings))
        return made[-1]

    yield make
    for backend in made:
        await backend.aclose()


@pytest.fixture
def backend(make_backend: MakeBackend) -> OllamaBackend:
    return make_backend()
