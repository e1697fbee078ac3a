"""The waiting tasks by priority and affinity, against a plain model."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oq.core import lanes
from oq.core.embedding import entry_of
from oq.core.lanes import Lanes
from oq.core.model import Entry, Status, TaskState

from .world import spec


@pytest.fixture(autouse=True, scope="module")
def _heaps_are_made_anew_at_once() -> Iterator[None]:
    before, lanes.SLACK = lanes.SLACK, 0
    yield
    lanes.SLACK = before


moves = st.tuples(
    st.integers(0, 4), st.sampled_from(["leave", "come", "move"]), st.sampled_from([1, 5, 5, 5])
)


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(st.lists(moves, max_size=100))
def test_the_oldest_of_each_priority_and_affinity_is_always_known(
    steps: list[tuple[int, str, int]],
) -> None:
    entries: dict[int, Entry] = {}
    waiting = Lanes(entries)

    def enter(key: int, priority: int) -> None:
        entries[key] = entry_of(key, spec("abc"[key % 3]), TaskState(Status.PENDING, priority))
        waiting.add(entries[key])

    def leave(key: int) -> None:
        waiting.discard(entries[key])
        entry = entries[key]
        entry.state = msgspec.structs.replace(entry.state, status=Status.RUNNING)

    def waits(key: int) -> bool:
        return key in entries and entries[key].state.status is Status.PENDING

    for key, move, priority in steps:
        if waits(key) and move != "come":
            leave(key)
        if not waits(key) and move != "leave":
            enter(key, priority)
        model: dict[int, dict[str, list[int]]] = {}
        for other in filter(waits, range(5)):
            lanes = model.setdefault(entries[other].state.priority, {})
            lanes.setdefault(entries[other].affinity, []).append(other)
        assert waiting.count == sum(len(keys) for lanes in model.values() for keys in lanes.values())
        levels = waiting.levels()
        assert len(levels) == len(model)
        for level, found in zip(levels, sorted(model, reverse=True), strict=True):
            for name in "abc":
                assert level.oldest_of(name) == min(model[found].get(name, []), default=None)
            oldest = min(min(keys) for keys in model[found].values())
            assert level.oldest() == (oldest, entries[oldest].affinity)
