"""A server that drains, and one that stops, asked as hard as before.

Each answer is a whole one or none; what was answered as taken is there after the next start.
"""

from __future__ import annotations

import http.client
import json
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import given

from tests.cli.live import Served, fake_model_server
from tests.fuzz.account import SECONDS_MOST, Account, ids_of
from tests.fuzz.frames import Socket
from tests.fuzz.hostile import HOSTILE
from tests.fuzz.test_routes import BODIES, BOUNDED, OPERATIONS, TASK, WHOLE_MOST, path_of, post, send

pytestmark = pytest.mark.slow

REFUSALS = {(503, "queue_closed"), (503, "queue_busy"), (504, "timeout")}
CLIENTS = 16
ASKED = [path for path in BODIES if not path.startswith("/api/queue/")]  # a pause would hold up the others
EVERY = 25  # one answer in so many is one of hostile JSON, and of a route drawn in turn


def assert_true(status: int, body: bytes) -> None:
    """No 5xx but one that says that the server stops, drains, or has too much to do."""
    if status >= 500:
        said = json.loads(body)
        assert (status, said.get("code")) in REFUSALS or "stopping" in str(said), (status, body[:300])


# --- draining


@pytest.fixture(scope="module")
def draining(served: Served, account: Account) -> Served:
    assert post(served, account, "/api/tasks", json.dumps(TASK).encode())[0] == 201
    assert requests.post(f"{served.url}/api/queue/drain?grace=0", timeout=SECONDS_MOST).status_code == 200
    return served


@pytest.mark.parametrize("name", [name for name in OPERATIONS if "/api/queue/" not in name])
def test_a_route_answers_truly_while_the_queue_drains(draining: Served, account: Account, name: str) -> None:
    operation = OPERATIONS[name]

    @BOUNDED
    @given(case=operation.as_strategy())
    def ask(case: Any) -> None:
        status, body = send(draining, account, case)
        if name != "GET /health":
            assert_true(status, body)
        assert status != 201

    ask()


@pytest.mark.parametrize("grace", ["-1", "NaN", "1e400", "x" * 5000, "%00", "", "Infinity", "0", "1ms"])
def test_any_grace_of_a_drain_is_taken_or_refused(draining: Served, grace: str) -> None:
    answer = requests.post(f"{draining.url}/api/queue/drain?grace={grace}", timeout=SECONDS_MOST)
    assert answer.status_code == 200 or (answer.status_code in (400, 422) and answer.json()["error"])


def test_after_the_drain_all_is_there_and_the_queue_goes_on(draining: Served, account: Account) -> None:
    account.assert_kept(draining.url)
    assert requests.post(f"{draining.url}/api/queue/resume", timeout=SECONDS_MOST).status_code == 200
    status, said = post(draining, account, "/api/tasks", json.dumps(TASK).encode())
    assert status == 201
    found = requests.get(f"{draining.url}/api/tasks/{json.loads(said)['task_id']}/result?wait=60", timeout=90)
    assert found.status_code == 200
    draining.stop(timeout=60)
    log = "\n".join(line for line in draining._lines.queue if line)
    assert " ERROR " not in log, log[:5000]


# --- stopping


class Asking:
    """Clients that submit, and ask other things in between, until the server is gone."""

    def __init__(self, served: Served) -> None:
        self.account = Account()
        self.answered = 0
        self._served = served
        self._lock = threading.Lock()
        self.enough = threading.Event()

    def __call__(self, number: int) -> None:
        for count in range(number * 1000, number * 1000 + 100_000):
            path, body = self._draw(count)
            connection = http.client.HTTPConnection(
                self._served.url.removeprefix("http://"), timeout=SECONDS_MOST
            )
            try:
                connection.request("POST", path, body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                said = answer.read(WHOLE_MOST)
            except (OSError, http.client.HTTPException):
                if self._served.process.poll() is not None or self.enough.is_set():
                    return
                raise
            finally:
                connection.close()
            assert_true(answer.status, said)
            with self._lock:
                self.account.note("POST", path, body, answer.status, answer.headers, said)
                self.answered += 1
                if self.answered >= 400:
                    self.enough.set()

    def _draw(self, count: int) -> tuple[str, bytes]:
        if count % EVERY == 0:
            return path_of(ASKED[count // EVERY % len(ASKED)]), HOSTILE[count // EVERY % len(HOSTILE)]
        if count % EVERY == 1:
            return "/api/generate", b'{"model":"llama3.2","prompt":"Hi","stream":%b}' % (b"true", b"false")[
                count % 2
            ]
        if count % 2:
            return "/api/tasks", json.dumps(TASK).encode()
        return "/api/tasks/batch", json.dumps([TASK] * 5).encode()


@pytest.fixture
def stopping(tmp_path: Path) -> Iterator[Served]:
    with fake_model_server() as model:
        served = Served(tmp_path / "data", "--ollama-host", model.url, OQ_SERVER__SHUTDOWN_GRACE="2")
        yield served
        served.stop(signal.SIGKILL)


def test_what_was_answered_while_the_server_stopped_is_there_after_its_start(stopping: Served) -> None:
    asking = Asking(stopping)
    monitor = Socket(int(stopping.url.rpartition(":")[2]))
    with monitor, ThreadPoolExecutor(CLIENTS) as pool:
        running = [pool.submit(asking, number) for number in range(CLIENTS)]
        assert asking.enough.wait(60), [one.exception() for one in running if one.done()]
        assert stopping.stop(timeout=60) == 0
        for one in running:
            one.result(60)
        assert monitor.until("bye") is not None
    log = "\n".join(line for line in stopping._lines.queue if line)
    assert " ERROR " not in log, log[:5000]
    assert "Traceback" not in log

    assert len(asking.account.taken) > 400
    restarted = Served(stopping.data, "--paused", "--ollama-host", "http://127.0.0.1:9")
    try:
        there = ids_of(restarted.url)
    finally:
        restarted.stop(signal.SIGKILL)
    assert len(there) == len(set(there))
    assert asking.account.taken <= set(there)
