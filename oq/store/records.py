"""What lies on disk for each task. The import paths of these classes are the disk format: do not move them.

A `TaskRecord` is a tuple of (head, state, body, result):

- head: bytes, never changes: what scheduling needs to know of the request (model, tags, limits, ...);
- state: bytes, replaced at each step of the task's life, about 15–150 of them;
- body: the rest of the request, as bytes when it is small, otherwise its own `BodyRecord`;
- result: None or a `ResultRecord`.

So recovery reads one small record a task, and a change of state rewrites one. Bytes instead of tuples of
values, because ZODB asks a Python function about each item of a tuple that it pickles: packed they cost a
third.
"""

from __future__ import annotations

import msgspec
from persistent import Persistent

from oq.core.embedding import likeness
from oq.core.model import Attempt, Entry, Refusal, Status, TaskSpec, TaskState, TaskType, affinity
from oq.core.task import Task

INLINE_BYTES = (
    512  # a body up to this size lives in the task's own record: one record less to write and to read
)

_STATUS = (
    Status.PENDING,
    Status.SCHEDULED,
    Status.RUNNING,
    Status.COMPLETED,
    Status.FAILED,
    Status.CANCELLED,
)  # the position is the number on disk: only ever append
_STATUS_CODE = {status: code for code, status in enumerate(_STATUS)}


