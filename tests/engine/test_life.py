"""A task's life through the whole queue, on a store in memory, in exact time."""

from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing
from fakes import FakeBackend, WatchedJournal, open_fake_queue

import oq
from oq.core.model import Status
from oq.errors import BackendError, QueueClosed, TaskCancelled, TaskConflict, TaskFailed, WaitTimeout
from oq.store import open_journal

BUSY = BackendError("the server is busy", "busy", retryable=True)
GONE = BackendError("no route", "unreachable", retryable=True, unreachable=True)


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


async def test_a_task_is_submitted_run_and_completed(autojump_clock: Any, backend: FakeBackend) -> None:
    async with open_fake_queue(backend) as queue:
        handle = await queue.submit(oq.chat("m", "Hi"))
        assert await handle.result() == {
            "message": {"role": "assistant", "content": "Hello"},
            "done": True,
            "eval_count": 2,
        }
        task = await handle.task()
    assert (task.status, task.output, task.state.attempts[-1].outcome) == ("completed", "Hello", "succeeded")


async def test_what_the_backend_gets_is_what_was_submitted(autojump_clock: Any, backend: FakeBackend) -> None:
    options = {"seed": 12345678901234567890}
    spec = oq.generate("m", "Hi", options=options, keep_alive="5m", max_retries=7)
    async with open_fake_queue(backend) as queue:
        await (await queue.submit(spec)).wait()
    assert backend.seen == [spec]


async def test_retries_come_at_exactly_0_1_3_and_7_seconds(autojump_clock: Any, backend: FakeBackend) -> None:
    backend.errors = [BUSY, BUSY, BUSY]
    async with open_fake_queue(backend) as queue:
        begin = trio.current_time()
        handle = await queue.submit(oq.generate("m", "x", max_retries=3))
        task = await handle.wait()
    assert [at - begin for at in backend.times] == pytest.approx([0.0, 1.0, 3.0, 7.0], abs=0.001)
    assert (task.status, task.state.retry_count, len(task.state.attempts)) == ("completed", 3, 4)


async def test_when_retries_are_spent_the_task_fails_with_the_last_error(
    autojump_clock: Any, backend: FakeBackend
) -> None:
    backend.error = BUSY
    async with open_fake_queue(backend) as queue:
        handle = await queue.submit(oq.generate("m", "x", max_retries=2))
        with pytest.raises(TaskFailed, match="the server is busy") as caught:
            await handle.result()
    assert caught.value.task_code == "busy"
    assert len(backend.seen) == 3


async def test_an_attempt_that_breaks_in_an_unforeseen_way_fails_alone(
    autojump_clock: Any, backend: FakeBackend, caplog: pytest.LogCaptureFixture
) -> None:
    backend.errors = [ZeroDivisionError("a bug")]
    async with open_fake_queue(backend) as queue:
        first = await queue.submit(oq.generate("m", "x"))
        second = await queue.submit(oq.generate("m", "y"))
        with pytest.raises(TaskFailed, match="internal error: ZeroDivisionError: a bug"):
            await first.result()
        assert (await second.wait()).status == "completed"
    assert "attempt 1 broke" in caplog.text


async def test_a_delayed_task_starts_at_its_time(autojump_clock: Any, backend: FakeBackend) -> None:
    async with open_fake_queue(backend) as queue:
        begin = trio.current_time()
        handle = await queue.submit(oq.generate("m", "x", run_at=queue.clock.now() + 90.0))
        assert (await handle.task()).status == "scheduled"
        await handle.wait()
    assert backend.times[0] - begin == pytest.approx(90.0, abs=0.001)


async def test_the_next_attempt_is_under_way_before_the_last_ones_end_is_committed(
    autojump_clock: Any, backend: FakeBackend
) -> None:
    journal = WatchedJournal()
    async with open_fake_queue(backend, journal, max_workers=1, paused=True) as queue:
        await queue.submit_many([oq.generate("m", str(number)) for number in range(4)])
        started: list[int] = []
        journal.before = lambda number: started.append(len(backend.seen))
        await queue.resume()
        while (await queue.status()).completed_tasks < 4:
            await trio.sleep(0.01)
        ended = [
            sum(write.state.status == "completed" for step in steps for write in step.writes)
            for steps in journal.commits[-len(started) :]
        ]
    known = 0
    for seen, ends in zip(started, ended, strict=True):
        known += ends
        assert seen == min(4, known + 1) or not ends


async def test_no_more_tasks_run_at_a_time_than_there_are_workers(
    autojump_clock: Any, backend: FakeBackend
) -> None:
    backend.seconds = 1.0
    async with open_fake_queue(backend, max_workers=3) as queue:
        begin = trio.current_time()
        await queue.run_batch([oq.generate("m", str(n)) for n in range(9)])
        assert trio.current_time() - begin == pytest.approx(3.0, abs=0.01)
    assert backend.most == 3


