"""What the actors say to each other. Commands are verbs, facts are in the past tense.

Requests carry `reply`, a channel for exactly one answer. An `OqError` as answer (or as an item of it) is raised
or reported by `oq.queue`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from oq.core.events import Happening
from oq.core.model import Entry, Outcome, TaskSpec, TaskState, TaskType


class Reply(Protocol):
    """Where the one answer to a request goes. Sending never fails, also when the caller was cancelled meanwhile."""

    def send_nowait(self, value: Any, /) -> None: ...


# --- Queue → intake: requests -----------------------------------------------------------------------------------
class Submit(msgspec.Struct, frozen=True):
    """Take these tasks. Answer: a tuple with a key or an `OqError` for each, in order.

    With *atomic*, all or none: the answer is one `OqError` if any cannot be taken.
    """

    specs: tuple[TaskSpec, ...]
    reply: Reply
    atomic: bool = False
    keyed: Callable[[Sequence[int]], None] | None = (
        None  # told the new keys before anything can happen to them
    )


class Cancel(msgspec.Struct, frozen=True):
    """Answer: for each key its new `TaskState` or an `OqError`."""

    keys: tuple[int, ...]
    reply: Reply


class Reprioritize(msgspec.Struct, frozen=True):
    """Answer as for `Cancel`."""

    keys: tuple[int, ...]
    priority: int
    reply: Reply


class Retry(msgspec.Struct, frozen=True):
    """Run finished tasks again; *entries* were read from the store. Answer as for `Cancel`."""

    entries: tuple[Entry, ...]
    reply: Reply


class Delete(msgspec.Struct, frozen=True):
    """Forget finished tasks. Answer: None or an `OqError` for each."""

    keys: tuple[int, ...]
    reply: Reply


class Keep(msgspec.Struct, frozen=True):
    """Put small named records on disk beside the tasks, or forget those that are None. Answer: None."""

    documents: tuple[tuple[str, bytes | None], ...]
    reply: Reply


class Pause(msgspec.Struct, frozen=True):
    reply: Reply


class Resume(msgspec.Struct, frozen=True):
    reply: Reply


class Drain(msgspec.Struct, frozen=True):
    """Start nothing more; after *grace* seconds interrupt what still runs. Answered when nothing runs."""

    grace: float
    reply: Reply


Request = Submit | Cancel | Reprioritize | Retry | Delete | Keep | Pause | Resume | Drain


# --- → scheduler ------------------------------------------------------------------------------------------------
class Admit(msgspec.Struct, frozen=True):
    """`Submit` with its new keys, ascending."""

    keys: tuple[int, ...]
    specs: tuple[TaskSpec, ...]
    reply: Reply
    atomic: bool = False


class Finished(msgspec.Struct, frozen=True):
    """An attempt ended; *riders* are those that rode with it, each with its attempt and its own outcome."""

    key: int
    attempt: int
    outcome: Outcome
    riders: tuple[tuple[int, int, Outcome], ...] = ()


class Probed(msgspec.Struct, frozen=True):
    """A host that was down was asked whether it is back."""

    host: str
    up: bool


class Tick(msgspec.Struct, frozen=True):
    """The alarm set for *at* (Unix seconds) rang."""

    at: float


class Stop(msgspec.Struct, frozen=True):
    """The last message: the scheduler actor ends. The `Schedule` itself never sees it."""


Inbound = (
    Admit | Cancel | Reprioritize | Retry | Delete | Keep | Pause | Resume | Drain | Finished | Probed | Tick
)


# --- scheduler → workers: these leave at once -------------------------------------------------------------------
class Run(msgspec.Struct, frozen=True):
    """Run attempt number *attempt* of a task on *host*; *timeout* seconds in all (None: the setting, 0: no limit).

    *refused* are the causes for which a guard refused the answers of earlier attempts. *riders* are tasks with their
    attempts that share the call.
    """

    key: int
    attempt: int
    host: str
    type: TaskType
    model: str
    timeout: float | None
    refused: tuple[str, ...] = ()
    riders: tuple[tuple[int, int], ...] = ()


class Interrupt(msgspec.Struct, frozen=True):
    """Stop that attempt, close its connection, and report `Finished` with `Interrupted`."""

    key: int
    attempt: int


class Probe(msgspec.Struct, frozen=True):
    """Ask a host that is down whether it is back; report `Probed`."""

    host: str


Start = Run | Interrupt | Probe


# --- scheduler → writer -----------------------------------------------------------------------------------------
class Respond(msgspec.Struct, frozen=True):
    reply: Reply
    answer: Any


class WakeAt(msgspec.Struct, frozen=True):
    """Ring at *at* (Unix seconds); replaces the alarm set before."""

    at: float


class Announce(msgspec.Struct, frozen=True):
    happenings: tuple[Happening, ...]


Effect = Respond | WakeAt | Announce


class Write(msgspec.Struct, frozen=True, gc=False):
    """Put a task's state on disk; its spec too when it is new, its result when it has one."""

    key: int
    state: TaskState
    spec: TaskSpec | None = None
    result: bytes | None = None


class Step(msgspec.Struct, frozen=True):
    """What one message leads to.

    *writes*, *deletes* and *documents* go to disk in one transaction, then *effects* are released, in order. *starts* go to the
    workers at once. *paused* is the new value of the switch, or None.
    """

    writes: tuple[Write, ...] = ()
    deletes: tuple[int, ...] = ()
    effects: tuple[Effect, ...] = ()
    starts: tuple[Start, ...] = ()
    paused: bool | None = None
    documents: tuple[tuple[str, bytes | None], ...] = ()

    @property
    def for_disk(self) -> bool:
        """Whether there is anything to commit."""
        return bool(self.writes or self.deletes or self.documents or self.paused is not None)


# --- workers and Queue → bus ------------------------------------------------------------------------------------
class Chunk(msgspec.Struct, frozen=True, gc=False):
    """A piece of what the model writes; see `oq.ports.Piece`."""

    key: int
    attempt: int
    text: str
    kind: str = "content"
    line: bytes = b""
