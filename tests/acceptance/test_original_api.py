"""The original Ollama Queue's REST client, unchanged: what it posts and what it expects to read (API.md's facts)."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest
from fake_ollama import FakeOllama

from oq.client import Client
from tests.cli.live import Served, fake_model_server

pytestmark = pytest.mark.slow

# A Go `models.Task` as encoding/json writes it: every zero value is there.
GO_TASK = """{"id":"","type":"chat","priority":10,"status":"","model":"llama3.2",
 "payload":{"messages":[{"role":"user","content":"Hello"}],"system":"","stream":false},"options":null,
 "created_at":"0001-01-01T00:00:00Z","started_at":null,"completed_at":null,"error":"","result":null,
 "retry_count":0,"max_retries":3}"""


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeOllama]:
    with fake_model_server() as fake:
        yield fake


@pytest.fixture(scope="module")
def http(fake: FakeOllama, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    served = Served(tmp_path_factory.mktemp("original") / "data", "--ollama-host", fake.url)
    with httpx.Client(base_url=served.url) as http:
        yield http
    assert served.stop() == 0


def submit(http: httpx.Client, text: str = GO_TASK) -> str:
    answer = http.post("/api/tasks", content=text, headers={"Content-Type": "application/json"})
    assert answer.status_code == 201, answer.text
    id: str = answer.json()["task_id"]
    assert id
    return id


def finished(http: httpx.Client, id: str) -> dict[str, object]:
    answer = http.get(f"/api/tasks/{id}/result?wait=20", timeout=30)
    assert answer.status_code == 200
    task: dict[str, object] = answer.json()
    return task


def test_a_task_with_gos_zero_values_is_taken_and_run(http: httpx.Client, fake: FakeOllama):
    task = finished(http, submit(http))
    assert (task["status"], task["priority"], task["max_retries"]) == ("completed", 10, 3)
    sent = fake.requests[-1].json()
    assert sent["messages"] == [{"role": "user", "content": "Hello"}]
    assert sent["model"] == "llama3.2"


@pytest.mark.parametrize("payload", [
    ("generate", {"prompt": "Hello", "system": "", "template": "", "raw": False, "stream": False}),
    ("embed", {"input": "Hello", "truncate": True}),
    ("embed", {"input": ["Hello", "you"], "truncate": None}),
])  # fmt: skip
def test_the_other_types_are_taken_too(http: httpx.Client, payload: tuple[str, dict[str, object]]):
    type, fields = payload
    body = json.loads(GO_TASK) | {"type": type, "payload": fields, "priority": 0}
    assert finished(http, submit(http, json.dumps(body)))["status"] == "completed"


def test_a_task_has_the_originals_fields(http: httpx.Client):
    task = finished(http, submit(http))
    names = {"id", "type", "model", "priority", "status", "payload", "created_at", "started_at", "completed_at",
             "result", "max_retries"}  # fmt: skip
    assert names <= set(task)
    assert http.get(f"/api/tasks/{task['id']}").json()["id"] == task["id"]


def test_the_list_is_an_array(http: httpx.Client):
    id = submit(http)
    listed = http.get("/api/tasks", params={"limit": 1, "offset": 0})
    assert isinstance(listed.json(), list)
    assert [task["id"] for task in listed.json()] == [id]


def test_the_status_has_its_fields(http: httpx.Client):
    finished(http, submit(http))
    status = http.get("/api/status").json()
    for name in ("pending", "running", "completed", "failed", "cancelled", "total"):
        assert isinstance(status[f"{name}_tasks"], int)
    assert status["completed_tasks"] >= 1
    assert isinstance(status["queues_by_priority"], dict)
    assert status["workers_active"] + status["workers_idle"] == 4


def test_priority_and_cancel_are_posted_as_before(http: httpx.Client):
    http.post("/api/queue/pause")
    id = submit(http)
    assert http.post(f"/api/tasks/{id}/priority", json={"priority": 15}).status_code == 200
    assert http.get(f"/api/tasks/{id}").json()["priority"] == 15
    assert http.post(f"/api/tasks/{id}/cancel").status_code == 200
    assert http.get(f"/api/tasks/{id}").json()["status"] == "cancelled"
    http.post("/api/queue/resume")


def test_a_client_cannot_overwrite_a_task_by_posting_its_id(http: httpx.Client):
    id = submit(http)
    body = json.loads(GO_TASK) | {"id": id}
    answer = http.post("/api/tasks", json=body)
    assert (answer.status_code, answer.json()["field"]) == (422, "id")


def test_it_is_what_our_own_client_sees(http: httpx.Client):
    id = submit(http)
    finished(http, id)
    with Client(str(http.base_url)) as client:
        assert client.get(id).output == "Hello world"
