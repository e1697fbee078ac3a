"""Answers kept in memory, within a budget."""

from __future__ import annotations

import tracemalloc

from oq.core.memo import OVERHEAD_BYTES, Memo


def test_what_was_not_asked_for_longest_goes_first() -> None:
    memo = Memo(2 * (OVERHEAD_BYTES + 10))
    memo.put(b"1", bytes(10))
    memo.put(b"2", bytes(10))
    memo.get(b"1")
    memo.put(b"3", bytes(10))
    assert [memo.get(key) is not None for key in (b"1", b"2", b"3")] == [True, False, True]


def test_an_answer_larger_than_the_budget_is_not_kept_and_drives_nobody_out() -> None:
    memo = Memo(2 * (OVERHEAD_BYTES + 10))
    memo.put(b"1", bytes(10))
    memo.put(b"2", bytes(10_000))
    assert (len(memo), memo.get(b"1")) == (1, bytes(10))


def test_the_same_key_again_counts_once() -> None:
    memo = Memo(10_000)
    for size in (10, 500, 20):
        memo.put(b"1", bytes(size))
    assert (len(memo), memo.used) == (1, OVERHEAD_BYTES + 20)


def test_no_budget_keeps_nothing() -> None:
    memo = Memo(0)
    memo.put(b"1", b"")
    assert (memo.keeps, len(memo)) == (False, 0)


def test_it_costs_no_more_memory_than_its_budget() -> None:
    memo = Memo(4_000_000)
    tracemalloc.start()
    try:
        for number in range(20_000):
            memo.put(number.to_bytes(32, "big"), bytes(100))
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(memo) > 5_000
    assert used < 4_000_000
