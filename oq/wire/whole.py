"""Whole tasks as lines of a file: everything a store holds of each, exactly.

JSON texts (payload, options, result) are base64: they come back byte for byte, whatever line ends or numbers are in
them. Times are Unix seconds as they are kept.
"""

from __future__ import annotations

import msgspec

from oq.core.ids import MS_IMPORTED, SHIFT, parse_id
from oq.core.model import PRIORITY_MAX, Status, TaskSpec, TaskState
from oq.core.task import Task
from oq.errors import InvalidTask

FORMAT = 1  # of a line; raised when an older oq could not read it


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    whole_task: int
    id: str
    spec: TaskSpec
    state: TaskState
    result: bytes | None = None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Line).decode


def whole_line(task: Task) -> bytes:
    """Return *task* as a line, without its newline."""
    return _encode(_Line(FORMAT, task.id, task.spec, task.state, task.result_json))


def parse_whole(line: bytes) -> Task:
    """Return the task of a line; `InvalidTask` says what is wrong with it."""
    try:
        found = _decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidTask(f"no whole task: {error}; `oq export --whole` writes them") from None
    if found.whole_task != FORMAT:
        raise InvalidTask(f"a whole task of format {found.whole_task}; this oq reads {FORMAT}", "whole_task")
    try:
        key = parse_id(found.id)
    except ValueError as error:
        raise InvalidTask(str(error), "id") from None
    if key >> SHIFT > MS_IMPORTED:
        raise InvalidTask(
            f"{found.id!r} is the id of a task of 2088 or later: no other could come after it", "id"
        )
    _check(found.spec, found.state, found.result)
    return Task(key, found.spec, found.state, found.result)


def _check(spec: TaskSpec, state: TaskState, result: bytes | None) -> None:
    """Refuse what the queue could not live with."""
    for name, text, shape in (
        ("spec.payload", spec.payload, dict[str, msgspec.Raw]),
        ("spec.options", spec.options, dict[str, msgspec.Raw]),
        ("spec.keep_alive", spec.keep_alive, str | int | float),
        ("result", result, dict[str, msgspec.Raw]),
    ):
        try:
            if text is not None:
                msgspec.json.decode(text, type=shape)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise InvalidTask(f"{name} is not what it should be: {error}", name) from None
    if not (0 <= spec.priority <= PRIORITY_MAX and 0 <= state.priority <= PRIORITY_MAX):
        raise InvalidTask(f"a priority is 0 to {PRIORITY_MAX}", "state.priority")
    if not spec.model or spec.max_retries < 0 or state.retry_count < 0 or state.revision < 1:
        raise InvalidTask("model, max_retries, retry_count or revision is out of its range", "spec")
    lacks = {
        Status.SCHEDULED: state.run_at is None and "run_at",
        Status.RUNNING: not state.attempts and "attempts",
        Status.COMPLETED: result is None and "result",
    }.get(state.status)
    if state.status.finished and state.finished_at is None:
        lacks = "finished_at"
    if lacks:
        raise InvalidTask(f"a task that is {state.status} has {lacks}; this one has not", f"state.{lacks}")


__all__ = ["parse_whole", "whole_line"]
