"""What a monitor is told of the rows on its screen and of the task it has open, in process."""

from __future__ import annotations

import random
from itertools import pairwise
from typing import Any, cast
from unittest.mock import Mock

import pytest
import trio
import trio.testing

from oq.config import settings_from
from oq.core.ids import format_id
from oq.errors import BackendError
from oq.ports import BackendInfo
from oq.web.hub import COUNTS_TICKS, READ_MOST, TICK_SECONDS, TOLD_MOST, Hub, Viewer
from oq.web.live import Client

from .conftest import TASK, FakeBackend, House, open_house
from .test_live import receive

CHANGING = (
    "status", "priority", "revision", "retry_count", "run_at", "started_at", "completed_at", "host", "error",
    "error_code", "tokens", "output_start",
)  # fmt: skip


class Page:
    """A monitor's state, kept as docs/reference/websocket.md tells it to."""

    def __init__(self, house: House, connection: Any) -> None:
        self.house, self.connection = house, connection
        self.rows: dict[str, dict[str, Any]] = {}
        self.counts: dict[str, int] = {}
        self.total = self.seq = self.gaps = self.resyncs = 0

    async def open(self, count: int = 100) -> None:
        hello = await receive(self.connection, "hello")
        self.seq, self.counts, self.total = hello["seq"], dict(hello["counts"]), hello["total"]
        await self.read(count)

    async def read(self, count: int = 100) -> None:
        answer = await self.house.client.get(f"/api/tasks?limit={count}")
        self.rows = {row["id"]: row for row in await answer.get_json()}
        await self.watch(since=int(answer.headers["X-Event-Id"].rpartition("-")[2]))

    async def watch(self, task: str | None = None, since: int | None = None) -> None:
        message: dict[str, Any] = {"type": "watch", "ids": list(self.rows), "task": task}
        await self.connection.send_json(message if since is None else {**message, "since": since})

    async def apply(self, message: dict[str, Any]) -> None:
        if message["type"] == "resync":
            self.resyncs += 1
            self.seq = message["seq"]
            await self.read()
        if message["type"] != "delta":
            return
        if message["from"] != self.seq:
            self.gaps += 1
            await self.read()
        self.seq, self.total = message["seq"], message["total"]
        self.counts = message["counts"]
        for id, patch in message["tasks"].items():
            if patch is None:
                self.rows.pop(id, None)
            elif id in self.rows and patch.get("revision", 1 << 60) >= self.rows[id]["revision"]:
                merged = self.rows[id] | patch
                self.rows[id] = {name: value for name, value in merged.items() if value is not None}

    async def until(self, done: Any) -> None:
        with trio.fail_after(300):
            while not done():
                await self.apply(await self.connection.receive_json())