class Head(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The part of a request that scheduling needs. New fields go to the end, with a default."""

    type: TaskType
    model: str
    affinity: str | None
    max_retries: int
    timeout: float | None
    tags: tuple[str, ...]
    idempotency_key: str | None
    fingerprint: bytes | None
    group: bytes | None = None
    text: bytes | None = None
    size: int = 0


class _Body(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """The part of a request that only the model server and readers need."""

    payload: bytes
    options: bytes | None
    keep_alive: bytes | None
    priority: int
    run_at: float | None
    relay: bool = False
    guard: str = ""  # empty: "report"


class _State(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """New fields go to the end, with a default."""

    status: int
    priority: int
    revision: int
    retry_count: int
    run_at: float | None
    started_at: float | None
    finished_at: float | None
    host: str | None
    error: str | None
    error_code: str | None
    attempts: tuple[tuple[int, str, float, float | None, str, str | None, str | None], ...]
    tokens: int | None = None
    output_start: str = ""
    refusal: Refusal | None = None
    warnings: tuple[str, ...] = ()


_encode = msgspec.msgpack.Encoder().encode
decode_head = msgspec.msgpack.Decoder(Head).decode
_decode_body = msgspec.msgpack.Decoder(_Body).decode
_decode_state = msgspec.msgpack.Decoder(_State).decode


class BodyRecord(Persistent):  # type: ignore[misc]
    """A body too large for the task's own record."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    def __getstate__(self) -> bytes:
        return self.body

    def __setstate__(self, state: bytes) -> None:
        self.body = state


class ResultRecord(Persistent):  # type: ignore[misc]
    """The model server's final JSON."""

    def __init__(self, result: bytes) -> None:
        self.result = result

    def __getstate__(self) -> bytes:
        return self.result

    def __setstate__(self, state: bytes) -> None:
        self.result = state


class TaskRecord(Persistent):  # type: ignore[misc]
    """One task; see the module."""

    def __init__(
        self, head: bytes, state: bytes, body: bytes | BodyRecord, result: ResultRecord | None = None
    ) -> None:
        self.head = head
        self.state = state
        self.body = body
        self.result = result

    def __getstate__(self) -> tuple[bytes, bytes, bytes | BodyRecord, ResultRecord | None]:
        return self.head, self.state, self.body, self.result

    def __setstate__(self, state: tuple[bytes, bytes, bytes | BodyRecord, ResultRecord | None]) -> None:
        self.head, self.state, self.body, self.result = state


class BeatRecord(Persistent):  # type: ignore[misc]
    """The counter that the owner of a remote store moves. Apart from `LeaseRecord`, so that it disturbs no commit."""

    count = 0

    def __getstate__(self) -> tuple[int]:
        return (self.count,)

    def __setstate__(self, state: tuple[int]) -> None:
        (self.count,) = state


class LeaseRecord(Persistent):  # type: ignore[misc]
    """Who owns a remote store (`oq.store.lease`); `token` is empty when nobody does."""

    def __init__(self) -> None:
        self.beat = BeatRecord()
        self.clear()

    def take(self, token: str, host: str, process: int, machine: str, started: str) -> None:
        """Make it that process's: *machine* and *started* tell it from others with the same number."""
        self.token, self.host, self.process, self.machine, self.started = (
            token,
            host,
            process,
            machine,
            started,
        )

    def clear(self) -> None:
        """Make it nobody's."""
        self.take("", "", 0, "", "")

    def __getstate__(self) -> tuple[str, str, int, str, str, BeatRecord]:
        return self.token, self.host, self.process, self.machine, self.started, self.beat

    def __setstate__(self, state: tuple[str, str, int, str, str, BeatRecord]) -> None:
        self.token, self.host, self.process, self.machine, self.started, self.beat = state


def new_record(spec: TaskSpec, state: TaskState) -> TaskRecord:
    """Return the record of a task that is new."""
    loaded, alike = affinity(spec), likeness(spec)
    head = Head(
        spec.type,
        spec.model,
        None if loaded == spec.model else loaded,
        spec.max_retries,
        spec.timeout,
        spec.tags,
        spec.idempotency_key,
        spec.fingerprint,
        alike.group,
        alike.text,
        alike.size,
    )
    body = _encode(
        _Body(
            spec.payload,
            spec.options,
            spec.keep_alive,
            spec.priority,
            spec.run_at,
            spec.relay,
            "" if spec.guard == "report" else spec.guard,
        )
    )
    return TaskRecord(
        _encode(head), pack_state(state), body if len(body) <= INLINE_BYTES else BodyRecord(body)
    )


def pack_state(state: TaskState) -> bytes:
    """Return the bytes of a state."""
    attempts = state.attempts
    return _encode(
        _State(
            _STATUS_CODE[state.status],
            state.priority,
            state.revision,
            state.retry_count,
            state.run_at,
            state.started_at,
            state.finished_at,
            state.host,
            state.error,
            state.error_code,
            tuple([msgspec.structs.astuple(attempt) for attempt in attempts]) if attempts else (),
            state.tokens,
            state.output_start,
            state.refusal,
            state.warnings,
        )
    )


def unpack_state(data: bytes) -> TaskState:
    """Return the state that `pack_state` packed."""
    row = _decode_state(data)
    return TaskState(
        _STATUS[row.status],
        row.priority,
        row.revision,
        row.retry_count,
        row.run_at,
        row.started_at,
        row.finished_at,
        row.host,
        row.error,
        row.error_code,
        tuple([Attempt(*attempt) for attempt in row.attempts]) if row.attempts else (),
        row.tokens,
        row.output_start,
        row.refusal,
        row.warnings,
    )


def entry_from(key: int, head: Head, state: TaskState) -> Entry:
    """Return what the schedule keeps of a stored task."""
    return Entry(
        key,
        head.type,
        head.model,
        head.affinity or head.model,
        head.max_retries,
        head.timeout,
        head.tags,
        state,
        head.idempotency_key,
        head.group,
        head.text,
        head.size,
    )


def spec_of(record: TaskRecord) -> TaskSpec:
    """Return the request, as it was submitted."""
    head = decode_head(record.head)
    body = _decode_body(record.body if isinstance(record.body, bytes) else record.body.body)
    return TaskSpec(
        head.type,
        head.model,
        body.payload,
        body.options,
        body.keep_alive,
        body.priority,
        head.max_retries,
        head.timeout,
        body.run_at,
        head.tags,
        head.idempotency_key,
        head.fingerprint,
        relay=body.relay,
        guard=body.guard or "report",
    )


def task_of(key: int, record: TaskRecord, *, with_result: bool) -> Task:
    """Return the whole task."""
    result = record.result.result if with_result and record.result is not None else None
    return Task(key, spec_of(record), unpack_state(record.state), result)
