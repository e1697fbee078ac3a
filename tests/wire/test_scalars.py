"""Priorities, durations, times, queries."""

from __future__ import annotations

import doctest

import pytest
from hypothesis import given
from hypothesis import strategies as st

import oq.wire.scalars
from oq.core.ids import format_id
from oq.core.model import Status
from oq.errors import InvalidTask
from oq.ports import Query
from oq.wire import (
    parse_bulk,
    parse_duration,
    parse_priority,
    parse_query,
    parse_time,
    parse_watch,
    priority_name,
    query_parameters,
)  # fmt: skip


def test_the_examples_in_the_docstrings_are_true() -> None:
    assert doctest.testmod(oq.wire.scalars).failed == 0


@pytest.mark.parametrize(
    "value", ["", "5", "abc", "-1s", "5 m", "١s", None, [], True, float("nan"), float("inf"), "9" * 400]
)
def test_only_a_duration_is_a_duration(value: object) -> None:
    if value == "5":
        assert parse_duration(value) == 5.0
        return
    with pytest.raises(InvalidTask):
        parse_duration(value)


@pytest.mark.parametrize("value", ["", "noon", "2030-01-01", "0001-01-01T00:00:00Z", True, -1, 1e300, None])
def test_only_a_time_with_its_zone_is_a_time(value: object) -> None:
    with pytest.raises(InvalidTask):
        parse_time(value)


def test_go_writes_nanoseconds_and_they_are_read() -> None:
    assert parse_time("2023-11-14T22:13:20.123456789Z") == pytest.approx(1_700_000_000.123456)


@given(st.integers(0, 1000))
def test_a_priority_has_a_name_that_reads_back(level: int) -> None:
    assert parse_priority(priority_name(level)) == level


@given(st.text() | st.integers() | st.floats() | st.none() | st.booleans())
def test_any_value_is_a_scalar_or_a_refusal(value: object) -> None:
    for parse in (parse_priority, parse_duration, parse_time):
        try:
            found = parse(value)
        except InvalidTask:
            continue
        assert found >= 0


def test_filters_may_repeat_or_be_joined_by_commas() -> None:
    query = parse_query({"status": ["running,pending", "failed"], "priority": ["high,3"], "tag": ["a"]})
    assert query.status == {Status.RUNNING, Status.PENDING, Status.FAILED}
    assert query.priority == {10, 3}
    assert query.tag == {"a"}


def test_a_query_goes_through_its_parameters_and_back() -> None:
    query = Query(
        status=frozenset({Status.FAILED}), model=frozenset({"m"}), text="why", sort="created", limit=5, offset=2,
        before=1 << 40,
    )  # fmt: skip
    given_: dict[str, list[str]] = {}
    for name, value in query_parameters(query):
        given_.setdefault(name, []).append(value)
    assert parse_query(given_) == query


def test_an_anchor_keeps_later_tasks_out_and_itself_in() -> None:
    assert parse_query({"anchor": [format_id(100)]}).before == 101


@pytest.mark.parametrize(
    ("name", "value"),
    [("limit", "1001"), ("limit", "x"), ("limit", "-1"), ("offset", "1.5"), ("sort", "size"), ("status", "done"),
     ("type", "x"), ("priority", "1001"), ("cursor", "?"), ("anchor", "l"), ("statuss", "a")],
)  # fmt: skip
def test_a_wrong_parameter_is_named(name: str, value: str) -> None:
    with pytest.raises(InvalidTask) as caught:
        parse_query({name: [value]})
    assert caught.value.field == name


@pytest.mark.parametrize(
    "body",
    [b"{}", b'{"action":"fly","ids":[]}', b'{"action":"cancel"}', b'{"action":"cancel","ids":[],"filter":{}}',
     b'{"action":"priority","ids":[]}', b'{"action":"cancel","ids":[],"priority":1}', b"[", b'{"action":"cancel","filter":{"limit":1}}'],
)  # fmt: skip
def test_a_wrong_bulk_request_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidTask):
        parse_bulk(body)


def test_a_watch_names_rows_and_a_task() -> None:
    watch = parse_watch('{"type":"watch","ids":["a"],"task":"b"}')
    assert (watch.ids, watch.task) == (["a"], "b")
    for wrong in ('{"type":"look"}', "[]"):
        with pytest.raises(InvalidTask, match='an object with the type "watch"'):
            parse_watch(wrong)
