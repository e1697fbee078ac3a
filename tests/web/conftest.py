"""A real queue on a store in memory, with a model server that does as the tests tell it, behind the app."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
import trio
import trio.testing
from fakes import FakeBackend

from oq.config import Settings, settings_from
from oq.engine import inline, open_queue_from
from oq.queue import Queue
from oq.store import open_journal
from oq.web.app import OqApp
from oq.web.assembly import make_app


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default data folder, where a server looks for tokens, is not that of whoever runs the tests."""
    monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))


class House:
    """Queue, app and client together."""

    def __init__(self, queue: Queue, app: OqApp, backend: FakeBackend) -> None:
        self.queue, self.app, self.backend = queue, app, backend
        self.client = app.test_client()

    async def post(self, path: str, value: Any = None, **headers: str) -> Any:
        fields = {name.replace("_", "-"): text for name, text in headers.items()}
        if value is not None:
            fields.setdefault("Content-Type", "application/json")
        data = value if isinstance(value, bytes) else b"" if value is None else msgspec.json.encode(value)
        return await self.client.post(path, data=data, headers=fields)

    async def submit(self, **fields: Any) -> str:
        answer = await self.post("/api/tasks", {**TASK, **fields})
        assert answer.status_code == 201, await answer.get_data()
        return str((await answer.get_json())["task_id"])

    async def finished(self, id: str) -> Any:
        answer = await self.client.get(f"/api/tasks/{id}/result?wait=60")
        assert answer.status_code == 200
        return await answer.get_json()


TASK: dict[str, Any] = {
    "type": "chat", "model": "llama3.2", "payload": {"messages": [{"role": "user", "content": "Hi"}]},
}  # fmt: skip


@asynccontextmanager
async def open_house(
    settings: Settings | None = None, backend: FakeBackend | None = None
) -> AsyncIterator[House]:
    settings = settings or settings_from()
    backend = backend or FakeBackend()
    backends = {host.name: backend for host in settings.hosts}
    async with open_queue_from(settings, journal=open_journal(), backends=backends, offload=inline) as queue:
        app = make_app(queue, settings)
        async with app.test_app():
            yield House(queue, app, backend)


@asynccontextmanager
async def reading(house: House, path: str, **headers: str) -> AsyncIterator[Any]:
    """Open an endless answer, and leave it as a client does that goes away.

    Quart's test connection waits for the answer's end, which never comes then; so its channel is closed for it.
    """
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    failure: BaseException | None = None
    async with house.client.request(path, headers=fields) as connection:
        await connection.send_complete()
        try:
            yield connection
        except Exception as exc:
            failure = exc
        await connection.disconnect()
        await trio.testing.wait_all_tasks_blocked()
        await connection._client_send.aclose()  # type: ignore[attr-defined]
    if failure is not None:
        raise failure


@pytest.fixture
async def house(autojump_clock: Any) -> AsyncIterator[House]:
    async with open_house() as found:
        yield found
