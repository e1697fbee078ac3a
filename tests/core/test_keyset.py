from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oq.core import keyset
from oq.core.keyset import KeySet, locate


def made(keys: set[int]) -> KeySet:
    new = KeySet()
    for key in keys:
        new.add(key)
    return new


@pytest.fixture(autouse=True, scope="module")
def _small_chunks() -> object:
    before, keyset.CHUNK = keyset.CHUNK, 4
    yield
    keyset.CHUNK = before


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 40)), max_size=120), st.integers(-1, 41))
def test_it_is_a_sorted_set(operations: list[tuple[bool, int]], pivot: int) -> None:
    model: set[int] = set()
    keys = KeySet()
    for adds, key in operations:
        (model.add if adds else model.discard)(key)
        (keys.add if adds else keys.discard)(key)
    assert list(keys.ascending()) == sorted(model)
    assert list(keys.descending()) == sorted(model, reverse=True)
    assert list(keys.ascending(pivot)) == sorted(key for key in model if key > pivot)
    assert list(keys.descending(pivot)) == sorted((key for key in model if key < pivot), reverse=True)
    assert keys.rank(pivot) == sum(key < pivot for key in model)
    assert len(keys) == len(model)
    assert (pivot in keys) == (pivot in model)


@settings(max_examples=300, deadline=None)
@given(st.sets(st.integers(0, 10**6), min_size=2, max_size=60), st.data())
def test_locate_says_after_which_key_to_go_on(keys: set[int], data: st.DataObject) -> None:
    parts: list[set[int]] = [set(), set(), set()]
    for key in keys:
        parts[data.draw(st.integers(0, 2))].add(key)
    skip = data.draw(st.integers(1, len(keys) - 1))
    down = data.draw(st.booleans())
    assert locate([made(part) for part in parts], skip, down) == sorted(keys, reverse=down)[skip - 1]