def plain(row: dict[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in CHANGING if name in row}


@pytest.mark.slow
async def test_rows_and_counts_end_equal_to_a_fresh_list_whatever_happened(autojump_clock: Any) -> None:
    chance = random.Random(7)
    backend = FakeBackend()
    async with open_house(settings_from(max_workers=3, max_completed_tasks=60), backend) as house:
        for _ in range(60):
            await house.submit()
        async with house.client.websocket("/ws") as first, house.client.websocket("/ws") as second:
            pages = [Page(house, first), Page(house, second)]
            for page in pages:
                await page.open()

            async def act() -> None:
                for _ in range(150):
                    id = chance.choice(list(pages[0].rows) or ["0"])
                    what = chance.choice(["cancel", "retry", "priority", "delete", "submit", "fail", "ok"])
                    backend.error = (
                        BackendError("no", "bad_request")
                        if what == "fail"
                        else None
                        if what == "ok"
                        else backend.error
                    )
                    if what == "submit":
                        await house.submit()
                    elif what == "priority":
                        await house.post(f"/api/tasks/{id}/priority", {"priority": chance.randrange(20)})
                    elif what == "delete":
                        await house.client.delete(f"/api/tasks/{id}")
                    elif what in ("cancel", "retry"):
                        await house.post(f"/api/tasks/{id}/{what}")
                    await trio.sleep(chance.random() / 5)
                backend.error = None

            over = False

            async def act_then_tell() -> None:
                nonlocal over
                await act()
                over = True

            async with trio.open_nursery() as nursery:
                nursery.start_soon(act_then_tell)
                for page in pages:

                    def done(page: Page = page) -> bool:
                        return over and page.seq == house.queue.last_event

                    nursery.start_soon(page.until, done)
            answer = await house.client.get("/api/tasks?limit=1000")
            fresh = {row["id"]: row for row in await answer.get_json()}
            stats = house.queue.stats()
            for page in pages:
                assert (page.gaps, page.resyncs) == (0, 0)
                assert {id: plain(row) for id, row in page.rows.items()} == {
                    id: plain(row) for id, row in fresh.items() if id in page.rows
                }
                assert page.counts["completed"] == stats.completed
                assert page.total == stats.total


async def test_what_happened_between_the_list_and_the_watch_is_told(
    house: House, autojump_clock: Any
) -> None:
    await house.queue.pause()
    id = await house.submit()
    async with house.client.websocket("/ws") as connection:
        page = Page(house, connection)
        await receive(connection, "hello")
        answer = await house.client.get("/api/tasks")
        await house.post(f"/api/tasks/{id}/cancel")
        await trio.sleep(2)  # told to all who watched it by then
        since = int(answer.headers["X-Event-Id"].rpartition("-")[2])
        page.rows = {id: (await answer.get_json())[0]}
        await page.watch(since=since)
        delta = await receive(connection, "delta")
        while not delta["tasks"]:
            delta = await receive(connection, "delta")
        assert delta["tasks"][id]["status"] == "cancelled"


async def test_an_open_task_that_is_gone_before_the_watch_is_told_as_gone_and_the_rows_are_watched(
    house: House, autojump_clock: Any
) -> None:
    await house.queue.pause()
    id, other = await house.submit(), await house.submit()
    async with house.client.websocket("/ws") as connection:
        page = Page(house, connection)
        await page.open()
        await house.post(f"/api/tasks/{id}/cancel")
        await house.client.delete(f"/api/tasks/{id}")
        await page.until(lambda: id not in page.rows)
        await page.watch(task=id)
        with trio.fail_after(10):
            while (await receive(connection, "delta"))["tasks"] != {id: None}:
                pass
        await house.post(f"/api/tasks/{other}/cancel")
        await page.until(lambda: page.rows[other]["status"] == "cancelled")


async def test_a_running_row_shows_its_tokens_and_a_completed_one_what_the_model_counted(
    house: House, autojump_clock: Any
) -> None:
    house.backend.close_gate()
    id = await house.submit()
    async with house.client.websocket("/ws") as connection:
        page = Page(house, connection)
        await page.open()
        await page.until(lambda: page.rows[id].get("tokens") == 1)
        assert page.rows[id]["status"] == "running"
        house.backend.gate.set()
        await page.until(lambda: page.rows[id]["status"] == "completed")
        assert (page.rows[id]["tokens"], page.rows[id]["output_start"]) == (2, "Hello")


async def test_a_row_that_runs_again_loses_what_its_last_run_left(house: House, autojump_clock: Any) -> None:
    id = await house.submit()
    await house.finished(id)
    async with house.client.websocket("/ws") as connection:
        page = Page(house, connection)
        await page.open()
        await house.queue.pause()
        await house.post(f"/api/tasks/{id}/retry")
        await page.until(lambda: page.rows[id]["status"] == "pending")
        assert {"tokens", "output_start", "host", "completed_at"}.isdisjoint(page.rows[id])


async def test_the_open_task_is_told_why_it_waits_and_its_place(house: House, autojump_clock: Any) -> None:
    await house.queue.pause()
    first, id = await house.submit(), await house.submit()
    async with house.client.websocket("/ws") as connection:
        page = Page(house, connection)
        await page.open()
        await page.watch(task=id)
        await page.until(lambda: "waiting" in page.rows[id])
        assert (page.rows[id]["queue_position"], page.rows[id]["waiting"]["reason"]) == (2, "paused")
        assert "waiting" not in page.rows[first]
        await house.post(f"/api/tasks/{first}/cancel")
        await page.until(lambda: page.rows[id]["queue_position"] == 1)
        await house.queue.resume()
        await page.until(lambda: page.rows[id]["status"] == "completed" and "waiting" not in page.rows[id])


async def test_facts_that_did_not_change_are_not_told_again(house: House, autojump_clock: Any) -> None:
    await house.queue.pause()
    id = await house.submit()
    async with house.client.websocket("/ws") as connection:
        await connection.send_json({"type": "watch", "ids": [id], "task": id})
        assert (await receive(connection, "delta"))["tasks"][id]["queue_position"] == 1
        later: list[dict[str, Any]] = []
        with trio.move_on_after(10) as scope:
            while True:
                later.append((await receive(connection, "delta"))["tasks"][id])
        assert scope.cancelled_caught
        assert later in (
            [],
            [{"status": "pending", "revision": 1}],
        )  # where it stands, once, unless it came with the facts


async def test_the_text_of_a_second_run_follows_that_of_the_first(house: House, autojump_clock: Any) -> None:
    id = await house.submit()
    await house.finished(id)
    async with house.client.websocket("/ws") as connection:
        await connection.send_json({"type": "watch", "ids": [], "task": id})
        first = await receive(connection, "tok")
        await house.post(f"/api/tasks/{id}/retry")
        second = await receive(connection, "tok")
        text = second["text"]
        while text != "Hello":
            text += (await receive(connection, "tok"))["text"]
    assert (first["attempt"], first["text"], second["attempt"], second["off"]) == (1, "Hello", 2, 0)


async def test_counts_alone_come_at_most_twice_a_second(house: House, autojump_clock: Any) -> None:
    await house.queue.pause()
    async with house.client.websocket("/ws") as connection:
        await receive(connection, "hello")
        times = []

        async def submit() -> None:
            for _ in range(40):
                await house.submit()
                await trio.sleep(TICK_SECONDS)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(submit)
            while len(times) < 5:
                await receive(connection, "delta")
                times.append(trio.current_time())
            nursery.cancel_scope.cancel()
        gaps = [later - earlier for earlier, later in pairwise(times)]
        assert min(gaps) >= (COUNTS_TICKS - 0.5) * TICK_SECONDS


async def test_a_client_that_reads_nothing_costs_its_window_and_the_newest_frames(
    autojump_clock: Any,
) -> None:
    """Its connection takes one frame and then no more; 300 rows change many times."""

    class Stuck:
        def __init__(self) -> None:
            self.sent: list[str] = []
            self.free = trio.Event()

        async def send(self, text: str) -> None:
            self.sent.append(text)
            await self.free.wait()

        async def receive(self) -> str:
            await trio.sleep_forever()
            raise AssertionError

    async with open_house() as house:
        await house.queue.pause()
        answer = await (await house.post("/api/tasks/batch", [TASK] * 300)).get_json()
        ids = [item["task_id"] for item in answer["items"]]
        stuck = Stuck()
        client = Client(house.app, stuck)
        keys = [house.queue.resolve(id) for id in ids[:50]]
        client._watched = frozenset(keys)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.run)
            for level in range(20):
                await house.queue.reprioritize_many([house.queue.resolve(id) for id in ids], level)
                await trio.sleep(1)
            assert len(stuck.sent) == 1
            assert set(client._patches) == set(keys)
            assert client._patches[keys[0]]["priority"] == 19  # type: ignore[index]
            assert set(client._frames) <= {"stat", "sys", "ping"}
            stuck.free.set()
            await trio.sleep(2)
            nursery.cancel_scope.cancel()
        assert any(f'"{format_id(keys[0])}"' in text and '"priority":19' in text for text in stuck.sent)


