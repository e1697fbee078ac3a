from __future__ import annotations

from typing import Any

import trio
import trio.testing

from oq.ports import Piece
from oq.transcript import AT_ONCE, Transcripts


async def test_each_reader_has_its_own_place(autojump_clock: Any) -> None:
    transcripts = Transcripts()
    transcripts.announce(1, 1)
    for text in "abc":
        transcripts.add(1, 1, Piece(text))
    with transcripts.watch(1) as transcript:
        assert transcript.since(1, 0) == (1, [Piece("a"), Piece("b"), Piece("c")])
        assert transcript.since(1, 2) == (1, [Piece("c")])
        assert transcript.since(1, 3) == (1, [])


async def test_who_is_far_behind_gets_all_in_parts(autojump_clock: Any) -> None:
    transcripts = Transcripts()
    transcripts.announce(1, 1)
    texts = [str(number) * 999 for number in range(1000)]
    for text in texts:
        transcripts.add(1, 1, Piece(text, line=text.encode()))
    found: list[str] = []
    with transcripts.watch(1) as transcript:
        while pieces := transcript.since(1, len(found))[1]:
            assert sum(len(piece.text) + len(piece.line) for piece in pieces) < AT_ONCE + 10_000
            found += [piece.text for piece in pieces]
    assert found == texts


async def test_a_piece_larger_than_a_part_is_given_whole(autojump_clock: Any) -> None:
    transcripts = Transcripts()
    transcripts.announce(1, 1)
    large = Piece("x" * (AT_ONCE + 1))
    transcripts.add(1, 1, large)
    transcripts.add(1, 1, Piece("y"))
    with transcripts.watch(1) as transcript:
        assert transcript.since(1, 0) == (1, [large])
        assert transcript.since(1, 1) == (1, [Piece("y")])


async def test_a_reader_at_an_older_attempt_gets_the_new_one_from_its_start(autojump_clock: Any) -> None:
    transcripts = Transcripts()
    with transcripts.watch(1) as transcript:
        transcripts.announce(1, 1)
        transcripts.add(1, 1, Piece("old"))
        transcripts.announce(1, 2)
        assert transcript.since(1, 1) == (2, [])
        transcripts.add(1, 2, Piece("new"))
        assert transcript.since(1, 1) == (2, [Piece("new")])


def test_a_task_that_never_ran_while_it_was_watched_leaves_nothing() -> None:
    transcripts = Transcripts()
    with transcripts.watch(1), transcripts.watch(1):
        assert len(transcripts) == 1
    assert len(transcripts) == 0


async def test_who_watches_keeps_the_text_after_the_end(autojump_clock: Any) -> None:
    transcripts = Transcripts()
    with transcripts.watch(1) as transcript:
        transcripts.announce(1, 1)
        transcripts.add(1, 1, Piece("text"))
        transcripts.end(1)
        assert len(transcripts) == 0
        assert transcript.ended
        assert transcript.since(1, 0) == (1, [Piece("text")])


def test_a_release_keeps_the_text_for_who_watches() -> None:
    transcripts = Transcripts()
    transcripts.announce(1, 1)
    transcripts.announce(2, 1)
    with transcripts.watch(1):
        transcripts.release(1)
        transcripts.release(2)
        assert len(transcripts) == 1


async def test_who_waits_is_woken_by_text_by_the_end_and_by_the_close(autojump_clock: Any) -> None:
    transcripts = Transcripts()
    transcripts.announce(1, 1)
    for change in (
        lambda: transcripts.add(1, 1, Piece("x")),
        lambda: transcripts.announce(1, 2),
        transcripts.close,
    ):
        with transcripts.watch(1) as transcript, trio.fail_after(1):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(transcript.wait_changed)
                nursery.start_soon(transcript.wait_changed)
                await trio.testing.wait_all_tasks_blocked()
                change()
    assert transcripts.closed
    with transcripts.watch(1) as transcript:
        assert not transcript.ended, "the queue has stopped, the task has not ended"


async def test_text_that_is_held_back_wakes_nobody(autojump_clock: Any) -> None:
    transcripts = Transcripts()
    woken: list[bool] = []
    with transcripts.watch(1) as transcript:

        async def wait() -> None:
            await transcript.wait_changed()
            woken.append(True)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            transcripts.add(1, 1, Piece("x"))
            await trio.testing.wait_all_tasks_blocked()
            assert woken == []
            transcripts.announce(1, 1)
    assert woken == [True]
