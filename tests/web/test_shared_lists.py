from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from oq.web.shared_lists import AGE_SECONDS, KEPT, KEPT_BYTES, ListAnswer, SharedLists

from .conftest import House


class Reader:
    """Reads a list that contains event `seen`; counts how often."""

    def __init__(self, seen: int = 5, body: bytes = b"[]") -> None:
        self.seen, self.body, self.count = seen, body, 0
        self.fails = False

    async def __call__(self) -> ListAnswer:
        at = trio.current_time()
        self.count += 1
        await trio.sleep(0.1)
        if self.fails:
            raise OSError
        return ListAnswer(self.seen, at, self.body, {})


async def test_who_asks_in_the_same_moment_gets_one_reading(autojump_clock: Any) -> None:
    lists, read = SharedLists(), Reader()
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(lists.answer, b"limit=40", 5, read)
    assert read.count == 1
    await lists.answer(b"limit=41", 5, read)
    assert read.count == 2


async def test_an_answer_without_the_event_asked_for_is_read_again(autojump_clock: Any) -> None:
    lists, read = SharedLists(), Reader(seen=5)
    await lists.answer(b"", 5, read)
    read.seen = 6
    assert (await lists.answer(b"", 6, read)).seen == 6
    assert (await lists.answer(b"", 5, read)).seen == 6
    assert read.count == 2


async def test_an_answer_is_used_for_a_second(autojump_clock: Any) -> None:
    lists, read = SharedLists(), Reader()
    await lists.answer(b"", 5, read)
    await trio.sleep(AGE_SECONDS - 0.2)
    await lists.answer(b"", 5, read)
    assert read.count == 1
    await trio.sleep(0.2)
    await lists.answer(b"", 5, read)
    assert read.count == 2


async def test_a_reading_that_fails_is_the_failure_of_each_and_leaves_nothing(autojump_clock: Any) -> None:
    lists, read = SharedLists(), Reader()
    read.fails = True
    failed: list[int] = []

    async def ask(number: int) -> None:
        try:
            await lists.answer(b"", 5, read)
        except OSError:
            failed.append(number)

    async with trio.open_nursery() as nursery:
        for number in range(3):
            nursery.start_soon(ask, number)
    assert sorted(failed) == [0, 1, 2]
    read.fails = False
    assert (await lists.answer(b"", 5, read)).seen == 5


async def test_what_is_kept_is_bounded(autojump_clock: Any) -> None:
    lists, read = SharedLists(), Reader()
    for number in range(KEPT + 1):
        await lists.answer(b"%d" % number, 5, read)
    await lists.answer(b"%d" % KEPT, 5, read)
    assert read.count == KEPT + 1
    await lists.answer(b"0", 5, read)
    assert read.count == KEPT + 2
    large = Reader(body=b"x" * (KEPT_BYTES + 1))
    for _ in range(2):
        await lists.answer(b"large", 5, large)
    assert large.count == 2


@pytest.mark.parametrize("named", [True, False])
async def test_a_list_of_a_moment_ago_is_given_to_who_names_an_event_it_contains(
    house: House, monkeypatch: pytest.MonkeyPatch, named: bool
) -> None:
    await house.queue.pause()
    await house.submit()
    await trio.testing.wait_all_tasks_blocked()
    found, real = [], house.queue.find

    async def find(query: Any) -> Any:
        found.append(query)
        return await real(query)

    monkeypatch.setattr(house.queue, "find", find)
    first = await house.client.get("/api/tasks?limit=5")
    event = {"X-Event-Id": first.headers["X-Event-Id"]} if named else {}
    answers = [await house.client.get("/api/tasks?limit=5", headers=event) for _ in range(3)]
    assert len(found) == (2 if named else 4)
    for answer in answers:
        assert await answer.get_json() == await first.get_json()
        assert answer.headers["X-Total-Count"] == "1"
    await house.submit()
    await trio.testing.wait_all_tasks_blocked()
    event = {"X-Event-Id": f"{house.queue.epoch}-{house.queue.last_event}"}
    assert len(await (await house.client.get("/api/tasks?limit=5", headers=event)).get_json()) == 2


@pytest.mark.parametrize("event", ["", "x", "-", "other-1", "-5", "other-" + "9" * 5000])
async def test_an_event_of_another_time_or_none_at_all_is_not_looked_at(house: House, event: str) -> None:
    await house.submit()
    for text in (event, event.replace("other", house.queue.epoch)):
        answer = await house.client.get("/api/tasks", headers={"X-Event-Id": text})
        assert answer.status_code == 200
