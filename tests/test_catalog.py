from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oq.catalog import Catalog
from oq.core.embedding import entry_of
from oq.core.ids import format_id
from oq.core.messages import Step, Write
from oq.core.model import (  # fmt: skip
    FINISHED,
    FinishedHead,
    Recovered,
    Status,
    TaskSpec,
    TaskState,
    TaskType,
)
from oq.errors import InvalidTask, TaskConflict, TaskNotFound
from oq.ports import Query

Stored = dict[int, tuple[TaskSpec, TaskState]]
FIRST = 1 << 60


def spec(type: TaskType = "generate", model: str = "m", tags: tuple[str, ...] = ()) -> TaskSpec:
    return TaskSpec(type, model, b"{}", tags=tags)


def catalog_of(stored: Stored) -> Catalog:
    catalog = Catalog()
    catalog.apply(Step(tuple(Write(key, state, spec) for key, (spec, state) in stored.items())))
    return catalog


def naive_find(stored: Stored, query: Query) -> tuple[int, list[int]]:
    """What `Catalog.find` must say, in the plainest words."""
    keys = [
        key
        for key, (spec, state) in stored.items()
        if (query.status is None or state.status in query.status)
        and (query.priority is None or state.priority in query.priority)
        and (query.type is None or spec.type in query.type)
        and (query.model is None or spec.model in query.model)
        and (query.host is None or state.host in query.host)
        and (query.tag is None or query.tag & set(spec.tags))
    ]

    def place(key: int) -> tuple[int, int]:
        priority = stored[key][1].priority
        return {
            "created": (0, key), "-created": (0, -key),
            "priority": (priority, key), "-priority": (-priority, key),
        }[query.sort]  # fmt: skip

    keys.sort(key=place)
    total = len(keys)
    if query.before is not None:
        keys = [key for key in keys if place(key) > place(query.before)]
    return total, keys[query.offset : query.offset + query.limit]


KEYS = st.integers(FIRST, FIRST + 30)
STATES = st.builds(
    TaskState,
    status=st.sampled_from(Status),
    priority=st.sampled_from([0, 1, 5]),
    host=st.sampled_from([None, "a", "b"]),
)
SPECS = st.builds(
    spec,
    type=st.sampled_from(["chat", "generate"]),
    model=st.sampled_from(["m", "n"]),
    tags=st.sampled_from([(), ("x",), ("x", "y"), ("y",)]),
)
OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), KEYS, SPECS, STATES),
        st.tuples(st.just("delete"), KEYS, SPECS, STATES),
    ),
    max_size=60,
)


def some(values: Iterable[object]) -> st.SearchStrategy[frozenset[object] | None]:
    return st.none() | st.frozensets(st.sampled_from(list(values)), max_size=2)


QUERIES = st.builds(
    Query,
    status=some(Status),
    type=some(["chat", "generate"]),
    priority=some([0, 1, 5, 9]),
    model=some(["m", "n", "o"]),
    host=some(["a", "b"]),
    tag=some(["x", "y", "z"]),
    sort=st.sampled_from(["-created", "created", "-priority", "priority"]),
    limit=st.integers(1, 10),
    offset=st.integers(0, 12),
)


@settings(max_examples=300, deadline=None)
@given(OPERATIONS, st.lists(QUERIES, min_size=1, max_size=4), st.booleans(), st.integers(0, 30))
def test_the_catalog_says_what_a_naive_search_says(
    operations: list[tuple[str, int, TaskSpec, TaskState]], queries: list[Query], cursor: bool, nth: int
) -> None:
    stored: Stored = {}
    catalog = Catalog()
    for what, key, new, state in operations:
        if what == "delete":
            stored.pop(key, None)
            catalog.apply(Step(deletes=(key,)))
        elif key in stored:
            stored[key] = (stored[key][0], state)
            catalog.apply(Step((Write(key, state),)))
        else:
            stored[key] = (new, state)
            catalog.apply(Step((Write(key, state, new),)))
    for query in queries:
        if cursor and stored:
            keys = sorted(stored)
            query = Query(
                **{**{f: getattr(query, f) for f in query.__struct_fields__}, "before": keys[nth % len(keys)]}
            )
        assert catalog.find(query) == naive_find(stored, query)
        _, keys = naive_find(
            stored,
            Query(
                **{f: getattr(query, f) for f in query.__struct_fields__}
                | {"limit": 99, "offset": 0, "before": None}
            ),
        )
        sifted: dict[int, list[int]] = {}
        catalog.sift(query, sorted(stored), sifted, False)
        assert sifted[0] == sorted(keys)
    states = [state for _, state in stored.values()]
    assert catalog.counts == {status: sum(state.status is status for state in states) for status in Status}
    assert len(catalog) == len(stored)
    pending = [state.priority for state in states if state.status is Status.PENDING]
    assert catalog.pending_by_priority() == {p: pending.count(p) for p in sorted(set(pending), reverse=True)}
    waiting = [spec for spec, state in stored.values() if state.status not in FINISHED]
    assert catalog.unfinished_by_model() == {m: n for m in "mn" if (n := sum(s.model == m for s in waiting))}
    assert catalog.unfinished_by_type() == {
        t: n for t in ("chat", "generate") if (n := sum(s.type == t for s in waiting))
    }
    assert catalog.oldest_pending() == min(
        (key for key, (_, state) in stored.items() if state.status is Status.PENDING), default=None
    )


