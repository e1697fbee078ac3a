"""The queue inside a Trio program: verbs, limits, and whose error is raised."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from fakes import FakeBackend, WatchedJournal, open_fake_queue

import oq
from oq import engine
from oq.actors import writer
from oq.core.task import Task
from oq.errors import (
    BackendError,
    IdempotencyConflict,
    InvalidTask,
    QueueBusy,
    QueueClosed,
    QueueFull,
    StorageLocked,
    TaskFailed,
    TaskNotFound,
    TooLarge,
    WaitTimeout,
)

NO_MODEL = BackendError("no such model", "model_not_found")


# --- batches and callbacks
async def test_a_batch_gives_results_in_order_and_an_error_in_place_of_a_result(autojump_clock: Any) -> None:
    backend = FakeBackend()
    backend.errors = [NO_MODEL]
    seen: list[str] = []
    async with open_fake_queue(backend, max_workers=1) as queue:
        results = await queue.run_batch(
            [oq.chat("m", str(number)) for number in range(3)], callback=lambda task: seen.append(task.status)
        )
    assert isinstance(results[0], TaskFailed)
    assert [result["done"] for result in results[1:] if isinstance(result, dict)] == [True, True]
    assert seen == ["failed", "completed", "completed"]


async def test_a_batch_has_one_time_for_all(autojump_clock: Any) -> None:
    backend = FakeBackend()
    backend.seconds = 10.0
    async with open_fake_queue(backend, max_workers=1) as queue:
        begin = trio.current_time()
        results = await queue.run_batch([oq.chat("m", str(n)) for n in range(4)], timeout=25.0)
        assert trio.current_time() - begin == pytest.approx(25.0, abs=0.01)
    assert [isinstance(result, WaitTimeout) for result in results] == [False, False, True, True]


async def test_a_batch_beyond_max_pending_has_errors_in_its_places(autojump_clock: Any) -> None:
    async with open_fake_queue(FakeBackend(), max_pending=2, paused=True) as queue:
        taken = await queue.submit_many([oq.chat("m", str(n)) for n in range(3)])
        assert [isinstance(item, QueueFull) for item in taken] == [False, False, True]
        with pytest.raises(QueueFull, match="max_pending is 2"):
            await queue.submit(oq.chat("m", "x"))
        with pytest.raises(QueueFull):
            await queue.submit_many([oq.chat("m", "x")], atomic=True)
        assert await queue.submit_many([]) == []


async def test_a_batch_larger_than_max_batch_is_refused(autojump_clock: Any) -> None:
    async with open_fake_queue(FakeBackend(), max_batch=3) as queue:
        with pytest.raises(TooLarge, match="max_batch"):
            await queue.submit_many([oq.chat("m", "x")] * 4)


async def test_a_callback_is_called_once_with_the_finished_task(autojump_clock: Any) -> None:
    calls: list[Task] = []

    async def callback(task: Task) -> None:
        calls.append(task)

    async with open_fake_queue(FakeBackend()) as queue:
        handle = await queue.submit(oq.chat("m", "x"), callback=callback)
        await handle.wait()
        await trio.testing.wait_all_tasks_blocked()
    assert [(task.id, task.status) for task in calls] == [(handle.id, "completed")]


async def test_a_callback_that_raises_is_logged_and_harms_nobody(
    autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def callback(task: Task) -> None:
        raise ValueError("not mine")

    async with open_fake_queue(FakeBackend()) as queue:
        handle = await queue.submit(oq.chat("m", "x"), callback=callback)
        await handle.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert (await (await queue.submit(oq.chat("m", "y"))).wait()).status == "completed"
    assert f"the callback of task {handle.id} failed" in caplog.text


async def test_finished_tasks_can_go_to_a_channel(autojump_clock: Any) -> None:
    send, receive = trio.open_memory_channel[Task](0)
    async with open_fake_queue(FakeBackend()) as queue:
        async with send, receive:
            handles = [await queue.submit_to_channel(oq.chat("m", str(n)), send) for n in range(3)]
            found = {(await receive.receive()).id for _ in range(3)}
            await trio.testing.wait_all_tasks_blocked()
    assert found == {handle.id for handle in handles}


# --- submission
async def test_a_repeated_submission_with_an_idempotency_key_is_one_task(autojump_clock: Any) -> None:
    spec = oq.chat("m", "x", idempotency_key="k")
    async with open_fake_queue(FakeBackend()) as queue:
        first, second = await queue.submit(spec), await queue.submit(spec)
        assert first.id == second.id
        with pytest.raises(IdempotencyConflict):
            await queue.submit(oq.chat("m", "other", idempotency_key="k"))


async def test_a_queue_that_takes_nothing_for_the_limit_says_so(
    autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("REQUESTS", "INBOX", "STEPS"):
        monkeypatch.setattr(engine, name, 1)
    monkeypatch.setattr(writer, "BATCH_STEPS", 1)

    async def stuck(function: Any, /, *args: Any) -> Any:
        await trio.sleep(100.0 * (function.__name__ == "commit"))
        return function(*args)

    busy: list[float] = []
    advice: set[str] = set()
    taken: list[str] = []
    async with open_fake_queue(FakeBackend(), offload=stuck, paused=True, request_timeout=10.0) as queue:
        begin = trio.current_time()

        async def submit(number: int) -> None:
            try:
                taken.append((await queue.submit(oq.chat("m", str(number)))).id)
            except QueueBusy as error:
                busy.append(trio.current_time() - begin)
                advice.add(str(error))

        async with trio.open_nursery() as nursery:
            for number in range(80):
                nursery.start_soon(submit, number)
        assert ["queue.request_timeout" in text for text in advice] == [True]
        assert busy == pytest.approx([10.0] * len(busy), abs=0.01)
        assert len(busy) + len(taken) == 80
        assert sorted(task.id for task in await queue.list()) == sorted(taken), "who was refused is not in it"


# --- reading and changing
async def test_tasks_are_listed_by_what_they_are(autojump_clock: Any) -> None:
    async with open_fake_queue(FakeBackend(), paused=True) as queue:
        low = await queue.submit(oq.chat("small", "x", priority="low", tags=["t"]))
        high = await queue.submit(oq.generate("large", "y", priority="high"))
        assert [task.id for task in await queue.list()] == [high.id, low.id]
        for filters, found in [
            ({"priority": "low"}, [low]),
            ({"type": "generate"}, [high]),
            ({"model": ["small", "large"], "sort": "-priority"}, [high, low]),
            ({"tag": "t"}, [low]),
            ({"status": "running"}, []),
            ({"q": "large"}, [high]),
            ({"limit": 1, "offset": 1}, [low]),
        ]:
            assert [task.id for task in await queue.list(**filters)] == [handle.id for handle in found]
        with pytest.raises(InvalidTask, match="no such filter value"):
            await queue.list(status="lost")


async def test_priorities_have_names_and_bounds(autojump_clock: Any) -> None:
    async with open_fake_queue(FakeBackend(), paused=True) as queue:
        handle = await queue.submit(oq.chat("m", "x"))
        assert (await queue.priority(handle.id, "critical")).priority == 15
        assert (await queue.priority(handle.id, 1000)).priority == 1000
        for wrong in ("urgent", 1001, -1):
            with pytest.raises(InvalidTask):
                await queue.priority(handle.id, wrong)


async def test_a_waiting_task_knows_its_place(autojump_clock: Any) -> None:
    async with open_fake_queue(FakeBackend(), paused=True) as queue:
        first = await queue.submit(oq.chat("m", "x"))
        second = await queue.submit(oq.chat("m", "y", priority="high"))
        assert queue.position(second.key) == (1, None)
        assert queue.position(first.key) == (2, None)


async def test_what_is_deleted_is_gone(autojump_clock: Any) -> None:
    async with open_fake_queue(FakeBackend()) as queue:
        handle = await queue.submit(oq.chat("m", "x"))
        await handle.wait()
        await queue.delete(handle.id)
        with pytest.raises(TaskNotFound):
            await queue.get(handle.id)


async def test_the_status_counts_what_happened(autojump_clock: Any) -> None:
    backend = FakeBackend()
    backend.errors = [BackendError("busy", "busy", retryable=True), NO_MODEL]
    async with open_fake_queue(backend, max_workers=1) as queue:
        await queue.run_batch([oq.chat("m", str(n)) for n in range(3)])
        stats = await queue.status()
    assert (stats.completed, stats.failed, stats.total) == (2, 1, 3)
    assert (stats.submitted_since_start, stats.retries_since_start) == (3, 1)
    assert (stats.workers_active, stats.workers_idle) == (0, 1)


# --- whose error is raised
class Mine(Exception):
    pass


async def test_the_block_s_own_exception_is_raised_not_a_group(autojump_clock: Any) -> None:
    async def block() -> None:
        async with open_fake_queue(FakeBackend()) as queue:
            await queue.submit(oq.chat("m", "x"))
            raise Mine

    with pytest.raises(Mine):
        await block()


async def test_a_group_that_the_block_raises_comes_out_as_it_is(autojump_clock: Any) -> None:
    group = ExceptionGroup("two of the block's own", [Mine(1), ValueError(2)])
    with pytest.raises(ExceptionGroup) as caught:
        async with open_fake_queue(FakeBackend()):
            raise group
    assert caught.value is group


async def test_a_group_of_one_that_the_block_raises_comes_out_as_it_is(autojump_clock: Any) -> None:
    group = ExceptionGroup("one of the block's own", [Mine(1)])
    with pytest.raises(ExceptionGroup) as caught:
        async with open_fake_queue(FakeBackend()):
            raise group
    assert caught.value is group


async def test_a_cancelled_block_is_cancelled(autojump_clock: Any) -> None:
    with trio.move_on_after(5.0) as scope:
        async with open_fake_queue(FakeBackend()) as queue:
            await queue.submit(oq.chat("m", "x"))
            await trio.sleep_forever()
    assert scope.cancelled_caught


class Broken(Exception):
    pass


@pytest.mark.parametrize("actor", ["commit", "scheduler", "timer", "bus", "workers"])
async def test_an_actor_that_raises_takes_the_queue_down_with_its_error(
    autojump_clock: Any, monkeypatch: pytest.MonkeyPatch, actor: str
) -> None:
    def breaks(*args: Any, **kwargs: Any) -> Any:
        raise Broken

    journal = WatchedJournal()
    monkeypatch.setattr(
        *{
            "commit": (journal, "before"),
            "scheduler": (engine.Schedule, "handle"),
            "timer": ("oq.actors.timer.Tick",),
            "bus": (engine.EventLog, "append"),
            "workers": ("oq.actors.workers.Finished",),
        }[actor],
        breaks,
    )

    async def block() -> None:
        async with open_fake_queue(FakeBackend(), journal, cleanup_interval=1.0) as queue:
            await queue.submit(oq.chat("m", "x"))
            await trio.sleep_forever()

    with pytest.raises(Broken):
        await block()


async def test_an_actor_s_error_comes_without_those_of_callers_that_find_it_gone(
    autojump_clock: Any,
) -> None:
    journal = WatchedJournal()

    def breaks(number: int) -> None:
        raise Broken

    async def block() -> None:
        async with open_fake_queue(FakeBackend(), journal, paused=True) as queue:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(queue.submit, oq.chat("m", "x"))
                journal.before = breaks
                for _ in range(1000):  # at each turn of the loop, also while the actors end
                    await trio.lowlevel.checkpoint()
                    nursery.start_soon(queue.resume)

    with pytest.raises(Broken):
        await block()


async def test_a_caller_outside_the_block_is_told_when_the_queue_broke(
    autojump_clock: Any,
) -> None:
    journal = WatchedJournal()
    told: list[str] = []

    def breaks(number: int) -> None:
        raise Broken

    async def outside(queue: oq.Queue) -> None:
        with pytest.raises(QueueClosed) as caught:
            await queue.submit(oq.chat("m", "x"))
        told.append(str(caught.value))
        with pytest.raises(QueueClosed):
            await queue.submit(oq.chat("m", "later"))

    with trio.fail_after(1000.0):
        async with trio.open_nursery() as nursery:
            try:
                async with open_fake_queue(FakeBackend(), journal) as queue:
                    journal.before = breaks
                    nursery.start_soon(outside, queue)
                    await trio.sleep_forever()
            except Broken:
                pass
    assert told == ["the queue has stopped; start it again"]


async def test_settings_come_whole_or_single_not_both(tmp_path: Any) -> None:
    with pytest.raises(TypeError, match="either whole settings"):
        async with oq.open_queue(tmp_path, settings=oq.settings_from()):
            pass


async def test_a_store_that_is_in_use_is_refused(tmp_path: Any) -> None:
    async with oq.open_queue(tmp_path, paused=True):
        with pytest.raises(StorageLocked, match="in use by another oq"):
            async with oq.open_queue(tmp_path):
                pass
