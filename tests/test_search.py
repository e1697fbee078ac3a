"""Search against what a naive search says, on a real store in memory."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from oq.catalog import Catalog
from oq.core.ids import format_id
from oq.core.messages import Step, Write
from oq.core.model import Status, TaskSpec, TaskState
from oq.engine import inline
from oq.errors import InvalidTask
from oq.ports import Query
from oq.search import READ_TASKS, Search
from oq.store import open_journal

FIRST = 1 << 60
WORDS = ["sky", "Skye", "sea", "Grüße", "海", "a\0b"]


class Shelf:
    """A store, its catalog and a search over both."""

    def __init__(self, budget: int = 10**6, seconds: float = 60, read: Any = None) -> None:
        self.journal, self.catalog = open_journal(), Catalog()
        self.reads: list[int] = []
        self.tasks: dict[int, tuple[TaskSpec, TaskState]] = {}
        self.next = FIRST + 1  # no key is ever given twice

        async def counted(function: Callable[..., Any], keys: Iterable[int]) -> Any:
            keys = list(keys)
            self.reads.append(len(keys))
            return await (read or inline)(function, keys)

        self.search = Search(self.catalog, self.journal, counted, budget=budget, seconds=seconds)

    def put(self, step: Step) -> None:
        self.journal.commit([step])
        self.catalog.apply(step)
        for write in step.writes:
            spec = write.spec or self.tasks[write.key][0]
            self.tasks[write.key] = (spec, write.state)
        for key in step.deletes:
            del self.tasks[key]

    def submit(self, *prompts: str, model: str = "m", first: int | None = None, **fields: Any) -> list[int]:
        first = self.next if first is None else first
        keys = list(range(first, first + len(prompts)))
        self.next = max(self.next, keys[-1] + 1)
        state = TaskState(Status.PENDING, fields.pop("priority", 5))
        writes = [
            Write(key, state, TaskSpec("generate", model, json.dumps({"prompt": prompt}).encode(), **fields))
            for key, prompt in zip(keys, prompts, strict=True)
        ]
        self.put(Step(tuple(writes)))
        return keys

    async def keys(self, text: str, **fields: Any) -> list[int]:
        found = await self.search.find(Query(text=text, **fields))
        assert found.complete
        return found.keys


def naive(shelf: Shelf, query: Query) -> list[int]:
    """All matches in order, in the plainest words."""
    assert query.text is not None
    wanted, found = query.text.casefold(), []
    for key, (spec, state) in shelf.tasks.items():
        text = (spec.model + "\n" + json.loads(spec.payload)["prompt"].replace("\0", " ")).casefold()
        name = format_id(key)
        named = len(wanted) >= 4 and (name.startswith(wanted) or name.endswith(wanted))
        if (
            ((wanted in text and "\0" not in wanted) or named)
            and (query.status is None or state.status in query.status)
            and (query.priority is None or state.priority in query.priority)
            and (query.tag is None or query.tag & set(spec.tags))
        ):
            found.append(key)
    sign = -1 if query.sort.startswith("-") else 1
    if query.sort.endswith("priority"):
        return sorted(found, key=lambda key: (sign * shelf.tasks[key][1].priority, key))
    return sorted(found, reverse=sign < 0)


QUERIES = st.builds(
    Query,
    text=st.sampled_from(["sky", "SKYE", "ü", "海", "model", "nothing", "\0", "a b", format_id(FIRST + 3), format_id(FIRST + 3)[-4:]]),
    status=st.none() | st.just(frozenset({Status.PENDING})),
    priority=st.none() | st.just(frozenset({5, 10})),
    tag=st.none() | st.just(frozenset({"x", "y"})),
    sort=st.sampled_from(["-created", "created", "-priority", "priority"]),
    limit=st.integers(0, 5),
    offset=st.integers(0, 3),
)  # fmt: skip
OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["submit", "submit", "cancel", "delete", "search"]),
        st.integers(0, 10),
        st.lists(st.sampled_from(WORDS), max_size=3),
        QUERIES,
    ),
    max_size=30,
)


@settings(max_examples=150, deadline=None)
@given(OPERATIONS, st.sampled_from([0, 100, 10**6]))
def test_a_search_says_what_a_naive_search_says(operations: list[Any], budget: int) -> None:
    async def play() -> None:
        shelf = Shelf(budget)
        for what, number, words, query in [
            *operations,
            ("search", 0, [], operations[0][3] if operations else Query(text="sky")),
        ]:
            known = sorted(shelf.tasks)
            if what == "submit":
                tags = ("x",) if number % 2 else ()
                shelf.submit(
                    *[" ".join(words)] * (number % 3 + 1),
                    model=f"model{number % 2}",
                    tags=tags,
                    priority=number,
                )
            elif known and what == "cancel":
                key = known[number % len(known)]
                shelf.put(Step((Write(key, replace(shelf.tasks[key][1], status=Status.CANCELLED)),)))
            elif known and what == "delete":
                shelf.put(Step(deletes=(known[number % len(known)],)))
            elif what == "search":
                wanted = naive(shelf, query)
                found = await shelf.search.find(query)
                assert found.complete
                assert (found.total, found.keys) == (
                    len(wanted), wanted[query.offset : query.offset + query.limit],
                )  # fmt: skip

    trio.run(play)


async def test_pages_by_cursor_and_by_offset_are_the_same(autojump_clock: Any) -> None:
    shelf = Shelf()
    for priority in (5, 10, 5, 1):
        shelf.submit("sky", "sea", "sky", priority=priority)
    for sort in ("-created", "created", "-priority", "priority"):
        whole = await shelf.keys("sky", sort=sort, limit=100)
        paged: list[int] = []
        while page := await shelf.keys("sky", sort=sort, limit=3, before=paged[-1] if paged else None):
            paged += page
        assert paged == whole == naive(shelf, Query(text="sky", sort=sort))


async def test_a_cursor_that_no_longer_matches_is_refused_where_the_order_depends_on_it() -> None:
    shelf = Shelf()
    (key,) = shelf.submit("sea")
    with pytest.raises(InvalidTask, match="start from the top"):
        await shelf.search.find(Query(text="sky", sort="priority", before=key))


async def test_matches_beyond_the_anchor_are_counted() -> None:
    shelf = Shelf()
    keys = shelf.submit("sky", "sky", "sea", "sky", "sky")
    found = await shelf.search.find(Query(text="sky", anchor=keys[1], before=keys[1] + 1))
    assert (found.total, found.newer, found.keys) == (4, 2, [keys[1], keys[0]])


async def test_a_repeated_search_and_its_pages_read_nothing() -> None:
    shelf = Shelf()
    shelf.submit(*["blue sky"] * 50)
    await shelf.keys("sky")
    shelf.reads.clear()
    assert len(await shelf.keys("sky", offset=10, limit=20)) == 20
    assert len(await shelf.keys("blue")) == 50
    assert shelf.reads == []


async def test_only_new_tasks_are_read_by_the_next_search() -> None:
    shelf = Shelf()
    shelf.submit(*["blue sky"] * 50)
    await shelf.keys("sky")
    shelf.reads.clear()
    (new,) = shelf.submit("grey sky")
    assert (await shelf.keys("sky"))[0] == new
    assert shelf.reads == [1]


async def test_a_repeated_search_follows_what_happened_meanwhile() -> None:
    shelf = Shelf()
    first, second = shelf.submit("sky", "sky")
    pending = {"status": frozenset({Status.PENDING})}
    assert await shelf.keys("sky", **pending) == [second, first]
    shelf.put(Step((Write(first, replace(shelf.tasks[first][1], status=Status.CANCELLED)),)))
    assert await shelf.keys("sky", **pending) == [second]
    (third,) = shelf.submit("sky")
    assert await shelf.keys("sky") == [third, second, first]
    shelf.put(Step(deletes=(second,)))
    assert await shelf.keys("sky") == [third, first]


async def test_what_memory_has_no_room_for_is_found_on_disk_and_remembered() -> None:
    shelf = Shelf(budget=20_000)
    old = shelf.submit(*["sky " + "x" * 100] * 3)
    shelf.submit(*["sea " + "x" * 100] * 2000)
    assert await shelf.keys("sky") == old[::-1]
    assert shelf.search.memory < 200_000  # the budget, and at most what is read in one go
    shelf.reads.clear()
    assert await shelf.keys("sky") == old[::-1]
    assert shelf.reads == []


async def test_a_search_answers_in_time_with_what_it_has_and_goes_on_next_time(autojump_clock: Any) -> None:
    async def slow(function: Callable[..., Any], *args: Any) -> Any:
        await trio.sleep(1)
        return function(*args)

    shelf = Shelf(seconds=2.5, read=slow)
    shelf.submit(*["sky"] * (5 * READ_TASKS))
    began = trio.current_time()
    found = await shelf.search.find(Query(text="sky"))
    assert (found.complete, found.total) == (False, 2 * READ_TASKS)
    assert trio.current_time() - began == pytest.approx(2.5)
    totals = [found.total]
    while not found.complete:
        found = await shelf.search.find(Query(text="sky"))
        totals.append(found.total)
    assert totals == sorted(totals)
    assert totals[-1] == 5 * READ_TASKS


async def test_a_patient_search_is_complete_however_long_it_takes(autojump_clock: Any) -> None:
    async def slow(function: Callable[..., Any], *args: Any) -> Any:
        await trio.sleep(1)
        return function(*args)

    shelf = Shelf(budget=0, seconds=0.5, read=slow)
    shelf.submit(*["sky"] * (3 * READ_TASKS))
    found = await shelf.search.find(Query(text="sky", limit=10**6), patient=True)
    assert (found.complete, len(found.keys)) == (True, 3 * READ_TASKS)


@pytest.mark.slow
async def test_others_get_their_turn_during_a_search() -> None:
    shelf = Shelf()
    for _ in range(5):
        shelf.submit(*["sky"] * 4000)
    await shelf.search.catch_up()
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(count)
        await trio.lowlevel.checkpoint()
        before = turns
        found = await shelf.search.find(Query(text="sky"))
        nursery.cancel_scope.cancel()
    assert found.total == 20_000
    assert turns - before > 5


async def test_texts_that_came_and_went_between_two_searches_are_not_missed() -> None:
    shelf = Shelf(budget=20_000)
    shelf.submit("sky")
    assert len(await shelf.keys("sky")) == 1
    (middle,) = shelf.submit("sky")
    for _ in range(3):  # the corpus moves on beyond them, and nobody asked for the sky meanwhile
        shelf.submit(*["sea " + "x" * 100] * 1000)
        await shelf.keys("sea", limit=1)
    assert middle in await shelf.keys("sky")