def test_loading_equals_following() -> None:
    stored: Stored = {
        FIRST + n: (spec(tags=("x",) if n % 2 else ()), TaskState(status, n, finished_at=float(n), host="h"))
        for n, status in enumerate(Status)
    }
    recovered = Recovered([], [])
    for key, (asked, state) in stored.items():
        if state.status.finished:
            recovered.heads.append(
                FinishedHead(
                    key, asked.type, asked.model, asked.tags, state.status, state.priority, "h", 1.0, 1
                )
            )
        else:
            recovered.unfinished.append(entry_of(key, asked, state))
    loaded, followed = Catalog(), catalog_of(stored)
    loaded.load(recovered)
    for query in (
        Query(),
        Query(sort="-priority"),
        Query(tag=frozenset({"x"})),
        Query(host=frozenset({"h"})),
    ):
        assert loaded.find(query) == followed.find(query)
    assert loaded.counts == followed.counts


def test_a_write_of_a_deleted_task_is_ignored() -> None:
    catalog = Catalog()
    catalog.apply(Step((Write(FIRST, TaskState(Status.PENDING, 5)),)))
    assert len(catalog) == 0


@pytest.mark.parametrize("sort", ["-created", "created", "-priority", "priority"])
def test_a_deep_offset_finds_the_same_page_as_a_walk(sort: str) -> None:
    stored: Stored = {
        FIRST + 7 * n: (spec(model="mn"[n % 2]), TaskState(Status.PENDING, n % 3)) for n in range(12_000)
    }
    catalog = catalog_of(stored)
    for offset in (1999, 2001, 2049, 3999, 4000, 4001, 8123, 11_998, 12_000, 50_000):
        query = Query(sort=sort, limit=5, offset=offset)
        assert catalog.find(query) == naive_find(stored, query)
        below = Query(sort=sort, limit=5, offset=offset, before=FIRST + 7 * 5001)
        assert catalog.find(below) == naive_find(stored, below)


def test_an_unknown_sort_is_refused() -> None:
    with pytest.raises(InvalidTask, match="cannot sort by"):
        Catalog().find(Query(sort="size"))


def test_a_cursor_whose_task_is_gone_still_works_by_creation() -> None:
    catalog = catalog_of({FIRST + n: (spec(), TaskState(Status.PENDING, 5)) for n in range(5)})
    catalog.apply(Step(deletes=(FIRST + 2,)))
    assert catalog.find(Query(before=FIRST + 2)) == (4, [FIRST + 1, FIRST])


def test_a_cursor_whose_task_is_gone_is_refused_by_priority() -> None:
    with pytest.raises(InvalidTask, match="gone"):
        catalog_of({FIRST: (spec(), TaskState(Status.PENDING, 5))}).find(
            Query(sort="priority", before=FIRST + 1)
        )


KEY_A, KEY_B, KEY_C = (0x1234_5678_9ABC_DEF0, 0x1234_5678_9ABC_0000, 0x1A34_5678_9ABC_DEF0)
THREE = catalog_of(
    {key: (spec(model="Llama3"), TaskState(Status.PENDING, 5)) for key in (KEY_A, KEY_B, KEY_C)}
)


@pytest.mark.parametrize("key", [KEY_A, KEY_B, KEY_C])
def test_a_full_id_is_found(key: int) -> None:
    assert THREE.resolve(format_id(key)) == THREE.resolve(format_id(key).upper()) == key


def test_a_unique_beginning_or_end_of_an_id_is_found() -> None:
    assert THREE.resolve(format_id(KEY_C)[:4]) == KEY_C
    assert THREE.resolve(format_id(KEY_B)[-4:]) == KEY_B


@pytest.mark.parametrize("text", [format_id(KEY_A)[:4], format_id(KEY_A)[-5:]])
def test_an_ambiguous_piece_of_an_id_is_refused(text: str) -> None:
    with pytest.raises(TaskConflict, match="more than one"):
        THREE.resolve(text)


@pytest.mark.parametrize("text", ["", " ", "zzz", "u!", "ü", format_id(KEY_A + 1), "z" * 13, "0" * 40])
def test_what_fits_no_task_is_not_found(text: str) -> None:
    with pytest.raises(TaskNotFound):
        THREE.resolve(text)


def test_the_status_of_one_task_is_known() -> None:
    assert THREE.status(KEY_A) is Status.PENDING
    assert THREE.status(1) is None
    assert KEY_A in THREE
    assert 1 not in THREE
