from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oq.core.ids import (
    COUNTER_BITS,
    EPOCH,
    ID_LENGTH,
    KEY_MAX,
    SHIFT,
    IdSource,
    created_at,
    format_id,
    parse_id,
)

NOW = EPOCH + 1_000_000.0
FULL = 1 << COUNTER_BITS
keys = st.integers(0, KEY_MAX)


@given(keys)
def test_an_id_stands_for_one_integer(key: int) -> None:
    text = format_id(key)
    assert len(text) == ID_LENGTH
    assert parse_id(text) == parse_id(text.upper()) == key


@given(keys, keys)
def test_the_order_of_ids_is_the_order_of_integers(one: int, other: int) -> None:
    assert (format_id(one) < format_id(other)) == (one < other)


def test_look_alikes_are_forgiven() -> None:
    assert parse_id("oil0000000000") == parse_id("0110000000000")


@given(st.text(max_size=20).filter(lambda text: len(text) != ID_LENGTH))
def test_text_of_another_length_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a task id: an id has 13 characters"):
        parse_id(text)


@pytest.mark.parametrize("text", ["", "0", "0" * 14, "u" + "0" * 12, "z" * 13, "0000 00000000", "é" * 13])
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a task id"):
        parse_id(text)


def test_an_id_tells_when_it_was_given_out() -> None:
    (key,) = IdSource(3).take(1, NOW + 0.123)
    assert created_at(key) == pytest.approx(NOW + 0.123, abs=0.001)


@given(
    st.lists(st.tuples(st.integers(1, 40_000), st.floats(-10, 10)), min_size=1, max_size=20),
    st.integers(0, 255),
)
def test_keys_only_ever_grow_whatever_the_clock_does(calls: list[tuple[int, float]], node: int) -> None:
    ids, now, last = IdSource(node), NOW, 0
    for count, change in calls:
        now += change
        taken = ids.take(count, now)
        assert 1 <= len(taken) <= count
        assert taken[0] > last
        last = taken[-1]
        assert last >> COUNTER_BITS & 255 == node


def test_more_than_a_millisecond_holds_go_on_in_the_next() -> None:
    ids = IdSource(1)
    first = ids.take(FULL + 10, NOW)
    assert len(first) == FULL
    second = ids.take(10, NOW)
    assert len(second) == 10
    assert second[0] >> SHIFT == (first[0] >> SHIFT) + 1


def test_a_bulk_is_a_row_of_keys() -> None:
    taken = IdSource(1).take(5000, NOW)
    assert list(taken) == list(range(taken[0], taken[0] + 5000))


def test_a_restart_goes_on_beyond_the_largest_key_also_with_a_clock_that_is_behind() -> None:
    last = IdSource(200).take(100, NOW)[-1]
    assert IdSource(0, last).take(1, NOW - 3600.0)[0] > last


def test_two_servers_never_give_out_the_same_key() -> None:
    assert not set(IdSource(1).take(1000, NOW)) & set(IdSource(2).take(1000, NOW))


@pytest.mark.parametrize("now", [EPOCH - 1e9, EPOCH + 2**41 / 1000, EPOCH + 1e12])
@pytest.mark.parametrize("last", [0, 5 << SHIFT])
def test_a_clock_of_before_2020_or_of_after_2089_gives_ids_that_a_store_takes(now: float, last: int) -> None:
    source = IdSource(3, last)
    taken = [key for _ in range(3) for key in source.take(FULL, now)]
    assert taken == sorted(taken)
    assert last < taken[0]
    assert taken[-1] <= KEY_MAX
