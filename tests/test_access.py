"""Callers that give up, and what that must not do to the queue."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

import oq
from oq.access import Access

pytestmark = pytest.mark.slow  # a real file, a real disk


async def test_callers_that_are_cancelled_while_they_wait_leave_the_queue_alive(tmp_path: Path):
    async with oq.open_queue(tmp_path / "data", paused=True) as queue:
        given_up = 0
        for tick in range(30):
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    for _ in range(5):
                        nursery.start_soon(queue.submit, oq.generate("m", "x"))
                    for _ in range(
                        tick
                    ):  # so many turns of the loop later: before, during and after the commit
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
            given_up += scope.cancelled_caught
        assert given_up
        await queue.pause()
        handle = await queue.submit(oq.generate("m", "x"))
        assert (await handle.task()).status == "pending"


@pytest.mark.parametrize(
    "verb", ["submit_keys", "cancel_many", "retry_many", "delete_many", "pause", "resume"]
)
async def test_no_command_given_up_ends_the_queue(tmp_path: Path, verb: str):
    async with oq.open_queue(tmp_path / "data", paused=True) as queue:
        key = (await queue.submit(oq.generate("m", "x"))).key
        arguments = {"submit_keys": [[oq.generate("m", "y")]], "pause": [], "resume": []}.get(verb, [[key]])
        with trio.CancelScope() as scope:
            scope.cancel()
            await getattr(Access, verb)(queue, *arguments)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(getattr(Access, verb), queue, *arguments)
            await trio.lowlevel.checkpoint()  # it has asked by now
            await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert (await queue.submit(oq.generate("m", "z"))).key > key


async def test_an_idempotency_key_stands_for_one_request_in_the_library_too(tmp_path: Path):
    async with oq.open_queue(tmp_path / "data", paused=True) as queue:
        first = await queue.submit(oq.generate("m", "x", delay=60, idempotency_key="k"))
        again = await queue.submit(oq.generate("m", "x", delay=60, idempotency_key="k"))
        assert again.id == first.id
        with pytest.raises(oq.errors.IdempotencyConflict, match="another request"):
            await queue.submit(oq.generate("m", "y", delay=60, idempotency_key="k"))


async def test_a_delay_counts_from_the_submission(tmp_path: Path):
    async with oq.open_queue(tmp_path / "data", paused=True) as queue:
        spec = oq.generate("m", "x", delay=60)
        before = queue.clock.now()
        task = await (await queue.submit(spec)).task()
        assert task.status == "scheduled"
        assert task.state.run_at is not None
        assert before + 60 <= task.state.run_at <= queue.clock.now() + 60
