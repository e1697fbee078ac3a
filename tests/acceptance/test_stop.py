"""A stop ends in time, whatever clients do meanwhile."""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import pytest
from fake_ollama import FakeOllama, says

from oq.builders import generate
from oq.client import Client
from tests.acceptance.conftest import Serve
from tests.cli.live import fake_model_server

pytestmark = pytest.mark.slow
GRACE = 2.0
UPGRADE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    "Sec-WebSocket-Version: 13\r\n"
)


@pytest.fixture
def fake() -> Iterator[FakeOllama]:
    with fake_model_server() as fake:
        yield fake


def stopped_reader(url: str, path: str, more: str = "") -> socket.socket:
    """Return a connection that asked for *path*, got the head of an answer, and will never read again."""
    host, port = url.removeprefix("http://").split(":")
    reader = socket.socket()
    reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    reader.connect((host, int(port)))
    reader.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n".encode())
    assert reader.recv(12).split()[1] in (b"200", b"101")
    return reader


def test_sigterm_ends_in_time_while_clients_have_stopped_reading(serve: Serve, fake: FakeOllama):
    served = serve("--ollama-host", fake.url, OQ_SERVER__SHUTDOWN_GRACE=f"{GRACE}s")
    with ExitStack() as held, Client(served.url) as client:
        fake.default = says(*["word " * 2000] * 500, first_after=0.2)  # 5 MB: no socket's buffer takes it
        talking = client.submit(generate("m", "talk"))
        held.enter_context(stopped_reader(served.url, f"/api/tasks/{talking.id}/stream"))
        held.enter_context(stopped_reader(served.url, "/api/events"))
        held.enter_context(stopped_reader(served.url, "/ws", UPGRADE))
        assert talking.wait(30).status == "completed"  # nobody was slowed by them
        fake.default = says("never", first_after=600.0)
        with client.subscribe(["task_started"]) as started:
            running = [client.submit(generate("m", "hang")).id for _ in range(4)]
            assert {next(started).task_id for _ in running} == set(running)
        client.submit_many([generate("m" * 400, "wait")] * 3000)
        assert served.stop(signal.SIGTERM, timeout=GRACE + 5) == 0
    fake.default = says("fine")
    served = serve("--ollama-host", fake.url, "--paused")
    with Client(served.url) as client:
        assert client.status().pending_tasks == 3004
        assert {client.get(id).retry_count for id in running} == {0}
    assert served.stop() == 0


def test_what_runs_may_end_when_the_terminal_goes_away(serve: Serve, fake: FakeOllama):
    fake.default = says("done", first_after=1.0)
    served = serve("--ollama-host", fake.url)
    with Client(served.url) as client, client.subscribe(["task_started"]) as started:
        id = client.submit(generate("m", "go on")).id
        next(started)
        assert served.stop(signal.SIGHUP) == 0
    served = serve("--ollama-host", fake.url, "--paused")
    with Client(served.url) as client:
        task = client.get(id)
        assert (task.status, [attempt.outcome for attempt in task.attempts]) == ("completed", ["succeeded"])
    assert served.stop() == 0


def test_a_second_signal_does_not_wait_for_the_grace(serve: Serve, fake: FakeOllama):
    fake.default = says("never", first_after=600.0)
    served = serve("--ollama-host", fake.url, OQ_SERVER__SHUTDOWN_GRACE="10m")
    with ExitStack() as held, Client(served.url) as client:
        with client.subscribe(["task_started"]) as started:
            id = client.submit(generate("m", "hang")).id
            next(started)
        held.enter_context(stopped_reader(served.url, "/ws", UPGRADE))
        held.enter_context(stopped_reader(served.url, f"/api/tasks/{id}/stream"))
        served.process.send_signal(signal.SIGINT)
        assert served.wait_said(re.compile("SIGINT: stopping"))
        served.stop(signal.SIGINT, timeout=10)
    fake.default = says("fine")
    served = serve("--ollama-host", fake.url)
    with Client(served.url) as client:
        task = client.wait(id, 20)
        assert (task.status, task.retry_count) == ("completed", 0)
    assert served.stop() == 0


def test_what_is_submitted_while_it_stops_is_refused_with_a_time_to_come_back(serve: Serve, fake: FakeOllama):
    fake.default = says("never", first_after=600.0)
    served = serve("--ollama-host", fake.url, OQ_SERVER__SHUTDOWN_GRACE="10s")
    with Client(served.url) as client, httpx.Client(base_url=served.url) as http:
        with client.subscribe(["task_started", "queue_draining"]) as told:
            client.submit(generate("m", "hang"))
            assert next(told).type == "task_started"
            served.process.send_signal(signal.SIGTERM)
            assert next(told).type == "queue_draining"
        answer = http.post("/api/tasks", json={"type": "generate", "model": "m", "payload": {"prompt": "x"}})
        assert (answer.status_code, answer.json()["code"]) == (503, "queue_closed")
        assert int(answer.headers["Retry-After"]) > 0
        assert http.get("/health").status_code == 503
        assert served.stop(signal.SIGTERM) == 0
