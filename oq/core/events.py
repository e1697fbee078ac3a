"""What oq tells the outside: one kind of event for each step of a task's life, and the queue's own."""

from __future__ import annotations

import enum

import msgspec

from oq.core.ids import format_id
from oq.core.model import Status, TaskState, TaskType


class EventType(str, enum.Enum):
    """The name of an event, as REST, WebSocket and library spell it."""

    TASK_SUBMITTED = "task_submitted"
    TASK_STARTED = "task_started"
    TASK_COMPLETED = "task_completed"
    TASK_FAILED = "task_failed"
    TASK_RETRYING = "task_retrying"
    TASK_CANCELLED = "task_cancelled"
    TASK_REQUEUED = "task_requeued"  # interrupted, or the model server was out of reach: back to pending
    TASK_DELETED = "task_deleted"
    PRIORITY_UPDATED = "priority_updated"
    QUEUE_PAUSED = "queue_paused"
    QUEUE_RESUMED = "queue_resumed"
    QUEUE_DRAINING = "queue_draining"
    HOST_DOWN = "host_down"
    HOST_UP = "host_up"

    def __str__(self) -> str:
        return self.value


class Change(msgspec.Struct, frozen=True, gc=False):
    """Something happened to one task. `state` is how it stands now (None once it is deleted)."""

    type: EventType
    key: int
    task_type: TaskType | None = None
    model: str | None = None
    tags: tuple[str, ...] = ()
    state: TaskState | None = None


class Notice(msgspec.Struct, frozen=True):
    """Something happened to the queue or a host. `subject` is the host's name, if it is about one."""

    type: EventType
    subject: str | None = None
    detail: str | None = None


Happening = Change | Notice


class Event(msgspec.Struct, frozen=True):
    """One entry of the public stream: *seq* grows by one per event since the server started, *at* is Unix time.

    *what* is also there flat, under the names that `oq.client` gives its events; `task` is how the task stands.
    """

    seq: int
    at: float
    what: Happening

    @property
    def type(self) -> EventType:
        return self.what.type

    @property
    def timestamp(self) -> float:
        return self.at

    @property
    def task_id(self) -> str | None:
        return format_id(self.what.key) if isinstance(self.what, Change) else None

    @property
    def task(self) -> TaskState | None:
        return self.what.state if isinstance(self.what, Change) else None

    @property
    def status(self) -> Status | None:
        return None if self.task is None else self.task.status

    @property
    def subject(self) -> str | None:
        return self.what.subject if isinstance(self.what, Notice) else None

    @property
    def detail(self) -> str | None:
        return self.what.detail if isinstance(self.what, Notice) else None