async def test_a_resync_is_followed_by_all_counts(autojump_clock: Any) -> None:
    async with open_house(settings_from(event_history=100)) as house:
        await house.queue.pause()
        async with house.client.websocket("/ws") as connection:
            await receive(connection, "hello")
            await house.post("/api/tasks/batch", [TASK] * 300)
            resync = await receive(connection, "resync")
            delta = await receive(connection, "delta")
            assert delta["from"] == resync["seq"]
            assert delta["counts"] == {
                "pending": 300, "scheduled": 0, "running": 0, "completed": 0, "failed": 0, "cancelled": 0,
            }  # fmt: skip


async def test_news_of_a_host_is_told_while_somebody_watches(autojump_clock: Any) -> None:
    class Ages(FakeBackend):
        version = "0.32.0"

        async def info(self) -> BackendInfo:
            await trio.lowlevel.checkpoint()
            return BackendInfo(up=True, version=self.version, models=("a",), loaded=("a",))

    backend = Ages()
    async with open_house(backend=backend) as house, house.client.websocket("/ws") as connection:
        first = await receive(connection, "sys")
        backend.version = "0.33.0"
        second = await receive(connection, "sys")
    assert [message["hosts"][0]["version"] for message in (first, second)] == ["0.32.0", "0.33.0"]
    assert second["hosts"][0]["loaded"] == ["a"]
    assert "available" not in second["hosts"][0]


