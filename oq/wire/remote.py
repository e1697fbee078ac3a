"""What a client reads back from the server's JSON. Unknown fields are ignored: an older client reads a newer server."""

from __future__ import annotations

import json
from typing import Any, TypeVar

import msgspec

from oq.core.model import FINISHED, Status
from oq.errors import InvalidTask, ServerError
from oq.wire.scalars import parse_time


class RemoteAttempt(msgspec.Struct, frozen=True):
    number: int = 0
    host: str = ""
    started_at: float | None = None
    finished_at: float | None = None
    outcome: str = ""
    error: str | None = None
    code: str | None = None


class RemoteWaiting(msgspec.Struct, frozen=True):
    """Why a task does not run yet: a word, a sentence, and what is known about it."""

    reason: str
    text: str = ""
    until: float | None = None
    error: str | None = None
    hosts: tuple[str, ...] = ()


class RemoteTask(msgspec.Struct, frozen=True):
    """A task as the server told it: the attributes are the JSON's names. Times are Unix seconds."""

    id: str
    type: str = ""
    model: str = ""
    status: Status = Status.PENDING
    priority: int = 5
    payload: dict[str, Any] | None = None
    prompt: str | None = None
    options: dict[str, Any] | None = None
    keep_alive: str | int | float | None = None
    timeout: float | None = None
    tags: tuple[str, ...] = ()
    created_at: float | None = None
    run_at: float | None = None
    started_at: float | None = None
    completed_at: float | None = None
    host: str | None = None
    error: str | None = None
    error_code: str | None = None
    tokens: int | None = None
    tokens_per_second: float | None = None
    output_start: str = ""
    guard: str = "report"
    warnings: tuple[str, ...] = ()
    output: str = ""
    result: dict[str, Any] | None = None
    retry_count: int = 0
    max_retries: int = 0
    revision: int = 0
    attempts: tuple[RemoteAttempt, ...] = ()
    queue_position: int | None = None
    expected_start_at: float | None = None
    waiting: RemoteWaiting | None = None

    @property
    def finished(self) -> bool:
        return self.status in FINISHED


class RemoteEvent(msgspec.Struct, frozen=True):
    """One event; *task* is how the task stands (only what the event told), None for the queue's own events."""

    seq: int
    type: str
    timestamp: float | None = None
    task_id: str | None = None
    status: Status | None = None
    task: RemoteTask | None = None
    subject: str | None = None
    detail: str | None = None


class RemoteLine(msgspec.Struct, frozen=True):
    """One line of a task's text; *type* is ``text``, ``restart`` or ``end`` (then *task* is the finished task)."""

    type: str
    attempt: int = 0
    offset: int = 0
    text: str = ""
    kind: str = "content"
    task: RemoteTask | None = None
    error: str | None = None
    code: str | None = None


class RemoteHost(msgspec.Struct, frozen=True):
    name: str
    url: str = ""
    slots: int = 0
    busy: int = 0
    up: bool = False
    models: tuple[str, ...] = ()
    version: str | None = None
    available: tuple[str, ...] = ()
    loaded: tuple[str, ...] = ()
    error: str | None = None


class RemoteStats(msgspec.Struct, frozen=True):
    """The queue's statistics; the attributes are the JSON's names. Times are Unix seconds."""

    pending_tasks: int = 0
    running_tasks: int = 0
    completed_tasks: int = 0
    failed_tasks: int = 0
    cancelled_tasks: int = 0
    total_tasks: int = 0
    queues_by_priority: dict[int, int] = msgspec.field(default_factory=dict)
    workers_active: int = 0
    workers_idle: int = 0
    scheduled_tasks: int = 0
    by_type: dict[str, int] = msgspec.field(default_factory=dict)
    by_model: dict[str, int] = msgspec.field(default_factory=dict)
    paused: bool = False
    draining: bool = False
    storage_ok: bool = True
    oldest_waiting_at: float | None = None
    started_at: float | None = None
    finished_since_start: int = 0
    hosts: tuple[RemoteHost, ...] = ()


class Submitted(msgspec.Struct, frozen=True):
    """The answer to a submission."""

    task_id: str
    status: str = "pending"


class BatchItem(msgspec.Struct, frozen=True):
    """One item of a batch: its id, or what is wrong with it."""

    index: int
    task_id: str | None = None
    error: str | None = None
    code: str | None = None
    field: str | None = None


class BatchAnswer(msgspec.Struct, frozen=True):
    submitted: int
    failed: int
    items: tuple[BatchItem, ...] = ()


class BulkError(msgspec.Struct, frozen=True):
    id: str
    error: str = ""
    code: str = ""


class BulkAnswer(msgspec.Struct, frozen=True):
    matched: int
    done: int
    skipped: int
    errors: tuple[BulkError, ...] = ()


class RemoteError(msgspec.Struct, frozen=True):
    """An error answer."""

    error: str
    code: str = "error"
    field: str | None = None


T = TypeVar("T")
_TIMES = frozenset(
    {"created_at", "run_at", "started_at", "completed_at", "finished_at", "expected_start_at", "timestamp",
     "oldest_waiting_at", "until"}
)  # fmt: skip
_CARRIED = frozenset(
    {"payload", "options", "result"}
)  # the user's and the model's own JSON: not ours to read


def _with_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: parse_time(item, name)
            if name in _TIMES and isinstance(item, str)
            else item
            if name in _CARRIED
            else _with_times(item)
            for name, item in value.items()
        }
    return [_with_times(item) for item in value] if isinstance(value, list) else value


def _decoded(given: bytes | str) -> Any:
    try:
        return msgspec.json.decode(given)
    except msgspec.DecodeError:
        # A number past the range of a double, in a payload, is JSON all the same; it reads as infinity here.
        return json.loads(given)


def _read(given: bytes | str | dict[str, Any] | list[Any], wanted: type[T]) -> T:
    try:
        value = _decoded(given) if isinstance(given, (bytes, str)) else given
        # queues_by_priority has numbers as keys, which JSON writes as text
        return msgspec.convert(_with_times(value), wanted, strict=False, str_keys=True)
    except (ValueError, RecursionError, InvalidTask) as exc:  # a time that is none is the server's here, too
        raise ServerError(f"the server's answer is not what this client knows: {exc}") from None


def decode_task(given: bytes | dict[str, Any]) -> RemoteTask:
    return _read(given, RemoteTask)


def decode_tasks(given: bytes) -> list[RemoteTask]:
    return _read(given, list[RemoteTask])


def decode_event(given: bytes | str) -> RemoteEvent:
    return _read(given, RemoteEvent)


def decode_line(given: bytes | str) -> RemoteLine:
    """Read one line of a task's text (see `oq.wire.stream_line`)."""
    return _read(given, RemoteLine)


def decode_status(given: bytes) -> RemoteStats:
    return _read(given, RemoteStats)


def decode_hosts(given: bytes) -> list[RemoteHost]:
    return _read(given, list[RemoteHost])


def decode_submitted(given: bytes) -> Submitted:
    return _read(given, Submitted)


def decode_batch(given: bytes) -> BatchAnswer:
    return _read(given, BatchAnswer)


def decode_bulk(given: bytes) -> BulkAnswer:
    return _read(given, BulkAnswer)


def decode_error(given: bytes) -> RemoteError | None:
    """Return the error in an answer, None if there is none to read (a proxy's page)."""
    try:
        return msgspec.json.decode(given, type=RemoteError)
    except (ValueError, RecursionError):
        return None
