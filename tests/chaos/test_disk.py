"""A disk that refuses, in the middle of work: what is answered, what goes on, and that it heals."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fake_ollama import Exchange, FakeOllama, says
from waiting import wait_until

from tests.chaos.life import Life
from tests.cli.live import fake_model_server

pytestmark = pytest.mark.slow
PATIENCE = 60.0  # seconds for what takes one or two

REFUSALS = [
    ("full", 507, "storage_full"),
    ("read-only", 503, "storage_error"),
    ("error", 503, "storage_error"),
]


class Place:
    """A server on a disk whose health is a file, and a model server that waits for `go` before the end of an answer."""

    def __init__(self, folder: Path, fake: FakeOllama) -> None:
        self.fake = fake
        self.go = threading.Event()
        fake.default = self._reply
        self._folder = folder
        self._disk = folder / "disk"
        self.life: Life
        self.start()

    async def _reply(self, exchange: Exchange) -> None:
        while b"wait for it" in exchange.request.body and not self.go.is_set():
            await exchange.pause(0.02)
        await says("fine")(exchange)

    def start(self) -> None:
        self.life = Life(
            self._folder / "data", self.fake.url, 2, "tests.chaos.sick",
            CHAOS_DISK=str(self._disk), OQ_QUEUE__PACK_INTERVAL="0",
        )  # fmt: skip
        assert self.life.url, self.life.said
        self.http = httpx.Client(base_url=self.life.url, timeout=PATIENCE, trust_env=False)

    def stop(self, number: int) -> int:
        self.http.close()
        return self.life.stop(number)

    def disk(self, sickness: str) -> None:
        self._disk.write_text(sickness)

    def submit(self, prompt: str, **more: Any) -> httpx.Response:
        task = {"type": "generate", "model": "llama3.2", "payload": {"prompt": prompt}, **more}
        return self.http.post("/api/tasks", json=task)

    def get(self, id: str) -> dict[str, Any]:
        answer = self.http.get(f"/api/tasks/{id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def wait(self, condition: Callable[[], bool]) -> None:
        wait_until(condition, lambda: f"this holds; it said: {self.life.said}", PATIENCE)

    def asked(self, prompt: str) -> int:
        return sum(prompt.encode() in request.body for request in self.fake.requests)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with fake_model_server() as fake:
        place = Place(tmp_path, fake)
        yield place
        place.go.set()
        place.stop(signal.SIGKILL)


@pytest.mark.parametrize(("sickness", "status", "code"), REFUSALS, ids=[row[0] for row in REFUSALS])
def test_a_disk_that_refuses_loses_nothing_and_heals(
    place: Place, sickness: str, status: int, code: str
) -> None:
    done = place.submit("quick").json()["task_id"]
    place.wait(lambda: place.get(done)["status"] == "completed")
    running = place.submit("wait for it").json()["task_id"]
    later = place.submit("an hour later", delay="1h").json()["task_id"]
    place.wait(lambda: place.get(running)["status"] == "running")

    place.disk(sickness)
    refused = [place.submit(f"refused {n}") for n in range(3)]
    for answer in refused:
        assert (answer.status_code, answer.json()["code"]) == (status, code)
        assert int(answer.headers["Retry-After"]) > 0
        assert "nothing acknowledged is lost" in answer.json()["error"]
    assert place.http.post(f"/api/tasks/{later}/cancel").status_code == status
    assert place.http.get("/health").status_code == 503
    assert place.http.get("/api/status").json()["storage_ok"] is False
    assert place.get(done)["output"] == "fine", "what is on disk is read on"
    assert {task["id"] for task in place.http.get("/api/tasks").json()} >= {done, running, later}

    place.go.set()
    with place.http.stream("GET", f"/api/tasks/{running}/stream") as answer:
        assert '"fine"' in next(answer.iter_lines()), "what runs goes on, and can be read"
        place.disk("")
    place.wait(lambda: place.get(running)["status"] == "completed")
    place.wait(lambda: place.http.get("/health").status_code == 200)
    healed = place.submit("healed")
    assert healed.status_code == 201
    place.wait(lambda: place.get(healed.json()["task_id"])["status"] == "completed")
    assert place.asked("wait for it") == 1

    place.stop(signal.SIGKILL)
    place.start()
    tasks = {task["id"]: task for task in place.http.get("/api/tasks").json()}
    assert {tasks[id]["status"] for id in (done, running, healed.json()["task_id"])} == {"completed"}
    assert tasks[later]["status"] in (
        "scheduled",
        "cancelled",
    )  # the cancel was refused to its caller, not undone
    assert place.asked("wait for it") == 1
    assert place.stop(signal.SIGTERM) == 0


def test_a_slow_commit_delays_its_answer_and_nothing_else(place: Place) -> None:
    done = place.submit("quick").json()["task_id"]
    place.wait(lambda: place.get(done)["status"] == "completed")
    place.disk("slow")
    answers: list[httpx.Response] = []
    waiting = threading.Thread(target=lambda: answers.append(place.submit("patient")))
    waiting.start()
    place.wait(lambda: place.asked("patient") == 1)  # a start promises nothing: it does not wait for the disk
    assert place.get(done)["output"] == "fine"
    assert place.http.get("/health").status_code == 200
    assert not answers, "an answer means that it is on disk"
    place.disk("")
    waiting.join(PATIENCE)
    assert answers[0].status_code == 201
    place.wait(lambda: place.get(answers[0].json()["task_id"])["status"] == "completed")


def test_a_server_that_is_killed_on_a_sick_disk_starts_again_with_all_it_had_acknowledged(
    place: Place,
) -> None:
    kept = [place.submit(f"wait for it {n}").json()["task_id"] for n in range(5)]
    place.disk("error")
    assert place.submit("refused").status_code == 503
    place.stop(signal.SIGKILL)
    place.disk("")
    place.go.set()
    place.start()
    for id in kept:
        place.wait(lambda id=id: place.get(id)["status"] == "completed")
        assert place.get(id)["retry_count"] == 0
