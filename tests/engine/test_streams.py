"""Text as it comes, and events: any number of readers, at any time and speed."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from typing import Any

import pytest
import trio
import trio.testing
from fakes import FakeBackend, open_fake_queue

import oq
from oq.access import TEXT_PART
from oq.errors import (
    BackendError,
    QueueBusy,
    QueueClosed,
    SubscriberLagged,
    TaskFailed,
    TaskNotFound,
    TooMany,
)
from oq.following import StreamEnd, StreamItem, StreamRestart, StreamText
from oq.ports import Piece
from oq.queue import Queue

BUSY = BackendError("the server is busy", "busy", retryable=True)


async def read(queue: Queue, key: int, found: list[StreamItem], offset: int = 0) -> None:
    async with aclosing(queue.follow(key, offset)) as items:
        async for item in items:
            found.append(item)


def text(items: list[StreamItem]) -> str:
    """What a reader has at the end: a restart voids what came before."""
    so_far = ""
    for item in items:
        if isinstance(item, StreamRestart):
            so_far = ""
        elif isinstance(item, StreamText):
            assert item.offset == len(so_far), "no gap and no overlap"
            so_far += item.text
    return so_far


async def test_a_late_reader_gets_the_text_so_far_then_the_rest_then_the_end(autojump_clock: Any) -> None:
    backend = FakeBackend()
    backend.pieces = ["one ", "two ", "three"]
    backend.close_gate()
    async with open_fake_queue(backend) as queue:
        handle = await queue.submit(oq.generate("m", "x"))
        await trio.testing.wait_all_tasks_blocked()
        found: list[StreamItem] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, queue, handle.key, found)
            await trio.testing.wait_all_tasks_blocked()
            assert found == [StreamText(1, 0, "one ")]
            backend.gate.set()
        assert text(found) == "one two three"
        assert isinstance(found[-1], StreamEnd)
        assert found[-1].task.output == "one two three"


@pytest.mark.parametrize("offset", [0, 300_000])
async def test_a_long_text_of_a_finished_task_comes_in_parts(autojump_clock: Any, offset: int) -> None:
    backend = FakeBackend()
    backend.pieces = ["漢x" * 500_000]
    async with open_fake_queue(backend) as queue:
        handle = await queue.submit(oq.generate("m", "x"))
        await queue.wait(handle.key)
        found: list[StreamItem] = []
        await read(queue, handle.key, found, offset)
        parts = [item for item in found if isinstance(item, StreamText)]
        assert max(len(part.text) for part in parts) == TEXT_PART
        assert [part.offset for part in parts] == list(range(offset, 1_000_000, TEXT_PART))
        assert "".join(part.text for part in parts) == backend.pieces[0][offset:]


async def test_readers_of_large_results_have_so_much_room_and_one_always_has(autojump_clock: Any) -> None:
    backend = FakeBackend()
    backend.pieces = ["x" * 2**21]
    async with open_fake_queue(backend, max_answer_memory=2**20) as queue:
        handle = await queue.submit(oq.generate("m", "x"))
        await queue.wait(handle.key)
        async with aclosing(queue.follow(handle.key)) as first:
            await anext(first)
            async with aclosing(queue.follow(handle.key)) as second:
                with pytest.raises(QueueBusy, match=r"queue\.max_answer_memory"):
                    await anext(second)
        await read(queue, handle.key, found := [])
        assert text(found) == backend.pieces[0]


@pytest.mark.parametrize("offset", [0, 2, 5, 99])
async def test_a_reader_of_a_finished_task_gets_its_text_from_the_store(
    autojump_clock: Any, offset: int
) -> None:
    async with open_fake_queue(FakeBackend()) as queue:
        handle = await queue.submit(oq.chat("m", "x"))
        await handle.wait()
        found: list[StreamItem] = []
        await read(queue, handle.key, found, offset)
    texts = [(item.offset, item.text) for item in found if isinstance(item, StreamText)]
    assert texts == ([(offset, "Hello"[offset:])] if offset < 5 else [])
    assert isinstance(found[-1], StreamEnd)


async def test_a_new_attempt_voids_the_text_before(autojump_clock: Any) -> None:
    class BreaksOff(FakeBackend):
        async def run(self, spec: Any) -> Any:
            if not self.seen:
                self.seen.append(spec)
                yield Piece("Hal")
                await trio.sleep(1.0)
                raise BUSY
            async with aclosing(super().run(spec)) as items:
                async for item in items:
                    yield item

    backend = BreaksOff()
    async with open_fake_queue(backend) as queue:
        handle = await queue.submit(oq.chat("m", "x"))
        found: list[StreamItem] = []
        await read(queue, handle.key, found)
    assert found[:2] == [StreamText(1, 0, "Hal"), StreamRestart(2)]
    assert text(found) == "Hello"


async def test_a_reader_never_sees_text_of_a_start_that_is_not_on_disk(autojump_clock: Any) -> None:
    backend = FakeBackend()
    backend.close_gate()

    async def slow(function: Any, /, *args: Any) -> Any:
        await trio.sleep(5.0)
        return function(*args)

    async with open_fake_queue(backend, offload=slow, paused=True) as queue:
        handle = await queue.submit(oq.generate("m", "x"))
        found: list[StreamItem] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(queue.resume)
            await trio.sleep(3.0)
            assert backend.seen, "it runs already"
            nursery.start_soon(read, queue, handle.key, found)
            await trio.sleep(1.0)
            assert not found
            await trio.sleep(2.0)
            assert text(found) == "Hel"
            backend.gate.set()


async def test_readers_that_are_slow_or_gone_slow_nobody(autojump_clock: Any) -> None:
    backend = FakeBackend()
    backend.pieces = ["x"] * 2000
    async with open_fake_queue(backend) as queue:
        handle = await queue.submit(oq.chat("m", "x"))

        async def slow() -> None:
            async with aclosing(queue.follow(handle.key)) as items:
                async for _ in items:
                    await trio.sleep(1e5)

        async def leaves() -> None:
            async with aclosing(queue.follow(handle.key)) as items:
                async for _ in items:
                    return

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(slow)
                nursery.start_soon(leaves)
            begin = trio.current_time()
            assert (await handle.wait()).output == "x" * 2000
            assert trio.current_time() - begin < 1.0
            nursery.cancel_scope.cancel()


async def test_a_stream_of_a_task_that_fails_raises_its_error_after_the_text(autojump_clock: Any) -> None:
    backend = FakeBackend()
    backend.error = BackendError("no such model", "model_not_found")
    async with open_fake_queue(backend) as queue:
        handle = await queue.submit(oq.generate("m", "x"))
        async with aclosing(handle.stream()) as texts:
            with pytest.raises(TaskFailed, match="no such model"):
                await anext(texts)


async def test_a_stream_yields_the_texts_of_the_answer(autojump_clock: Any) -> None:
    async with open_fake_queue(FakeBackend()) as queue:
        handle = await queue.submit(oq.chat("m", "x"))
        assert "".join([piece async for piece in handle.stream()]) == "Hello"
        assert "".join([piece async for piece in queue.stream(handle.id)]) == "Hello"


async def test_a_stream_of_no_task_says_so(autojump_clock: Any) -> None:
    async with open_fake_queue(FakeBackend()) as queue:
        with pytest.raises(TaskNotFound):
            await anext(queue.follow(12345))


async def test_no_text_stays_in_memory_when_all_tasks_have_ended(autojump_clock: Any) -> None:
    backend = FakeBackend()
    backend.errors = [BUSY, BUSY]
    async with open_fake_queue(backend) as queue:
        await queue.run_batch([oq.generate("m", str(number)) for number in range(5)])
        backend.close_gate()
        handle = await queue.submit(oq.generate("m", "cancelled"))
        await handle.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert len(queue._transcripts) == 0


# --- events
async def test_events_tell_each_step_in_order(autojump_clock: Any) -> None:
    backend = FakeBackend()
    backend.errors = [BUSY]
    async with open_fake_queue(backend) as queue:
        async with queue.subscribe() as events:
            handle = await queue.submit(oq.generate("m", "x"))
            await handle.wait()
            await queue.delete(handle.id)
            found = []
            async for event in events:
                found.append(event)
                if event.type == "task_deleted":
                    break
    assert [str(event.type) for event in found] == [
        "task_submitted",
        "task_started",
        "task_retrying",
        "task_started",
        "task_completed",
        "task_deleted",
    ]
    assert [event.seq for event in found] == list(range(found[0].seq, found[0].seq + 6))
    revisions = [event.what.state.revision for event in found[:-1]]  # type: ignore[union-attr]
    assert revisions == sorted(set(revisions))


async def test_events_can_be_chosen_and_taken_up_again_from_a_number(autojump_clock: Any) -> None:
    async with open_fake_queue(FakeBackend()) as queue:
        handle = await queue.submit(oq.generate("m", "x"))
        await handle.wait()
        async with queue.subscribe(types=["task_completed"], after=0) as events:
            assert (await anext(events)).type == "task_completed"
        async with queue.subscribe(after=1) as events:
            assert (await anext(events)).seq == 2
        with pytest.raises(SubscriberLagged, match="no event number 999"):
            async with queue.subscribe(after=999):
                pass


async def test_a_subscriber_that_fell_behind_is_told_and_slows_nobody(autojump_clock: Any) -> None:
    async with open_fake_queue(FakeBackend(), event_history=10) as queue:
        async with queue.subscribe() as events:
            await queue.run_batch([oq.generate("m", str(number)) for number in range(20)])
            with pytest.raises(SubscriberLagged, match="event_history is 10"):
                await anext(events)
        async with queue.subscribe(after=queue.last_event - 10) as events:
            assert (await anext(events)).seq == queue.last_event - 9


async def test_subscribers_are_limited_and_a_place_is_free_again(autojump_clock: Any) -> None:
    async with open_fake_queue(FakeBackend(), max_subscribers=2) as queue:
        async with queue.subscribe(), queue.subscribe():
            with pytest.raises(TooMany, match="max_subscribers"):
                async with queue.subscribe():
                    pass
            assert (await queue.status()).subscribers == 2
        async with queue.subscribe():
            assert (await queue.status()).subscribers == 1


async def test_subscriptions_end_with_the_queue_after_the_last_event(autojump_clock: Any) -> None:
    found: list[str] = []
    started = trio.Event()

    async def listen(queue: Queue) -> None:
        async with queue.subscribe() as events:
            started.set()
            async for event in events:
                found.append(str(event.type))

    async with trio.open_nursery() as outside:
        async with open_fake_queue(FakeBackend(), paused=True) as queue:
            outside.start_soon(listen, queue)
            await started.wait()
            await queue.submit(oq.generate("m", "x"))
    assert found == ["task_submitted", "queue_draining"]


@pytest.mark.parametrize(
    "wait",
    [
        lambda queue, key: queue.wait(key),
        lambda queue, key: read(queue, key, []),
    ],
    ids=["wait", "follow"],
)
async def test_who_still_waits_when_the_queue_stops_is_told(
    autojump_clock: Any, wait: Callable[[Queue, int], Any]
) -> None:
    told: list[str] = []

    async def outside(queue: Queue, key: int) -> None:
        with pytest.raises(QueueClosed, match="the queue has stopped") as caught:
            await wait(queue, key)
        told.append(str(caught.value))

    with trio.fail_after(1000.0):
        async with trio.open_nursery() as nursery:
            async with open_fake_queue(FakeBackend(), paused=True) as queue:
                handle = await queue.submit(oq.generate("m", "x"))
                nursery.start_soon(outside, queue, handle.key)
                await trio.testing.wait_all_tasks_blocked()
    assert len(told) == 1
