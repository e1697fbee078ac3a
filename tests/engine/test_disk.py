"""What is on disk when, and what a disk that refuses or a crash can do."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from fakes import FakeBackend, WatchedJournal, open_fake_queue

import oq
from oq.actors.writer import RETRY_SECONDS
from oq.core.messages import Step
from oq.core.model import Recovered, Status
from oq.engine import open_queue_from
from oq.errors import BackendError, OqError, StorageError, StorageFull
from oq.ports import Offload
from oq.store import open_journal
from oq.store.storages import DataFolder

BUSY = BackendError("the server is busy", "busy", retryable=True)


def journal_in(folder: Path) -> WatchedJournal:
    return WatchedJournal(DataFolder(folder))


def taking(seconds: float) -> Offload:
    """A disk of which each call takes so long."""

    async def offload(function: Any, /, *args: Any) -> Any:
        await trio.sleep(seconds)
        return function(*args)

    return offload


# --- a promise leaves only when it is on disk
async def test_when_submit_returns_a_fresh_reader_of_the_file_finds_the_task(tmp_path: Path) -> None:
    """A real file and real threads; the copy is what a kill at that moment would leave."""
    settings = oq.settings_from(storage_path=str(tmp_path / "data"))
    backends = {host.name: FakeBackend() for host in settings.hosts}
    journal = open_journal(settings.queue)
    async with open_queue_from(settings, journal=journal, backends=backends, paused=True) as queue:
        for number in range(10):
            handle = await queue.submit(oq.generate("m", f"prompt {number}"))
            copy = tmp_path / f"copy{number}"
            copy.mkdir()
            for file in (tmp_path / "data").iterdir():
                if file.suffix != ".lock":
                    (copy / file.name).write_bytes(file.read_bytes())
            reader = open_journal(copy)
            (task,) = reader.get([handle.key])
            reader.close()
            assert task is not None
            assert task.spec.payload == b'{"prompt":"prompt %d"}' % number


async def test_two_hundred_submits_at_once_share_a_few_commits(autojump_clock: Any) -> None:
    journal = WatchedJournal()
    async with open_fake_queue(FakeBackend(), journal, offload=taking(0.005), paused=True) as queue:
        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(queue.submit, oq.generate("m", str(number)))
        assert (await queue.status()).pending == 200
        assert len(journal.commits) <= 10


async def test_a_start_does_not_wait_for_the_disk_but_the_answer_does(autojump_clock: Any) -> None:
    backend = FakeBackend()
    async with open_fake_queue(backend, offload=taking(5.0)) as queue:
        begin = trio.current_time()
        await queue.submit(oq.generate("m", "x"))
        assert trio.current_time() - begin == pytest.approx(5.0, abs=0.01)
        assert backend.times[0] - begin == pytest.approx(0.0, abs=0.01)


# --- a crash
class Killed(Exception):
    """Stands for a kill -9: the queue is torn down at this very commit."""


async def work(folder: Path, journal: WatchedJournal, acknowledged: dict[str, str]) -> bool:
    """Submit, cancel and retry; write down what was acknowledged. Return whether it was killed."""
    backend = FakeBackend()
    backend.errors = [BUSY]
    try:
        async with open_fake_queue(backend, journal, max_workers=1) as queue:
            try:
                for number in range(5):
                    handle = await queue.submit(oq.generate("m", str(number), tags=[f"t{number}"]))
                    acknowledged[handle.id] = "submitted"
                for batch in await queue.submit_many(
                    [oq.generate("m", str(number)) for number in range(5, 9)], atomic=True
                ):
                    assert not isinstance(batch, OqError)
                    acknowledged[batch.id] = "submitted"
                last = max(acknowledged)
                await queue.cancel(last)
                acknowledged[last] = "cancelled"
                for id in sorted(acknowledged)[:-1]:
                    assert (await queue.wait(queue.resolve(id))).status == "completed"
                    acknowledged[id] = "completed"
            finally:
                journal.before = journal.after = lambda number: None  # a kill leaves nobody who commits
                journal.refuses = True
    except Killed:
        return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before", "after"])
async def test_after_a_crash_at_any_commit_every_acknowledged_task_is_there_once_and_ends(
    autojump_clock: Any, tmp_path: Path, moment: str
) -> None:
    for number in itertools.count(1):
        folder = tmp_path / str(number)
        journal = journal_in(folder)
        acknowledged: dict[str, str] = {}

        def kill(count: int, at: int = number) -> None:
            if count == at:
                raise Killed

        setattr(journal, moment, kill)
        killed = await work(folder, journal, acknowledged)

        backend = FakeBackend()
        async with open_fake_queue(backend, journal_in(folder)) as queue:
            found = {task.id: task.status for task in await queue.list()}
            assert set(acknowledged) <= set(found)
            for id, state in acknowledged.items():
                assert found[id] == state or state == "submitted", f"killed at commit {number}"
            for id, status in found.items():
                task = await queue.wait(queue.resolve(id))
                assert task.status in (Status.COMPLETED, Status.CANCELLED)
                if status.finished:
                    assert task.status == status
            unfinished = [id for id, status in found.items() if not status.finished]
            assert len(backend.seen) == len(unfinished), "a finished task ran again, or an unfinished one not"
        if not killed:
            assert number > 10, "there were commits to kill at"
            return


# --- a disk that refuses
async def test_a_commit_that_fails_answers_its_callers_and_all_who_passed_the_door(
    autojump_clock: Any,
) -> None:
    journal = WatchedJournal()
    async with open_fake_queue(FakeBackend(), journal, paused=True) as queue:
        journal.refuses = True
        answers: list[type] = []

        async def submit(number: int) -> None:
            with trio.fail_after(2 * RETRY_SECONDS + 0.1):
                try:
                    await queue.submit(oq.generate("m", str(number)))
                except StorageFull as error:
                    answers.append(type(error))

        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(submit, number)
        assert answers == [StorageFull] * 100
        journal.refuses = False


async def test_a_request_while_the_disk_refuses_is_answered_at_once_and_works_when_it_heals(
    autojump_clock: Any,
) -> None:
    journal, backend = WatchedJournal(), FakeBackend()
    async with open_fake_queue(backend, journal) as queue:
        before = await queue.submit(oq.generate("m", "before"))
        await before.wait()
        journal.refuses = True
        with pytest.raises(StorageFull, match="No space left"):
            await queue.submit(oq.generate("m", "refused"))
        assert not (await queue.status()).storage_ok
        begin = trio.current_time()
        for _ in range(3):
            with pytest.raises(StorageError):
                await queue.submit(oq.generate("m", "refused at the door"))
        assert trio.current_time() == pytest.approx(begin, abs=0.01)
        assert (await queue.get(before.id)).status == "completed", "reads go on"
        journal.refuses = False
        await trio.sleep(2 * RETRY_SECONDS)
        assert (await queue.status()).storage_ok
        assert (await (await queue.submit(oq.generate("m", "after"))).wait()).status == "completed"


async def test_what_runs_while_the_disk_refuses_is_not_forgotten(autojump_clock: Any) -> None:
    journal, backend = WatchedJournal(), FakeBackend()
    backend.seconds = 3.0
    async with open_fake_queue(backend, journal, max_workers=2) as queue:
        handles = [await queue.submit(oq.generate("m", str(number))) for number in range(6)]
        journal.refuses = True
        await trio.sleep(60.0)
        journal.refuses = False
        for handle in handles:
            assert (await handle.wait()).status == "completed"
    assert len(backend.seen) == 6, "each ran once"


async def test_a_pause_while_the_disk_refuses_is_answered_too(autojump_clock: Any) -> None:
    journal = WatchedJournal()
    async with open_fake_queue(FakeBackend(), journal) as queue:
        journal.refuses = True
        with pytest.raises(StorageError):
            await queue.submit(oq.generate("m", "x"))
        with trio.fail_after(2 * RETRY_SECONDS):
            with pytest.raises(StorageError):
                await queue.pause()
        journal.refuses = False


async def test_a_queue_whose_disk_stays_full_ends_within_its_time_and_without_an_error_of_its_own(
    autojump_clock: Any,
) -> None:
    journal = WatchedJournal()
    async with open_fake_queue(FakeBackend(), journal) as queue:
        journal.refuses = True
        with pytest.raises(StorageError):
            await queue.submit(oq.generate("m", "x"))
        begin = trio.current_time()
    assert trio.current_time() - begin < 10.0


# --- memory
async def test_the_specs_of_tasks_that_were_forgotten_at_once_leave_memory(
    autojump_clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from oq import engine

    held: list[Any] = []

    class Seen(engine.Payloads):
        def __init__(self) -> None:
            super().__init__()
            held.append(self)

    monkeypatch.setattr(engine, "Payloads", Seen)
    async with open_fake_queue(FakeBackend(), paused=True, max_completed_tasks=1) as queue:
        handles = await queue.submit_many([oq.generate("m", str(number)) for number in range(10)])
        await queue.cancel_many([handle.key for handle in handles if not isinstance(handle, OqError)])
        assert (await queue.status()).total == 1
        (payloads,) = held
        assert (payloads._specs, payloads._used) == ({}, 0)


def test_the_fake_journal_keeps_the_steps_of_each_commit() -> None:
    journal = WatchedJournal()
    journal.commit([Step(paused=True)])
    assert journal.commits == [[Step(paused=True)]]
    assert isinstance(journal.recover(), Recovered)
    journal.close()
