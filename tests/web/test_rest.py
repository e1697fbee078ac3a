"""The REST API, in process, with a real queue."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
import trio.testing

from oq.config import settings_from
from oq.errors import BackendError
from oq.web.rest import GROUP

from .conftest import TASK, FakeBackend, House, open_house


async def test_a_submitted_task_is_answered_with_its_id_and_place(house: House) -> None:
    answer = await house.post("/api/tasks", TASK)
    said = await answer.get_json()
    assert (answer.status_code, said["status"]) == (201, "pending")
    assert answer.headers["Location"] == f"/api/tasks/{said['task_id']}"
    assert (await house.client.get(answer.headers["Location"])).status_code == 200


async def test_a_delayed_task_is_scheduled(house: House) -> None:
    answer = await house.post("/api/tasks", {**TASK, "delay": "1h"})
    assert (await answer.get_json())["status"] == "scheduled"
    task = await (await house.client.get(answer.headers["Location"])).get_json()
    assert (task["status"], "run_at" in task) == ("scheduled", True)


async def test_the_result_is_awaited_by_a_long_poll(house: House, autojump_clock: Any) -> None:
    house.backend.close_gate()
    id = await house.submit()
    answer = await house.client.get(f"/api/tasks/{id}/result?wait=2")
    assert answer.status_code == 202
    house.backend.gate.set()
    done = await house.finished(id)
    assert (done["status"], done["output"], done["result"]["done"]) == ("completed", "Hello", True)


async def test_a_long_poll_ends_at_once_when_the_server_stops(house: House, autojump_clock: Any) -> None:
    house.backend.close_gate()
    id = await house.submit()
    began = trio.current_time()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def stop() -> None:
            await trio.sleep(1)
            house.app.stopping.set()

        assert (await house.client.get(f"/api/tasks/{id}/result?wait=300")).status_code == 202
    assert trio.current_time() - began < 2


async def test_a_waiting_task_tells_its_place(house: House) -> None:
    await house.queue.pause()
    await house.submit()
    id = await house.submit()
    task = await (await house.client.get(f"/api/tasks/{id}")).get_json()
    assert task["queue_position"] == 2


async def test_a_delayed_task_sent_again_with_its_key_is_the_same_task(
    autojump_clock: Any, house: House
) -> None:
    body = {**TASK, "delay": "5m", "idempotency_key": "later"}
    first = await house.post("/api/tasks", body)
    await trio.sleep(9)
    again = await house.post("/api/tasks", body)
    assert first.status_code == again.status_code == 201
    assert (await first.get_json())["task_id"] == (await again.get_json())["task_id"]


async def test_the_same_key_and_body_are_the_same_task_and_another_body_is_a_conflict(house: House) -> None:
    first = await house.post("/api/tasks", TASK, Idempotency_Key="k")
    again = await house.post("/api/tasks", TASK, Idempotency_Key="k")
    other = await house.post("/api/tasks", {**TASK, "model": "x"}, Idempotency_Key="k")
    assert await first.get_json() == {**await again.get_json(), "status": "pending"}
    assert (other.status_code, (await other.get_json())["code"]) == (409, "idempotency_conflict")


async def test_a_batch_tells_of_each_item(house: House) -> None:
    answer = await house.post("/api/tasks/batch", [TASK, {"type": "x"}, TASK])
    said = await answer.get_json()
    assert (answer.status_code, said["submitted"], said["failed"]) == (200, 2, 1)
    assert said["items"][1] == {
        "index": 1,
        "error": "model is missing",
        "code": "invalid_task",
        "field": "model",
    }
    assert {"index", "task_id"} == set(said["items"][2])


async def test_an_atomic_batch_with_a_wrong_item_takes_none(house: House) -> None:
    answer = await house.post("/api/tasks/batch?atomic=true", [TASK, {"type": "x"}])
    said = await answer.get_json()
    assert (answer.status_code, said["submitted"], said["failed"]) == (422, 0, 1)
    assert house.queue.stats().total == 0


async def test_lines_are_taken_as_they_come(house: House) -> None:
    line = json.dumps(TASK).encode() + b"\n"
    connection = house.client.request(
        "/api/tasks/batch", method="POST", headers={"Content-Type": "application/x-ndjson"}
    )
    async with connection:
        for _ in range(4):
            await connection.send(line * (GROUP // 4))
            await trio.testing.wait_all_tasks_blocked()
        assert house.queue.stats().total == GROUP
        await connection.send(b'{"type":\n' + line.strip())
        await connection.send_complete()
    answer = await connection.as_response()
    said = await answer.get_json()
    assert (answer.status_code, said["submitted"], said["failed"]) == (200, GROUP + 1, 1)
    assert said["items"][GROUP]["code"] == "not_json"


async def test_what_was_taken_before_a_limit_is_told(autojump_clock: Any) -> None:
    async with open_house(settings_from(max_batch=GROUP + 10)) as house:
        lines = (json.dumps(TASK).encode() + b"\n") * GROUP
        connection = house.client.request(
            "/api/tasks/batch", method="POST", headers={"Content-Type": "application/x-ndjson"}
        )
        async with connection:
            await connection.send(lines)
            await trio.testing.wait_all_tasks_blocked()
            await connection.send(lines)
            await connection.send_complete()
        answer = await connection.as_response()
        said = await answer.get_json()
        assert (answer.status_code, said["code"], said["submitted"]) == (413, "too_large", GROUP)
        assert house.queue.stats().total == GROUP


async def test_a_list_is_an_array_with_its_total_and_a_link_to_the_next_page(house: House) -> None:
    ids = [await house.submit(model=f"m{n}", tags=["a"]) for n in range(3)]
    answer = await house.client.get("/api/tasks?limit=2&tag=a")
    page = await answer.get_json()
    assert [task["id"] for task in page] == [ids[2], ids[1]]
    assert answer.headers["X-Total-Count"] == "3"
    following = answer.headers["Link"].partition("<")[2].partition(">")[0]
    rest = await house.client.get(following)
    assert [task["id"] for task in await rest.get_json()] == [ids[0]]
    assert "Link" not in rest.headers


async def test_filters_are_obeyed(house: House) -> None:
    id = await house.submit(model="other", priority="high")
    await house.submit()
    for query in ("model=other", "priority=high", "priority=10", "q=othe", f"q={id[-6:]}"):
        page = await (await house.client.get(f"/api/tasks?{query}")).get_json()
        assert [task["id"] for task in page] == [id], query


async def test_a_running_task_is_cancelled_for_good(house: House) -> None:
    house.backend.close_gate()
    id = await house.submit()
    await trio.testing.wait_all_tasks_blocked()
    answer = await house.post(f"/api/tasks/{id}/cancel")
    assert answer.status_code == 200
    assert (await house.finished(id))["status"] == "cancelled"
    again = await house.post(f"/api/tasks/{id}/cancel")
    assert (again.status_code, (await again.get_json())["code"]) == (409, "conflict")


async def test_a_waiting_tasks_priority_changes_and_a_finished_ones_does_not(house: House) -> None:
    await house.queue.pause()
    id = await house.submit()
    answer = await house.post(f"/api/tasks/{id}/priority", {"priority": "critical"})
    assert (await answer.get_json())["priority"] == 15
    await house.queue.resume()
    await house.finished(id)
    assert (await house.post(f"/api/tasks/{id}/priority", {"priority": 1})).status_code == 409
    assert (await house.post(f"/api/tasks/{id}/priority", {"priority": 5000})).status_code == 422


async def test_a_failed_task_can_be_retried_and_deleted(autojump_clock: Any) -> None:
    backend = FakeBackend()
    backend.error = BackendError("no such model", "model_not_found")
    async with open_house(backend=backend) as house:
        id = await house.submit()
        failed = await house.finished(id)
        assert (failed["status"], failed["error_code"], "no such model" in failed["error"]) == (
            "failed", "model_not_found", True,
        )  # fmt: skip
        backend.error = None
        assert (await house.post(f"/api/tasks/{id}/retry")).status_code == 200
        assert (await house.finished(id))["status"] == "completed"
        assert (await house.client.delete(f"/api/tasks/{id}")).status_code == 200
        assert (await house.client.get(f"/api/tasks/{id}")).status_code == 404


async def test_a_bulk_request_acts_on_all_that_match(house: House) -> None:
    await house.queue.pause()
    for n in range(4):
        await house.submit(model=f"m{n % 2}")
    answer = await house.post("/api/tasks/bulk", {"action": "cancel", "filter": {"model": "m1"}, "expect": 2})
    assert await answer.get_json() == {"matched": 2, "done": 2, "skipped": 0, "errors": []}
    assert house.queue.stats().cancelled == 2


async def test_a_bulk_request_that_matches_another_number_does_nothing(house: House) -> None:
    await house.queue.pause()
    await house.submit()
    answer = await house.post("/api/tasks/bulk", {"action": "cancel", "filter": {}, "expect": 2})
    assert answer.status_code == 409
    assert house.queue.stats().cancelled == 0


async def test_a_bulk_request_tells_what_it_skipped(house: House) -> None:
    id = await house.submit()
    await house.finished(id)
    answer = await house.post("/api/tasks/bulk", {"action": "cancel", "ids": [id, "nope-"]})
    said = await answer.get_json()
    assert (said["matched"], said["done"], said["skipped"]) == (1, 0, 2)
    assert {error["code"] for error in said["errors"]} == {"conflict", "not_found"}


async def test_a_bulk_request_searches_text_too(house: House) -> None:
    await house.queue.pause()
    await house.submit(payload={"messages": [{"role": "user", "content": "find me"}]})
    await house.submit()
    answer = await house.post(
        "/api/tasks/bulk", {"action": "priority", "filter": {"q": "find"}, "priority": "high"}
    )
    assert (await answer.get_json())["done"] == 1


async def test_the_status_has_the_originals_fields(house: House) -> None:
    await house.queue.pause()
    await house.submit(priority=10)
    said = await (await house.client.get("/api/status")).get_json()
    assert {
        "pending_tasks", "running_tasks", "completed_tasks", "failed_tasks", "cancelled_tasks", "total_tasks",
        "queues_by_priority", "workers_active", "workers_idle",
    } <= set(said)  # fmt: skip
    assert (said["pending_tasks"], said["queues_by_priority"], said["paused"]) == (1, {"10": 1}, True)


async def test_pause_and_resume(house: House, autojump_clock: Any) -> None:
    assert await (await house.post("/api/queue/pause")).get_json() == {"paused": True}
    id = await house.submit()
    assert (await house.client.get(f"/api/tasks/{id}/result?wait=5")).status_code == 202
    await house.post("/api/queue/resume")
    assert (await house.finished(id))["status"] == "completed"


async def test_a_draining_queue_takes_nothing_and_says_when_to_come_back(house: House) -> None:
    assert (await house.post("/api/queue/drain?grace=1s")).status_code == 200
    answer = await house.post("/api/tasks", TASK)
    assert (answer.status_code, (await answer.get_json())["code"]) == (503, "queue_closed")
    assert int(answer.headers["Retry-After"]) >= 1
    assert (await house.client.get("/health")).status_code == 503


async def test_a_full_queue_is_429(autojump_clock: Any) -> None:
    async with open_house(settings_from(max_pending=1)) as house:
        await house.queue.pause()
        await house.submit()
        answer = await house.post("/api/tasks", TASK)
        assert (answer.status_code, (await answer.get_json())["code"]) == (429, "queue_full")
        assert "Retry-After" in answer.headers


@pytest.mark.parametrize("kind", ["application/json", "application/x-ndjson"])
async def test_a_batch_that_a_full_queue_takes_in_part_says_when_to_come_back(
    autojump_clock: Any, kind: str
) -> None:
    async with open_house(settings_from(max_pending=1)) as house:
        await house.queue.pause()
        line = json.dumps(TASK).encode()
        body = b"[%b,%b]" % (line, line) if kind == "application/json" else b"%b\n%b" % (line, line)
        answer = await house.post("/api/tasks/batch", body, Content_Type=kind)
        found = await answer.get_json()
        assert (answer.status_code, found["submitted"], found["items"][1]["code"]) == (200, 1, "queue_full")
        assert int(answer.headers["Retry-After"]) >= 1


async def test_hosts_tell_what_they_are(house: House) -> None:
    (host,) = await (await house.client.get("/api/hosts")).get_json()
    assert (host["name"], host["up"], host["version"], host["available"]) == (
        "default",
        True,
        "0.32.0",
        ["llama3.2"],
    )


async def test_health_and_metrics(house: House) -> None:
    await house.finished(await house.submit())
    health = await house.client.get("/health")
    assert (health.status_code, (await health.get_json())["ready"]) == (200, True)
    metrics = await house.client.get("/metrics")
    text = (await metrics.get_data()).decode()
    assert metrics.content_type.startswith("text/plain; version=0.0.4")
    assert 'oq_tasks{status="completed"} 1.0' in text
    assert "oq_tasks_finished_total 1.0" in text


async def test_the_root_is_a_line_of_text_for_who_does_not_ask_for_html(house: House) -> None:
    answer = await house.client.get("/")
    assert (answer.status_code, answer.content_type) == (200, "text/plain; charset=utf-8")
    assert await answer.get_data() == b"Ollama is running"


@pytest.mark.parametrize(
    "path",
    [
        "/static/../setup.cfg",
        "/static/%2e%2e/setup.cfg",
        "/static/.git",
        "/static/x.py",
        "/static//",
        "/static/a%00",
    ],
)
async def test_only_the_monitors_files_are_served(house: House, path: str) -> None:
    assert (await house.client.get(path)).status_code == 404
