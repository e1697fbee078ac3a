from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oq.core.messages import Step, Write
from oq.core.model import Status, TaskSpec, TaskState
from oq.store import ZodbJournal, open_journal

from .servers import PostgresServer, Server, ZeoServer

FIRST = 1 << 60


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    server = PostgresServer()
    yield server
    server.close()


@pytest.fixture(scope="session")
def zeo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZeoServer]:
    server = ZeoServer(tmp_path_factory.mktemp("zeo"))
    yield server
    server.close()


@pytest.fixture(params=["zeo", "postgresql"])
def server(request: pytest.FixtureRequest) -> Server:
    """A real server of each kind, running."""
    found: Server = request.getfixturevalue("zeo" if request.param == "zeo" else "postgres")
    return found


@pytest.fixture
def uri(server: Server) -> str:
    """The URI of an empty store there."""
    return server.new_uri()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def journal(folder: Path) -> Iterator[ZodbJournal]:
    opened = open_journal(folder)
    yield opened
    opened.close()


@pytest.fixture
def submit() -> Callable[..., Step]:
    """A step that submits *count* tasks from *first* on."""

    def make(count: int = 1, first: int = FIRST, **fields: object) -> Step:
        spec = TaskSpec(**{"type": "generate", "model": "m", "payload": b'{"prompt": "Hello"}', **fields})  # type: ignore[arg-type]
        return Step(
            tuple(Write(first + n, TaskState(Status.PENDING, spec.priority), spec) for n in range(count))
        )

    return make
