"""Bus (event bus): owns the event log and the text of running attempts; tells the log file of each step, too."""

from __future__ import annotations

import logging

import trio

from oq.actors.channels import take_waiting
from oq.core.events import Change, EventType, Happening, Notice
from oq.core.ids import format_id
from oq.core.messages import Announce, Chunk
from oq.core.model import TaskState
from oq.eventlog import EventLog
from oq.ports import Clock, Piece
from oq.transcript import Transcripts

log = logging.getLogger(__name__)

ITEMS_PER_TURN = 16  # at most about a millisecond
LINES_PER_STEP = 100  # a larger batch is logged as one line
_ENDS = {EventType.TASK_COMPLETED, EventType.TASK_FAILED, EventType.TASK_CANCELLED}
_LEVELS = {EventType.TASK_FAILED: logging.WARNING, EventType.HOST_DOWN: logging.WARNING}


async def run_bus(
    events: trio.MemoryReceiveChannel[Announce | Chunk],
    history: EventLog,
    transcripts: Transcripts,
    clock: Clock,
) -> None:
    """Pass on what happened and what the models write. Never waits for a reader: readers pull."""
    async with events:
        try:
            async for first in events:
                for item in (first, *take_waiting(events, ITEMS_PER_TURN)):
                    if isinstance(item, Chunk):
                        transcripts.add(item.key, item.attempt, Piece(item.text, item.kind, item.line))
                    else:
                        history.append(item.happenings, clock.now())
                        for happening in item.happenings:
                            if isinstance(happening, Change):
                                _follow(happening, transcripts)
                        _log(item.happenings)
        finally:
            history.close()


def _follow(change: Change, transcripts: Transcripts) -> None:
    if change.type is EventType.TASK_STARTED:
        if change.state is not None:
            transcripts.announce(change.key, change.state.attempts[-1].number)
    elif change.type in _ENDS:
        transcripts.end(change.key)
    elif change.type in (EventType.TASK_RETRYING, EventType.TASK_REQUEUED):
        transcripts.release(change.key)


# --- one log line for each step of a task's life; never a prompt or a result ------------------------------------
def _log(happenings: tuple[Happening, ...]) -> None:
    if not log.isEnabledFor(logging.INFO):
        return
    if len(happenings) > LINES_PER_STEP:
        counts: dict[str, int] = {}
        for happening in happenings:
            counts[happening.type] = counts.get(happening.type, 0) + 1
        log.info("%s", ", ".join(f"{count} x {name}" for name, count in counts.items()))
        return
    for happening in happenings:
        level = _LEVELS.get(happening.type, logging.INFO)
        if isinstance(happening, Notice):
            log.log(
                level, "%s", " ".join(filter(None, (happening.type, happening.subject, happening.detail)))
            )
        else:
            log.log(level, "task %s %s%s", format_id(happening.key), happening.type.removeprefix("task_"),
                    _details(happening), extra=_fields(happening))  # fmt: skip


def _details(change: Change) -> str:
    state = change.state
    if state is None:
        return ""
    parts = [f" {change.task_type} {change.model} priority={state.priority}"]
    if state.attempts and change.type is not EventType.TASK_SUBMITTED:
        last = state.attempts[-1]
        parts.append(f"attempt={last.number} host={last.host}")
        if last.finished_at is not None:
            parts.append(f"seconds={last.finished_at - last.started_at:.3f}")
    if state.error_code:
        parts.append(f"code={state.error_code}")
    return " ".join(parts)


def _fields(change: Change) -> dict[str, object]:
    state: TaskState | None = change.state
    fields: dict[str, object] = {"event": str(change.type), "task": format_id(change.key)}
    if state is not None:
        fields |= {"type": change.task_type, "model": change.model, "priority": state.priority}
        if state.attempts:
            fields |= {"attempt": state.attempts[-1].number, "host": state.attempts[-1].host}
        if state.error_code:
            fields["code"] = state.error_code
    return fields
