"""What a task is: frozen values, from the request to the finished record.

A task is three values that live at different speeds:

- `TaskSpec`: what was asked. It never changes after submission. Payload and options stay the JSON bytes
  the caller sent, so the model server gets them unchanged, big numbers and unknown fields included.
- `TaskState`: where it stands. Replaced at each step of its life, `revision` plus one; small.
- the result: the model server's final JSON, bytes, written once.

`oq.core.task.Task` is the three together, for readers. `Entry` is what the schedule keeps of an unfinished task.

`msgspec.Struct` instead of dataclasses: creating one costs 0.1 µs instead of 1.5 µs, and with `gc=False` a
million waiting tasks cost the garbage collector nothing (no value here can be part of a cycle).
"""

from __future__ import annotations

import enum
from typing import Literal

import msgspec

TaskType = Literal["chat", "generate", "embed"]
TASK_TYPES: tuple[TaskType, ...] = ("chat", "generate", "embed")

LOW, NORMAL, HIGH, CRITICAL = 1, 5, 10, 15
PRIORITIES = {"low": LOW, "normal": NORMAL, "high": HIGH, "critical": CRITICAL}
PRIORITY_MAX = 1000
SETTING = -1  # `max_retries` of a task that leaves it to the queue's setting
ATTEMPTS_KEPT = 50  # attempts recorded per task: the newest ones; a task retried for ever stays small


class Status(str, enum.Enum):
    """Where a task stands; a str, so that ``task.status == "completed"`` reads well."""

    PENDING = "pending"
    SCHEDULED = "scheduled"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def finished(self) -> bool:
        return self in FINISHED

    def __str__(self) -> str:
        return self.value


FINISHED = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELLED})


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """One run of a task. Times are Unix seconds; `finished_at` is None while it runs.

    `outcome` is "" while it runs, then ``succeeded``, ``failed``, ``cancelled``, ``interrupted`` (not counted:
    the server stopped or was killed), ``unreachable`` (not counted: the model server could not be reached) or
    ``not_here`` (not counted: that model server does not have the model, and another one may).
    """

    number: int
    host: str
    started_at: float
    finished_at: float | None = None
    outcome: str = ""
    error: str | None = None
    code: str | None = None


class Refusal(msgspec.Struct, frozen=True, gc=False):
    """A model server's own error answer, for clients that know its statuses and words. *status* is an HTTP status."""

    status: int
    body: bytes
    content_type: str = ""


class TaskSpec(msgspec.Struct, frozen=True, gc=False):
    """What was asked; valid by construction when it comes from `oq.wire` or the builders.

    Attributes:
        payload: JSON object with the fields of the model server's request, without model and options.
        options: JSON object of model options, or None.
        keep_alive: JSON value, or None.
        max_retries: attempts beyond the first; 0 means none.
        timeout: seconds for one whole attempt; None takes the setting; 0 means no limit.
        run_at: Unix seconds before which it must not start, or None.
        delay: seconds after its submission before which it must not start; the queue makes a `run_at` of it.
        idempotency_key: the caller's name for this submission, or None.
        fingerprint: digest of the request, to tell a repeat from a clash of idempotency keys.
        relay: keep the model server's own lines while it runs, for a client that speaks its protocol.
        guard: what to do about an answer that is cut or not the JSON asked for (`oq.core.guard`): ``report``,
            ``retry`` or ``fail``.
    """

    type: TaskType
    model: str
    payload: bytes
    options: bytes | None = None
    keep_alive: bytes | None = None
    priority: int = NORMAL
    max_retries: int = 3
    timeout: float | None = None
    run_at: float | None = None
    tags: tuple[str, ...] = ()
    idempotency_key: str | None = None
    fingerprint: bytes | None = None
    delay: float | None = None
    relay: bool = False
    guard: str = "report"


