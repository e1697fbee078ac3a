from __future__ import annotations

import pytest

from oq.core.corpus import CHUNK_TASKS, Chunk, Corpus, Needle
from oq.core.ids import format_id, parse_id

KEY = parse_id("0satchm209xyz")


def test_a_text_is_found_in_every_task_that_has_it_once_each() -> None:
    chunk = Chunk([1, 2, 3, 4], [b"sky and sky", b"sea", b"", b"the sky"])
    assert chunk.search(Needle("sky")) == [1, 4]


def test_no_match_spans_two_tasks() -> None:
    chunk = Chunk([1, 2], [b"ab\0", b"cd"])
    assert chunk.search(Needle("b\0")) == []
    assert chunk.search(Needle("bc")) == []


@pytest.mark.parametrize("text", ["SKY", "sKy"])
def test_case_does_not_matter(text: str) -> None:
    assert Chunk([1], [b"blue sky"]).search(Needle(text)) == [1]


@pytest.mark.parametrize(
    ("text", "found"),
    [("0satchm2", True), ("9XYZ", True), ("0satchm209xyz", True), ("xyz", False), ("tchm20", False)],
)
def test_an_id_is_found_by_its_beginning_and_its_end_from_four_characters_on(text: str, found: bool) -> None:
    assert format_id(KEY) == "0satchm209xyz"
    assert Chunk([KEY - 1, KEY], [b"", b""]).search(Needle(text))[-1:] == ([KEY] if found else [])


def test_a_chunk_of_mostly_dead_tasks_is_rewritten_and_finds_the_same() -> None:
    chunk = Chunk(range(10), [f"text {n}".encode() for n in range(10)])
    assert chunk.without_dead(lambda key: key < 5) is None
    smaller = chunk.without_dead(lambda key: key in (2, 9))
    assert smaller is not None
    assert smaller.size < chunk.size
    assert (smaller.search(Needle("text")), smaller.search(Needle("text 9"))) == ([2, 9], [9])


def test_a_corpus_beyond_its_budget_gives_up_the_oldest() -> None:
    corpus = Corpus(0, budget=100_000)
    given_up: list[int] = []
    for first in range(0, 20 * CHUNK_TASKS, CHUNK_TASKS):
        given_up += corpus.add_newer(range(first, first + CHUNK_TASKS), [b"x" * 20] * CHUNK_TASKS)
    assert corpus.size <= 100_000
    assert given_up == list(range(given_up[-1] + 1))
    assert corpus.low == given_up[-1] + 1
    assert corpus.high == 20 * CHUNK_TASKS


def test_dead_tasks_give_their_room_back() -> None:
    corpus = Corpus(0, budget=10**6)
    for first in range(0, 4 * CHUNK_TASKS, CHUNK_TASKS):
        corpus.add_newer(range(first, first + CHUNK_TASKS), [b"x" * 20] * CHUNK_TASKS)
    full = corpus.size
    for _ in range(8):
        corpus.check_some(lambda key: key >= 3 * CHUNK_TASKS)
    assert corpus.size == full / 4