async def test_a_host_that_is_down_says_why(autojump_clock: Any) -> None:
    backend = FakeBackend()
    backend.error = BackendError("connection refused", "unreachable", unreachable=True)

    async def no_probe() -> bool:
        await trio.lowlevel.checkpoint()
        return False

    backend.probe = no_probe  # type: ignore[method-assign]
    async with open_house(backend=backend) as house, house.client.websocket("/ws") as connection:
        await receive(connection, "hello")
        await house.submit()
        message = await receive(connection, "sys")
        while message["hosts"][0]["up"]:
            message = await receive(connection, "sys")
        assert message["hosts"][0]["error"] == "connection refused"


async def test_a_crowd_of_viewers_is_told_less_often_each(house: House) -> None:
    hub = Hub(house.queue)
    assert hub.pause() == TICK_SECONDS
    hub._viewers = set(range(1000))  # type: ignore[arg-type]
    pauses = [hub.pause() for _ in range(100)]
    assert 1000 / TOLD_MOST * 0.5 <= min(pauses) < max(pauses) <= 1000 / TOLD_MOST * 1.5


async def test_a_crowd_of_pages_is_told_to_read_its_lists_less_often(
    house: House, autojump_clock: Any
) -> None:
    hub = house.app.hub
    async with house.client.websocket("/ws") as connection:
        assert (await receive(connection, "hello"))["list_seconds"] == 1
        crowd = [cast(Viewer, Mock(task=None, sees=lambda key: False)) for _ in range(2 * READ_MOST - 1)]
        for viewer in crowd:
            hub.add(viewer)
        assert (await receive(connection, "ping"))["list_seconds"] == 2
        for viewer in crowd:
            hub.remove(viewer)
        assert (await receive(connection, "ping"))["list_seconds"] == 1


async def test_what_happened_to_a_task_between_its_reading_and_its_watch_is_told(
    house: House, autojump_clock: Any
) -> None:
    id = await house.submit()
    await house.finished(id)
    async with house.client.websocket("/ws") as connection:
        page = Page(house, connection)
        await page.open(count=0)
        read = await (await house.client.get(f"/api/tasks/{id}?view=summary")).get_json()
        await house.queue.pause()
        await house.post(f"/api/tasks/{id}/retry")
        with trio.fail_after(60):
            while page.seq < house.queue.last_event:  # so that the change is no news any more
                await page.apply(await connection.receive_json())
            await page.watch(task=id)
            patch: dict[str, Any] = {}
            while patch.get("revision", 0) <= read["revision"]:
                message = await receive(connection, "delta")
                patch = message["tasks"].get(id, {})
        assert patch["status"] == "pending"
