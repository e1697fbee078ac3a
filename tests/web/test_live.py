"""Text, events and the WebSocket, in process."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio
import trio.testing

from oq.config import settings_from
from oq.web.bodies import HEARTBEAT_SECONDS
from oq.web.live import WATCHED_MAX
from oq.web.series import FIELDS

from .conftest import TASK, FakeBackend, House, open_house, reading


async def read_until(connection: Any, wanted: bytes) -> bytes:
    found = b""
    with trio.fail_after(120):
        while wanted not in found:
            found += await connection.receive()
    return found


def sse_events(text: bytes) -> list[dict[str, str]]:
    found = []
    for block in text.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        if "data" in fields:
            found.append(fields)
    return found


# --- text
async def test_a_reader_gets_the_text_so_far_and_then_the_rest(house: House, autojump_clock: Any) -> None:
    house.backend.close_gate()
    id = await house.submit()
    async with reading(house, f"/api/tasks/{id}/stream") as connection:
        first = await read_until(connection, b"Hel")
        assert json.loads(first.strip().splitlines()[0]) == {
            "type": "text", "kind": "content", "attempt": 1, "offset": 0, "text": "Hel",
        }  # fmt: skip
        house.backend.gate.set()
        rest = await read_until(connection, b'"end"')
    lines = [json.loads(line) for line in rest.splitlines() if line]
    assert (lines[0]["offset"], lines[0]["text"]) == (3, "lo")
    assert lines[-1]["task"]["status"] == "completed"


async def test_a_reader_may_begin_anywhere_in_the_text(house: House) -> None:
    id = await house.submit()
    await house.finished(id)
    answer = await house.client.get(f"/api/tasks/{id}/stream?offset=4")
    first, last = [json.loads(line) for line in (await answer.get_data()).splitlines()]
    assert (first["offset"], first["text"], last["type"]) == (4, "o", "end")


async def test_text_comes_as_server_sent_events_when_asked(house: House) -> None:
    id = await house.submit()
    await house.finished(id)
    answer = await house.client.get(f"/api/tasks/{id}/stream", headers={"Accept": "text/event-stream"})
    assert answer.content_type == "text/event-stream"
    events = sse_events(await answer.get_data())
    assert [event["event"] for event in events] == ["text", "end"]


async def test_a_silent_stream_has_a_heartbeat(house: House, autojump_clock: Any) -> None:
    house.backend.close_gate()
    id = await house.submit()
    began = trio.current_time()
    async with reading(house, f"/api/tasks/{id}/stream") as connection:
        await read_until(connection, b"Hel")
        assert await connection.receive() == b"\n"
        assert trio.current_time() - began == pytest.approx(HEARTBEAT_SECONDS, abs=1)


async def test_streams_end_when_the_server_stops(house: House, autojump_clock: Any) -> None:
    house.backend.close_gate()
    id = await house.submit()
    for path in (f"/api/tasks/{id}/stream", "/api/events"):
        house.app.stopping = trio.Event()
        async with reading(house, path) as connection:
            await connection.receive()
            house.app.stopping.set()
        assert connection.status_code == 200


# --- events
async def test_events_are_told_as_they_happen(house: House, autojump_clock: Any) -> None:
    async with reading(house, "/api/events?type=task_submitted,task_completed") as connection:
        await read_until(connection, b"retry")
        id = await house.submit()
        text = await read_until(connection, b"task_completed")
    events = sse_events(text)
    assert [event["event"] for event in events] == ["task_submitted", "task_completed"]
    said = json.loads(events[-1]["data"])
    assert (said["task_id"], said["status"]) == (id, "completed")


async def test_events_that_happen_together_are_sent_together(house: House, autojump_clock: Any) -> None:
    async with reading(house, "/api/events?type=task_submitted,queue_paused") as connection:
        await read_until(connection, b"retry")
        await house.post("/api/tasks/batch", [TASK] * 100)
        await house.post("/api/queue/pause")
        pieces = []
        while b"queue_paused" not in b"".join(pieces):
            pieces.append(await connection.receive())
    numbers = [json.loads(event["data"])["seq"] for event in sse_events(b"".join(pieces))]
    assert len(numbers) == 101
    assert numbers == sorted(numbers)
    assert len(pieces) <= 3


async def test_a_reader_goes_on_where_it_broke_off(house: House, autojump_clock: Any) -> None:
    async with reading(house, "/api/events") as connection:
        id = await house.submit()
        text = await read_until(connection, b"task_submitted")
    last = sse_events(text)[-1]["id"] if sse_events(text) else ""
    await house.finished(id)
    async with reading(house, "/api/events", Last_Event_ID=last) as connection:
        rest = await read_until(connection, b"task_completed")
    numbers = [json.loads(event["data"])["seq"] for event in sse_events(text) + sse_events(rest)]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


@pytest.mark.parametrize("last", ["other-3", "nonsense", "99999", "-"])
async def test_a_reader_of_another_time_is_told_to_read_again(
    house: House, autojump_clock: Any, last: str
) -> None:
    async with reading(house, "/api/events", Last_Event_ID=last) as connection:
        (event,) = sse_events(await read_until(connection, b"resync"))
        assert json.loads(event["data"])["epoch"] == house.queue.epoch
        await house.submit()
        await read_until(connection, b"task_submitted")


async def test_too_many_subscribers_are_refused_with_a_status(autojump_clock: Any) -> None:
    async with open_house(settings_from(max_subscribers=1)) as house:
        async with reading(house, "/api/events") as connection:
            await read_until(connection, b"retry")
            answer = await house.client.get("/api/events")
            assert (answer.status_code, (await answer.get_json())["code"]) == (429, "too_many")
            async with house.client.websocket("/ws") as other:
                assert (await other.receive_json())["type"] == "bye"
        await trio.testing.wait_all_tasks_blocked()
        assert house.queue.stats().subscribers == 0


# --- the WebSocket
async def receive(connection: Any, kind: str) -> dict[str, Any]:
    with trio.fail_after(60):
        while True:
            message: dict[str, Any] = await connection.receive_json()
            if message["type"] == kind:
                return message


async def test_a_client_is_greeted_with_the_state(house: House, autojump_clock: Any) -> None:
    await house.finished(await house.submit())
    async with house.client.websocket("/ws") as connection:
        hello = await connection.receive_json()
        assert (hello["type"], hello["epoch"], hello["total"]) == ("hello", house.queue.epoch, 1)
        assert hello["counts"]["completed"] == 1
        assert hello["sys"]["hosts"][0]["name"] == "default"
        assert (hello["series"]["window"], hello["series"]["step"]) == ("5m", 1)
        assert {len(hello["series"][name]) for name in FIELDS} == {1}


async def test_changes_of_watched_rows_and_all_counts_are_told(house: House, autojump_clock: Any) -> None:
    await house.queue.pause()
    seen, unseen = await house.submit(), await house.submit()
    async with house.client.websocket("/ws") as connection:
        hello = await connection.receive_json()
        await connection.send_json({"type": "watch", "ids": [seen], "task": None})
        await trio.testing.wait_all_tasks_blocked()
        await house.queue.resume()
        seq, tasks, counts = hello["seq"], {}, dict(hello["counts"])
        while counts["completed"] < 2:
            delta = await receive(connection, "delta")
            assert delta["from"] == seq, "no gap"
            seq = delta["seq"]
            tasks |= delta["tasks"]
            counts = delta["counts"]
            assert set(counts) == set(hello["counts"]), "always all of them"
    assert set(tasks) == {seen} != {unseen}
    assert tasks[seen]["status"] == "completed"
    assert seq == house.queue.last_event


async def test_a_delta_after_another_brings_all_counts_again(house: House, autojump_clock: Any) -> None:
    await house.queue.pause()
    async with house.client.websocket("/ws") as connection:
        hello = await connection.receive_json()
        for waiting in (1, 2, 3):
            await house.submit()
            delta = await receive(connection, "delta")
            assert delta["counts"] == {**hello["counts"], "pending": waiting}
            assert delta["total"] == waiting


async def test_the_text_of_the_open_task_is_told(house: House, autojump_clock: Any) -> None:
    house.backend.close_gate()
    id = await house.submit()
    async with house.client.websocket("/ws") as connection:
        await connection.send_json({"type": "watch", "ids": [], "task": id})
        first = await receive(connection, "tok")
        house.backend.gate.set()
        second = await receive(connection, "tok")
    assert [(m["off"], m["text"]) for m in (first, second)] == [(0, "Hel"), (3, "lo")]
    assert first["id"] == id


async def test_a_task_that_is_open_before_it_starts_is_told_its_text_once_and_that_of_its_next_run(
    house: House, autojump_clock: Any
) -> None:
    await house.queue.pause()
    id = await house.submit()
    texts: list[tuple[int, int, str]] = []
    async with house.client.websocket("/ws") as connection:
        await connection.send_json({"type": "watch", "ids": [id], "task": id})
        await house.queue.resume()
        for run in (1, 2):
            ended = False
            while True:
                message = await connection.receive_json()
                if message["type"] == "tok":
                    texts.append((message["attempt"], message["off"], message["text"]))
                elif message["type"] == "delta":
                    ended = ended or message["tasks"].get(id, {}).get("status") == "completed"
                elif ended and message["type"] == "ping":  # some seconds after the end
                    break
            if run == 1:
                await house.queue.retry(id)
    assert "".join(text for _, _, text in texts) == "HelloHello"
    assert [attempt for attempt, off, _ in texts if off == 0] == [1, 2]


async def test_a_deleted_row_is_null(house: House, autojump_clock: Any) -> None:
    id = await house.submit()
    await house.finished(id)
    async with house.client.websocket("/ws") as connection:
        await connection.send_json({"type": "watch", "ids": [id], "task": None})
        await receive(connection, "hello")
        await trio.testing.wait_all_tasks_blocked()
        await house.client.delete(f"/api/tasks/{id}")
        tasks: dict[str, Any] = {}
        while id not in tasks:
            tasks |= (await receive(connection, "delta"))["tasks"]
        assert tasks[id] is None


async def test_a_client_has_a_beat_every_second_and_a_ping_every_five(
    house: House, autojump_clock: Any
) -> None:
    async with house.client.websocket("/ws") as connection:
        for kind, seconds in (("stat", 1), ("ping", 5)):
            await receive(connection, kind)
            began = trio.current_time()
            await receive(connection, kind)
            assert trio.current_time() - began == pytest.approx(seconds, abs=0.2)


async def test_a_client_that_falls_behind_is_told_to_read_again(autojump_clock: Any) -> None:
    async with open_house(settings_from(event_history=100)) as house:
        await house.queue.pause()
        async with house.client.websocket("/ws") as connection:
            hello = await connection.receive_json()
            await house.post("/api/tasks/batch", [TASK] * 300)
            resync = await receive(connection, "resync")
            assert resync["seq"] > hello["seq"]
            await house.submit()
            delta = await receive(connection, "delta")
            while delta["seq"] < house.queue.last_event:
                delta = await receive(connection, "delta")


@pytest.mark.parametrize(
    "message",
    ["", "{", "[]", '{"type":"look"}', '{"type":"watch","ids":5}', '{"type":"watch","ids":[],"task":"nope"}'],
)
async def test_a_wrong_message_gets_an_error_and_the_connection_lives(
    house: House, autojump_clock: Any, message: str
) -> None:
    async with house.client.websocket("/ws") as connection:
        await connection.send(message or " ")
        assert (await receive(connection, "error"))["error"]
        assert (await receive(connection, "stat"))["running"] == 0


async def test_a_message_with_too_many_rows_is_refused(house: House, autojump_clock: Any) -> None:
    async with house.client.websocket("/ws") as connection:
        await connection.send_json({"type": "watch", "ids": ["0" * 13] * (WATCHED_MAX + 1), "task": None})
        assert str(WATCHED_MAX) in (await receive(connection, "error"))["error"]


async def test_a_stopping_server_says_goodbye(house: House, autojump_clock: Any) -> None:
    async with house.client.websocket("/ws") as connection:
        await receive(connection, "hello")
        house.app.stopping.set()
        assert "stopping" in (await receive(connection, "bye"))["reason"]


async def test_another_attempt_voids_the_text_of_the_first(autojump_clock: Any) -> None:
    from oq.errors import BackendError
    from oq.ports import Piece

    class Breaks(FakeBackend):
        async def run(self, spec: Any) -> Any:
            if not self.seen:
                self.seen.append(spec)
                yield Piece("wrong")
                await self.gate.wait()
                raise BackendError("the runner stopped", "runner_stopped", retryable=True)
            async for item in super().run(spec):
                yield item

    backend = Breaks()
    backend.close_gate()
    async with open_house(backend=backend) as house:
        id = await house.submit()
        async with reading(house, f"/api/tasks/{id}/stream") as connection:
            text = await read_until(connection, b"wrong")
            backend.gate.set()
            text += await read_until(connection, b'"end"')
    kinds = [json.loads(line) for line in text.splitlines() if line]
    assert [(item["type"], item.get("text", "")) for item in kinds[:3]] == [
        ("text", "wrong"), ("restart", ""), ("text", "Hello"),
    ] or [item["type"] for item in kinds] == ["text", "restart", "text", "text", "end"]  # fmt: skip
    assert "".join(item["text"] for item in kinds[2:-1]) == "Hello"
