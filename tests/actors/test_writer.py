from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from fakes import WatchedJournal

from oq.actors.writer import BATCH_STEPS, RETRY_SECONDS, run_writer
from oq.core.events import EventType, Notice
from oq.core.messages import Announce, Respond, Step, WakeAt, Write
from oq.core.model import Status, TaskSpec, TaskState
from oq.engine import inline
from oq.errors import StorageFull, StorageLocked
from oq.health import Health

from .conftest import Answers, drained

SPEC = TaskSpec("generate", "m", b'{"prompt": "x"}')
TOLD = Announce((Notice(EventType.HOST_UP, "h"),))


class Desk:
    """A writer and all that is around it; `log` is what it did, in order."""

    def __init__(self, size: int) -> None:
        self.steps, self.steps_out = trio.open_memory_channel[Step](size)
        self.alarms, self.alarms_out = trio.open_memory_channel[WakeAt](10)
        self.events, self.events_out = trio.open_memory_channel[Announce](1000)
        self.journal = WatchedJournal()
        self.health = Health()
        self.log: list[str] = []
        self.journal.before = lambda number: self.log.append("commit")
        self.key = 0

    def committed(self, batch: Sequence[Step]) -> None:
        self.log.append(f"committed {len(batch)}")

    def step(self, *effects: Any) -> Step:
        self.key += 1
        return Step((Write(self.key, TaskState(Status.PENDING, 5), SPEC),), effects=effects)

    def answer(self, name: str) -> Respond:
        desk = self

        class Told(Answers):
            def send_nowait(self, value: Any, /) -> None:
                desk.log.append(f"{name}: {value}")

        return Respond(Told(), "done")


@asynccontextmanager
async def open_desk(size: int = 1000) -> AsyncIterator[Desk]:
    desk = Desk(size)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            run_writer,
            desk.steps_out,
            desk.alarms,
            desk.events,
            desk.journal,
            inline,
            desk.health,
            desk.committed,
        )
        async with desk.steps:
            yield desk
    desk.journal.close()


async def test_answers_and_events_leave_after_the_commit_in_order(autojump_clock: Any) -> None:
    async with open_desk() as desk:
        desk.steps.send_nowait(desk.step(TOLD, desk.answer("first")))
        desk.steps.send_nowait(desk.step(desk.answer("second"), TOLD))
    assert desk.log == ["commit", "committed 2", "first: done", "second: done"]
    assert drained(desk.events_out) == [TOLD, TOLD]


async def test_an_event_is_sent_before_the_answer_that_follows_it(autojump_clock: Any) -> None:
    async with open_desk() as desk:
        seen: list[int] = []

        class Looks(Answers):
            def send_nowait(self, value: Any, /) -> None:
                seen.append(desk.events_out.statistics().current_buffer_used)

        desk.steps.send_nowait(desk.step(TOLD, Respond(Looks(), None)))
    assert seen == [1]


async def test_the_last_alarm_of_a_batch_holds(autojump_clock: Any) -> None:
    async with open_desk() as desk:
        for at in (30.0, 20.0, 40.0):
            desk.steps.send_nowait(desk.step(WakeAt(at)))
    assert drained(desk.alarms_out) == [WakeAt(40.0)]


async def test_a_step_that_changes_nothing_on_disk_costs_no_commit(autojump_clock: Any) -> None:
    async with open_desk() as desk:
        desk.steps.send_nowait(Step(effects=(desk.answer("free"),)))
    assert desk.log == ["free: done"]


async def test_the_switch_alone_is_a_change(autojump_clock: Any) -> None:
    async with open_desk() as desk:
        desk.steps.send_nowait(Step(paused=True))
    assert desk.log == ["commit", "committed 1"]


async def test_a_commit_takes_a_bounded_number_of_steps(autojump_clock: Any) -> None:
    async with open_desk() as desk:
        for _ in range(BATCH_STEPS + 10):
            desk.steps.send_nowait(desk.step())
    assert [len(steps) for steps in desk.journal.commits] == [BATCH_STEPS, 10]


async def test_while_the_disk_refuses_callers_are_told_and_events_wait(autojump_clock: Any) -> None:
    async with open_desk() as desk:
        desk.journal.refuses = True
        await desk.steps.send(desk.step(TOLD, desk.answer("early")))
        await trio.testing.wait_all_tasks_blocked()
        assert desk.log == ["early: the store cannot be written: No space left on device"]
        assert isinstance(desk.health.storage_error, StorageFull)
        await desk.steps.send(desk.step(desk.answer("late")))
        await trio.sleep(2 * RETRY_SECONDS + 0.1)
        assert desk.log[1:] == ["late: the store cannot be written: No space left on device"]
        assert drained(desk.events_out) == []
        desk.journal.refuses = False
    assert desk.log[2:] == ["commit", "committed 2"], "nobody is answered twice"
    assert drained(desk.events_out) == [TOLD]
    assert desk.health.storage_ok


async def test_a_store_that_somebody_else_has_taken_ends_the_writer(autojump_clock: Any) -> None:
    def taken(number: int) -> None:
        raise StorageLocked("taken")

    async def write() -> None:
        async with open_desk() as desk:
            desk.journal.before = taken
            await desk.steps.send(desk.step())
            await trio.sleep_forever()

    with trio.fail_after(1000.0), pytest.raises(ExceptionGroup) as caught:
        await write()
    assert caught.group_contains(StorageLocked)