async def test_an_outage_spends_no_retry_and_ends_within_a_second_of_the_servers_return(
    autojump_clock: Any,
    backend: FakeBackend,
) -> None:
    backend.error, backend.reachable = GONE, False
    async with open_fake_queue(backend) as queue:
        handle = await queue.submit(oq.generate("m", "x", max_retries=0))
        await trio.sleep(60.0)
        assert not (await queue.hosts())[0].up
        assert len(backend.seen) == 1
        backend.error, backend.reachable = None, True
        back = trio.current_time()
        task = await handle.wait()
        assert trio.current_time() - back <= 1.0
    assert (task.status, task.state.retry_count) == ("completed", 0)
    assert [attempt.outcome for attempt in task.state.attempts] == ["unreachable", "succeeded"]


# --- limits on time
@pytest.mark.parametrize(("own", "seconds"), [(None, 20.0), (5.0, 5.0)])
async def test_an_attempt_is_cut_off_after_its_time_and_tried_once_more(
    autojump_clock: Any, backend: FakeBackend, own: float | None, seconds: float
) -> None:
    backend.close_gate()
    async with open_fake_queue(backend, ollama__timeout=20.0) as queue:
        handle = await queue.submit(oq.generate("m", "x", timeout=own, max_retries=5))
        task = await handle.wait()
    spent = [(attempt.finished_at or 0.0) - attempt.started_at for attempt in task.state.attempts]
    assert spent == pytest.approx([seconds, seconds], abs=0.01)
    assert (task.status, task.state.error_code) == ("failed", "timeout")
    assert f"within {seconds:g} s" in (task.state.error or "")
    assert len(backend.stopped) == 2


async def test_a_timeout_of_0_is_no_limit(autojump_clock: Any, backend: FakeBackend) -> None:
    backend.seconds = 1e6
    async with open_fake_queue(backend, ollama__timeout=20.0) as queue:
        assert (await (await queue.submit(oq.generate("m", "x", timeout=0))).wait()).status == "completed"


# --- cancel
async def test_cancelling_a_running_task_stops_the_backend_and_the_task_stays_cancelled(
    autojump_clock: Any,
    backend: FakeBackend,
) -> None:
    backend.close_gate()
    async with open_fake_queue(backend, max_workers=1) as queue:
        handle = await queue.submit(oq.generate("m", "x"))
        await trio.testing.wait_all_tasks_blocked()
        assert (await handle.cancel()).status == "cancelled"
        backend.gate.set()
        assert (await (await queue.submit(oq.generate("m", "y"))).wait()).status == "completed"
        assert (await handle.task()).status == "cancelled"
        with pytest.raises(TaskCancelled):
            await handle.result()
        with pytest.raises(TaskConflict, match="it is finished"):
            await handle.cancel()
    assert backend.stopped == [backend.seen[0]]
    assert len(backend.seen) == 2


async def test_a_cancelled_retry_does_not_come(autojump_clock: Any, backend: FakeBackend) -> None:
    backend.error = BUSY
    async with open_fake_queue(backend) as queue:
        handle = await queue.submit(oq.generate("m", "x"))
        await trio.sleep(0.5)
        await handle.cancel()
        await trio.sleep(100.0)
    assert len(backend.seen) == 1


async def test_a_finished_task_runs_again_when_asked(autojump_clock: Any, backend: FakeBackend) -> None:
    async with open_fake_queue(backend) as queue:
        handle = await queue.submit(oq.generate("m", "x"))
        await handle.wait()
        assert (await queue.retry(handle.id)).status == "pending"
        task = await handle.wait()
    assert [attempt.number for attempt in task.state.attempts] == [1, 2]


async def test_one_request_may_name_a_task_twice(autojump_clock: Any, backend: FakeBackend) -> None:
    async with open_fake_queue(backend) as queue:
        handle = await queue.submit(oq.generate("m", "x"))
        await handle.wait()
        first, second = await queue.retry_many([handle.key, handle.key])
    assert not isinstance(first, Exception)
    assert isinstance(second, TaskConflict)


# --- pause, drain, stop
async def test_a_paused_queue_takes_tasks_and_starts_none(autojump_clock: Any, backend: FakeBackend) -> None:
    async with open_fake_queue(backend) as queue:
        await queue.pause()
        handle = await queue.submit(oq.generate("m", "x"))
        await trio.sleep(1000.0)
        assert (await handle.task()).status == "pending"
        assert (await queue.status()).paused
        await queue.resume()
        assert (await handle.wait()).status == "completed"


