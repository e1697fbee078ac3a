"""What the server says, as JSON. Times are RFC 3339 in UTC; what is empty is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import msgspec
from msgspec import Raw

from oq.core.events import Change, Event
from oq.core.ids import format_id
from oq.core.model import Attempt, Status, TaskState
from oq.core.task import Task
from oq.errors import OqError
from oq.wire.scalars import optional_time, rfc3339

PROMPT_SHOWN = 200  # characters of the prompt in lists

_encode = msgspec.json.Encoder().encode


class _Out(msgspec.Struct, omit_defaults=True, kw_only=True, gc=False):
    """Base: a field at its default is left out."""


class _AttemptOut(_Out, kw_only=True):
    number: int
    host: str
    started_at: str
    finished_at: str | None = None
    outcome: str = ""
    error: str | None = None
    code: str | None = None


class _TaskOut(_Out, kw_only=True):
    id: str
    type: str
    priority: int
    status: str
    model: str
    payload: Raw | None = None
    prompt: str | None = None
    options: Raw | None = None
    keep_alive: Raw | None = None
    timeout: float | None = None
    tags: tuple[str, ...] = ()
    created_at: str
    run_at: str | None = None
    started_at: str | None = None
    completed_at: str | None = None
    host: str | None = None
    error: str | None = None
    error_code: str | None = None
    tokens: int | None = None
    tokens_per_second: float | None = None
    output_start: str = ""
    guard: str = "report"
    warnings: tuple[str, ...] = ()
    output: str = ""
    result: Raw | None = None
    retry_count: int
    max_retries: int
    revision: int
    attempts: tuple[_AttemptOut, ...] = ()


class _StateOut(_Out, kw_only=True):
    """The task inside an event."""

    id: str
    type: str | None = None
    priority: int | None = None
    status: str | None = None
    model: str | None = None
    tags: tuple[str, ...] = ()
    created_at: str
    run_at: str | None = None
    started_at: str | None = None
    completed_at: str | None = None
    host: str | None = None
    error: str | None = None
    error_code: str | None = None
    retry_count: int | None = None
    revision: int | None = None
    tokens: int | None = None
    output_start: str = ""


def _raw(value: bytes | None) -> Raw | None:
    return None if value is None else Raw(value)


def _attempt(attempt: Attempt) -> _AttemptOut:
    return _AttemptOut(
        number=attempt.number,
        host=attempt.host,
        started_at=rfc3339(attempt.started_at),
        finished_at=optional_time(attempt.finished_at),
        outcome=attempt.outcome,
        error=attempt.error,
        code=attempt.code,
    )


Progress = tuple[int, float | None]
"""The pieces of text a running task has so far, and how many a second."""


def _task(task: Task, *, whole: bool, progress: Progress = (0, None)) -> _TaskOut:
    spec, state = task.spec, task.state
    pieces, rate = progress
    return _TaskOut(
        id=task.id,
        type=spec.type,
        priority=state.priority,
        status=state.status.value,
        model=spec.model,
        payload=Raw(spec.payload) if whole else None,
        prompt=None if whole else prompt_of(spec.payload),
        options=_raw(spec.options),
        keep_alive=_raw(spec.keep_alive),
        timeout=spec.timeout,
        tags=spec.tags,
        created_at=rfc3339(task.created_at),
        run_at=optional_time(state.run_at),
        started_at=optional_time(state.started_at),
        completed_at=optional_time(state.finished_at),
        host=state.host,
        error=state.error or None,
        error_code=state.error_code,
        tokens=pieces if state.status is Status.RUNNING else state.tokens,
        tokens_per_second=rate_of(state, rate),
        output_start=state.output_start,
        guard=spec.guard,
        warnings=state.warnings,
        output=task.output if whole else "",
        result=_raw(task.result_json) if whole else None,
        retry_count=state.retry_count,
        max_retries=spec.max_retries,
        revision=state.revision,
        attempts=tuple(map(_attempt, state.attempts)) if whole else (),
    )


def rate_of(state: TaskState, now: float | None = None) -> float | None:
    """Return the tokens a second: *now* of a running task, of a completed one those of its whole last attempt."""
    if state.status is Status.RUNNING:
        return None if now is None else round(now, 1)
    return state.tokens_per_second


def task_json(task: Task, progress: Progress = (0, None), **extra: object) -> bytes:
    """Return the whole task; *extra* are more fields, None ones left out."""
    text = _encode(_task(task, whole=True, progress=progress))
    more = {name: value for name, value in extra.items() if value is not None}
    return text if not more else text[:-1] + b"," + _encode(more)[1:]


def tasks_json(tasks: Iterable[Task], progress: Callable[[int], Progress] = lambda key: (0, None)) -> bytes:
    """Return a list: of each task what a table shows, with the beginning of its prompt for the payload.

    *progress* is asked for the keys of those that run.
    """
    return _encode(
        [
            _task(
                task, whole=False, progress=progress(task.key) if task.status is Status.RUNNING else (0, None)
            )
            for task in tasks
        ]
    )


class _Said(msgspec.Struct):
    content: str | None = None


class _Prompt(msgspec.Struct):
    messages: list[_Said] | None = None
    prompt: str | None = None
    input: str | list[str] | None = None


_decode_prompt = msgspec.json.Decoder(_Prompt).decode


def prompt_of(payload: bytes) -> str | None:
    """Return the beginning of what was asked: the last message, the prompt, the first text to embed."""
    try:
        found = _decode_prompt(payload)
    except (ValueError, RecursionError):
        return None
    text = found.prompt
    if found.messages:
        text = found.messages[-1].content
    elif found.input:
        text = found.input if isinstance(found.input, str) else found.input[0]
    return None if text is None else text[:PROMPT_SHOWN]


def submitted_json(key: int, status: str) -> bytes:
    """Return the answer to a submission."""
    return b'{"task_id":"%b","status":"%b"}' % (format_id(key).encode(), status.encode())


def batch_json(
    items: Sequence[int | OqError], *, submitted: bool = True, error: OqError | None = None
) -> bytes:
    """Return the answer to a batch: per item its id or what is wrong with it.

    With *submitted* False nothing was taken: an atomic batch with a wrong item; good items have only their index.
    *error* is why the batch ended early.
    """
    out: list[dict[str, object]] = []
    failed = 0
    for index, item in enumerate(items):
        if isinstance(item, OqError):
            failed += 1
            out.append({"index": index, **_error(item)})
        elif submitted:
            out.append({"index": index, "task_id": format_id(item)})
        else:
            out.append({"index": index})
    head: dict[str, object] = {} if error is None else _error(error)
    return _encode(
        {**head, "submitted": len(items) - failed if submitted else 0, "failed": failed, "items": out}
    )


def changed_json(key: int, state: TaskState) -> bytes:
    """Return how a task stands after a command: the fields that can have changed."""
    return _encode(_state(key, state))


def bulk_json(matched: int, done: int, skipped: Sequence[tuple[str, OqError]]) -> bytes:
    """Return the answer to a bulk request: *skipped* are ids and why."""
    errors = [{"id": id, **_error(error)} for id, error in skipped[:100]]
    return _encode({"matched": matched, "done": done, "skipped": len(skipped), "errors": errors})


def _state(key: int, state: TaskState | None, change: Change | None = None) -> _StateOut:
    from oq.core.ids import created_at

    known: dict[str, Any] = {}
    if change is not None:
        known = {"type": change.task_type, "model": change.model, "tags": change.tags}
    if state is not None:
        known |= {
            "priority": state.priority,
            "status": state.status.value,
            "run_at": optional_time(state.run_at),
            "started_at": optional_time(state.started_at),
            "completed_at": optional_time(state.finished_at),
            "host": state.host,
            "error": state.error or None,
            "error_code": state.error_code,
            "retry_count": state.retry_count,
            "revision": state.revision,
            "tokens": state.tokens,
            "output_start": state.output_start,
        }
    return _StateOut(id=format_id(key), created_at=rfc3339(created_at(key)), **known)


def event_json(event: Event) -> bytes:
    """Return one event. `task_id`, `status` and `timestamp` are the original's names."""
    what = event.what
    found: dict[str, object] = {"seq": event.seq, "type": str(what.type), "timestamp": rfc3339(event.at)}
    if isinstance(what, Change):
        found["task_id"] = format_id(what.key)
        if what.state is not None:
            found["status"] = what.state.status.value
        found["task"] = _state(what.key, what.state, what)
    else:
        found |= {k: v for k, v in (("subject", what.subject), ("detail", what.detail)) if v is not None}
    return _encode(found)


def _error(error: OqError) -> dict[str, object]:
    found: dict[str, object] = {"error": error.message, "code": error.code}
    field = getattr(error, "field", None)
    if field is not None:
        found["field"] = field
    return found


def error_json(error: OqError, **extra: object) -> bytes:
    """Return ``{"error", "code", "field"?}`` and *extra* fields."""
    return _encode({**_error(error), **extra})


def stream_line(item: Any) -> bytes:
    """Return one line (without newline) of a task's text: ``text``, ``restart`` or ``end``."""
    task = getattr(item, "task", None)
    if task is not None:
        return b'{"type":"end","task":' + task_json(task) + b"}"
    if hasattr(item, "text"):
        return _encode(
            {
                "type": "text",
                "kind": item.kind,
                "attempt": item.attempt,
                "offset": item.offset,
                "text": item.text,
            }
        )
    return _encode({"type": "restart", "attempt": item.attempt})


def resync_json(epoch: str, seq: int) -> bytes:
    """Return the news that some events are gone: read the current state again, it is that of event *seq* or later."""
    return _encode({"type": "resync", "epoch": epoch, "seq": seq})