class TaskState(msgspec.Struct, frozen=True, gc=False):
    """Where a task stands. Times are Unix seconds.

    `run_at` is the due time of a scheduled task. `retry_count` counts failed attempts that were retried;
    `attempts` are all of them, newest last. `tokens` and `output_start` are a completed task's: how many the model
    counted, and the beginning of its text; lists show them without reading results. `refusal` is what the model
    server said when it refused (see `Refusal`). `warnings` are a completed task's findings (`oq.core.guard`).
    """

    status: Status
    priority: int
    revision: int = 1
    retry_count: int = 0
    run_at: float | None = None
    started_at: float | None = None
    finished_at: float | None = None
    host: str | None = None
    error: str | None = None
    error_code: str | None = None
    attempts: tuple[Attempt, ...] = ()
    tokens: int | None = None
    output_start: str = ""
    refusal: Refusal | None = None
    warnings: tuple[str, ...] = ()

    @property
    def tokens_per_second(self) -> float | None:
        """Of the whole last attempt; None while the model has not counted its tokens."""
        last = self.attempts[-1] if self.attempts else None
        if self.tokens is None or last is None or last.finished_at is None:
            return None
        return round(self.tokens / max(0.001, last.finished_at - last.started_at), 1)


class Entry(msgspec.Struct, gc=False):
    """What the schedule keeps of an unfinished task: never its payload. Only the schedule changes it.

    `group`, `text` and `size` are an embed task's `oq.core.embedding.Likeness`.
    """

    key: int
    type: TaskType
    model: str
    affinity: str
    max_retries: int
    timeout: float | None
    tags: tuple[str, ...]
    state: TaskState
    idempotency_key: str | None = None
    group: bytes | None = None
    text: bytes | None = None
    size: int = 0


class FinishedHead(msgspec.Struct, frozen=True, gc=False):
    """What the catalog keeps of a finished task."""

    key: int
    type: TaskType
    model: str
    tags: tuple[str, ...]
    status: Status
    priority: int
    host: str | None
    finished_at: float
    revision: int


class Recovered(msgspec.Struct):
    """What a journal holds at start.

    Attributes:
        unfinished: every task that is not finished, ascending by key.
        finished: (key, finished_at, revision) of the others, in order of finished_at.
        last_key: the largest key ever given out that is still known; 0 for an empty store.
        paused: the switch.
        idempotency: (key text, task key, fingerprint) of the stored tasks that have one.
        heads: what `oq.catalog` needs of the finished ones, in the order of `finished`.
    """

    unfinished: list[Entry]
    finished: list[tuple[int, float, int]]
    last_key: int = 0
    paused: bool = False
    idempotency: list[tuple[str, int, bytes]] = msgspec.field(default_factory=list)
    heads: list[FinishedHead] = msgspec.field(default_factory=list)


class Succeeded(msgspec.Struct, frozen=True):
    """The attempt ended well; *result* is the model server's final JSON object, whole, the rest as `gist` gives it."""

    result: bytes
    tokens: int | None = None
    output_start: str = ""
    warnings: tuple[str, ...] = ()


class Failed(msgspec.Struct, frozen=True):
    """The attempt failed. See `oq.errors.BackendError` for the fields."""

    error: str
    code: str = "backend_error"
    retryable: bool = False
    retry_limit: int | None = None
    unreachable: bool = False
    refusal: Refusal | None = None
    elsewhere: bool = False
    retry_after: float = 0.0


class Interrupted(msgspec.Struct, frozen=True):
    """The attempt was stopped by an `Interrupt`; it does not count."""


Outcome = Succeeded | Failed | Interrupted

# Ollama 0.32 reloads a model when one of these differs, so tasks that differ here are not "the same model".
RUNNER_OPTIONS = (
    "num_ctx", "num_batch", "num_gpu", "main_gpu", "use_mmap", "num_thread", "draft_num_predict", "adapters",
)  # fmt: skip


def affinity(spec: TaskSpec) -> str:
    """Return what must be loaded for this task: the model and the options that make Ollama reload it.

    >>> affinity(TaskSpec(type="generate", model="m", payload=b"{}", options=b'{"num_ctx": 8, "seed": 1}'))
    'm num_ctx=8'
    """
    if spec.options is None:
        return spec.model
    try:
        given = msgspec.json.decode(spec.options, type=dict[str, msgspec.Raw])
    except msgspec.MsgspecError:
        return spec.model
    parts = [f"{name}={bytes(given[name]).decode()}" for name in RUNNER_OPTIONS if name in given]
    return " ".join([spec.model, *parts])