async def test_a_queue_may_be_opened_paused(autojump_clock: Any, backend: FakeBackend) -> None:
    async with open_fake_queue(backend, paused=True) as queue:
        handle = await queue.submit(oq.generate("m", "x"))
        await trio.sleep(10.0)
        assert backend.seen == []
        await queue.resume()
        await handle.wait()


async def test_a_drain_lets_finish_what_ends_within_the_grace_and_requeues_the_rest(
    autojump_clock: Any,
    backend: FakeBackend,
) -> None:
    async with open_fake_queue(backend, max_workers=2) as queue:
        backend.seconds = 5.0
        short = await queue.submit(oq.generate("m", "short"))
        await trio.testing.wait_all_tasks_blocked()
        backend.seconds = 100.0
        long = await queue.submit(oq.generate("m", "long"))
        waiting = await queue.submit(oq.generate("m", "waiting"))
        begin = trio.current_time()
        await queue.drain(20.0)
        assert trio.current_time() - begin == pytest.approx(20.0, abs=0.01)
        assert [(await h.task()).status for h in (short, long, waiting)] == [
            "completed",
            "pending",
            "pending",
        ]
        task = await long.task()
        assert (task.state.attempts[-1].outcome, task.state.retry_count) == ("interrupted", 0)
        with pytest.raises(QueueClosed):
            await queue.submit(oq.generate("m", "late"))


async def test_a_drain_ends_as_soon_as_nothing_runs(autojump_clock: Any, backend: FakeBackend) -> None:
    backend.seconds = 5.0
    async with open_fake_queue(backend) as queue:
        await queue.submit(oq.generate("m", "x"))
        begin = trio.current_time()
        await queue.drain(20.0)
        assert trio.current_time() - begin == pytest.approx(5.0, abs=0.01)


async def test_at_the_end_of_the_block_what_runs_is_interrupted_and_pending_on_disk(
    autojump_clock: Any,
    backend: FakeBackend,
) -> None:
    backend.close_gate()
    journal = Kept()
    async with open_fake_queue(backend, journal) as queue:
        handle = await queue.submit(oq.generate("m", "x"))
        await trio.testing.wait_all_tasks_blocked()
    (task,) = journal.get([handle.key])
    assert task is not None
    assert (task.status, task.state.attempts[-1].outcome) == (Status.PENDING, "interrupted")
    assert backend.closed


class Kept(WatchedJournal):
    """A journal in memory that a test can read after the queue's end."""

    def close(self) -> None: ...


# --- waiting
async def test_a_wait_ends_after_its_time_and_the_task_goes_on(
    autojump_clock: Any, backend: FakeBackend
) -> None:
    backend.seconds = 50.0
    async with open_fake_queue(backend) as queue:
        handle = await queue.submit(oq.generate("m", "x"))
        with pytest.raises(WaitTimeout, match="is not finished after 10 s"):
            await handle.wait(10.0)
        assert (await handle.wait(100.0)).status == "completed"


async def test_a_wait_of_0_seconds_returns_a_finished_task(autojump_clock: Any, backend: FakeBackend) -> None:
    async with open_fake_queue(backend) as queue:
        handle = await queue.submit(oq.generate("m", "x"))
        with pytest.raises(WaitTimeout):
            await handle.wait(0)
        await handle.wait()
        assert (await handle.wait(0)).status == "completed"


# --- restart
async def test_a_restart_runs_what_was_not_finished_and_nothing_else(
    autojump_clock: Any, backend: FakeBackend, tmp_path: Any
) -> None:
    backend.errors = [BUSY]
    async with open_fake_queue(backend, open_journal(tmp_path), max_workers=1) as queue:
        retried = await queue.submit(oq.generate("m", "retried", priority=10))
        done = await queue.submit(oq.generate("m", "done"))
        await done.wait()
        due = (await retried.task()).state.run_at
        backend.close_gate()
        running = await queue.submit(oq.generate("m", "running"))
        waiting = await queue.submit(oq.generate("m", "waiting"))
        await trio.testing.wait_all_tasks_blocked()
    before = len(backend.seen)
    backend.gate.set()
    async with open_fake_queue(backend, open_journal(tmp_path), max_workers=1) as queue:
        assert (await queue.get(retried.id)).state.run_at == due
        for handle in (retried, running, waiting):
            assert (await queue.wait(handle.key)).status == "completed"
        assert (await queue.get(done.id)).state.attempts[-1].number == 1
        assert [a.outcome for a in (await queue.get(running.id)).state.attempts] == [
            "interrupted",
            "succeeded",
        ]
    prompts = [spec.payload for spec in backend.seen[before:]]
    assert prompts == [b'{"prompt":"running"}', b'{"prompt":"waiting"}', b'{"prompt":"retried"}']
