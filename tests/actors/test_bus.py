from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from oq.actors.bus import LINES_PER_STEP, run_bus
from oq.clock import WallClock
from oq.core.events import Change, EventType, Notice
from oq.core.ids import format_id
from oq.core.messages import Announce, Chunk
from oq.core.model import Attempt, Status, TaskState
from oq.eventlog import EventLog
from oq.ports import Piece
from oq.transcript import Transcripts

KEY = 1 << 50


class Line:
    def __init__(self) -> None:
        self.events, self.events_out = trio.open_memory_channel[Announce | Chunk](1000)
        self.history = EventLog(100)
        self.transcripts = Transcripts()

    async def tell(self, type: EventType, status: Status, attempt: int = 1, **fields: Any) -> None:
        state = TaskState(status, 5, attempts=(Attempt(attempt, "h", 1.0, **fields),))
        await self.say(Announce((Change(type, KEY, "chat", "m", ("tag",), state),)))

    async def say(self, item: Announce | Chunk) -> None:
        await self.events.send(item)
        await trio.testing.wait_all_tasks_blocked()


@asynccontextmanager
async def open_line() -> AsyncIterator[Line]:
    line = Line()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_bus, line.events_out, line.history, line.transcripts, WallClock())
        async with line.events:
            yield line


async def test_text_is_held_back_until_its_start_is_announced(autojump_clock: Any) -> None:
    async with open_line() as line:
        with line.transcripts.watch(KEY) as transcript:
            await line.say(Chunk(KEY, 1, "Hel"))
            assert transcript.since(0, 0) == (0, [])
            await line.tell(EventType.TASK_STARTED, Status.RUNNING)
            assert transcript.since(0, 0) == (1, [Piece("Hel")])
            await line.say(Chunk(KEY, 1, "lo"))
            assert transcript.since(1, 1) == (1, [Piece("lo")])


async def test_text_of_the_next_attempt_is_held_back_too(autojump_clock: Any) -> None:
    async with open_line() as line:
        with line.transcripts.watch(KEY) as transcript:
            await line.tell(EventType.TASK_STARTED, Status.RUNNING)
            await line.say(Chunk(KEY, 1, "old"))
            await line.say(Chunk(KEY, 2, "new"))
            assert transcript.since(1, 1) == (1, [])
            await line.tell(EventType.TASK_STARTED, Status.RUNNING, 2)
            assert transcript.since(1, 1) == (2, [Piece("new")])


@pytest.mark.parametrize(
    ("type", "status"),
    [
        (EventType.TASK_COMPLETED, Status.COMPLETED),
        (EventType.TASK_FAILED, Status.FAILED),
        (EventType.TASK_CANCELLED, Status.CANCELLED),
    ],
)
async def test_the_end_of_a_task_lets_its_text_go_and_tells_who_watches(
    autojump_clock: Any, type: EventType, status: Status
) -> None:
    async with open_line() as line:
        with line.transcripts.watch(KEY) as transcript:
            await line.tell(EventType.TASK_STARTED, Status.RUNNING)
            assert not transcript.ended
            await line.tell(type, status)
            assert transcript.ended
        assert len(line.transcripts) == 0


@pytest.mark.parametrize("type", [EventType.TASK_RETRYING, EventType.TASK_REQUEUED])
async def test_text_of_an_attempt_that_broke_off_is_not_kept_for_nobody(
    autojump_clock: Any, type: EventType
) -> None:
    async with open_line() as line:
        await line.say(Chunk(KEY, 1, "Hel"))
        await line.tell(EventType.TASK_STARTED, Status.RUNNING)
        await line.tell(type, Status.PENDING)
        assert len(line.transcripts) == 0


async def test_events_are_numbered_and_carry_the_time(autojump_clock: Any) -> None:
    async with open_line() as line:
        await line.tell(EventType.TASK_STARTED, Status.RUNNING)
        await trio.sleep(10.0)
        await line.tell(EventType.TASK_COMPLETED, Status.COMPLETED)
        first, second = line.history.since(0)
        assert (first.seq, second.seq) == (1, 2)
        assert second.at - first.at == pytest.approx(10.0, abs=0.001)
        assert not line.history.closed
    assert line.history.closed


async def test_each_step_is_one_log_line_without_the_prompt_or_the_text(
    autojump_clock: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "oq")
    async with open_line() as line:
        await line.say(Chunk(KEY, 1, "secret text"))
        await line.tell(EventType.TASK_STARTED, Status.RUNNING)
        await line.tell(EventType.TASK_FAILED, Status.FAILED, finished_at=3.5)
        await line.say(Announce((Notice(EventType.HOST_DOWN, "h", "no route"),)))
        await line.say(Announce((Change(EventType.TASK_DELETED, KEY),)))
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("INFO", f"task {format_id(KEY)} started chat m priority=5 attempt=1 host=h"),
        ("WARNING", f"task {format_id(KEY)} failed chat m priority=5 attempt=1 host=h seconds=2.500"),
        ("WARNING", "host_down h no route"),
        ("INFO", f"task {format_id(KEY)} deleted"),
    ]
    assert caplog.records[0].__dict__["task"] == format_id(KEY)


async def test_a_large_batch_is_one_line(autojump_clock: Any, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "oq")
    change = Change(EventType.TASK_SUBMITTED, KEY, "chat", "m", (), TaskState(Status.PENDING, 5))
    async with open_line() as line:
        await line.say(Announce((change,) * (LINES_PER_STEP + 1)))
    assert caplog.messages == [f"{LINES_PER_STEP + 1} x task_submitted"]
