"""All that the queue needs of the world: a journal, a model server, a clock. Protocols only."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol, TypeVar

import msgspec

from oq.core.messages import Step
from oq.core.model import Recovered, Status, TaskSpec, TaskType
from oq.core.task import Task

__all__ = [
    "Backend", "BackendInfo", "Clock", "Forwarded", "Headers", "Journal", "Offload", "Piece", "Query", "Recovered", "Sleep",
]  # fmt: skip

T = TypeVar("T")


class Offload(Protocol):
    """Runs a blocking function: in a worker thread in production, inline under a test's autojump clock."""

    async def __call__(self, function: Callable[..., T], /, *args: Any) -> T: ...


class Clock(Protocol):
    def now(self) -> float:
        """Return the wall time in Unix seconds; it follows Trio's clock."""
        ...


class Journal(Protocol):
    """The durable record. All methods block; one thread at a time calls `recover`, `commit`, `pack`."""

    def recover(self) -> Recovered:
        """Read what scheduling needs of every task, and fill `catalog`."""
        ...

    def commit(self, steps: Sequence[Step]) -> None:
        """Put all steps on disk in one transaction, with one fsync; `StorageError` and no effect if that fails."""
        ...

    def pack(self) -> None:
        """Give back the space of what was overwritten or deleted; commits go on beside it."""
        ...

    def size(self) -> int:
        """Return the bytes on disk, -1 if unknown."""
        ...

    def wait_lost(self) -> None:
        """Block until the store is closed; `StorageLocked` as soon as another process has taken it from this one."""
        ...

    def close(self) -> None: ...

    # Reads: from any thread, each one consistent snapshot.
    def get(self, keys: Iterable[int]) -> list[Task | None]:
        """Return whole tasks, results included; None where there is none."""
        ...

    def get_light(self, keys: Iterable[int]) -> list[Task | None]:
        """Return tasks without their results."""
        ...

    def specs(self, keys: Iterable[int]) -> list[TaskSpec | None]: ...

    def texts(self, keys: Iterable[int]) -> list[bytes]:
        """Return what a search sees of each: model and beginning of the prompt, case folded, as UTF-8; b"" for none."""
        ...

    def documents(self, prefix: str) -> list[tuple[str, bytes]]:
        """Return the named records whose name begins with *prefix*, by name."""
        ...


class Query(msgspec.Struct, frozen=True):
    """Which tasks, in which order. Sets are alternatives; the fields are combined with "and". None: any.

    Attributes:
        text: part of the prompt's beginning or of the model's name, or the beginning or end of an id.
        anchor: the newest task of the window, for `-created`: with it `before` begins after it.
        before: a cursor: only tasks after this key in the order of `sort`.
        sort: ``-created`` (newest first), ``created``, ``-priority``, ``priority``.
    """

    status: frozenset[Status] | None = None
    type: frozenset[TaskType] | None = None
    priority: frozenset[int] | None = None
    model: frozenset[str] | None = None
    host: frozenset[str] | None = None
    tag: frozenset[str] | None = None
    text: str | None = None
    sort: str = "-created"
    limit: int = 100
    offset: int = 0
    before: int | None = None
    anchor: int | None = None


class BackendInfo(msgspec.Struct, frozen=True):
    """What a model server says of itself; `models` and `loaded` as in its /api/tags and /api/ps.

    `checked_at` is when it was asked, Unix seconds, where somebody keeps it.
    """

    up: bool
    version: str | None = None
    models: tuple[str, ...] = ()
    loaded: tuple[str, ...] = ()
    error: str | None = None
    checked_at: float | None = None


class Piece(msgspec.Struct, frozen=True, gc=False):
    """Text as it comes; *kind* is ``content`` or ``thinking``.

    *line* is the model server's own line, without newline, when the task asks for it (`TaskSpec.relay`). Then
    pieces without text carry the lines that have none; the one of ``done: true`` has the kind ``end``.
    """

    text: str
    kind: str = "content"
    line: bytes = b""


Headers = list[tuple[bytes, bytes]]


class Forwarded(Protocol):
    """The answer to a request that was passed on."""

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Headers: ...

    async def receive(self) -> bytes:
        """Return what came since the last call; b"" at the end. Raises `BackendError`."""
        ...


class Backend(Protocol):
    """One model server."""

    def run(self, spec: TaskSpec) -> AsyncGenerator[Piece | bytes, None]:
        """Run one attempt: yields pieces of text, then as its last item the final JSON as bytes.

        Raises `BackendError`. Cancelling or closing the iterator closes the connection. Limits on silence
        (`ollama.idle_timeout`) and on the size of the answer are this side's; the total time is the caller's.
        """
        ...

    async def probe(self) -> bool:
        """Return whether the server answers at all; never raises, never takes longer than a few seconds."""
        ...

    async def info(self) -> BackendInfo:
        """Return what it says of itself; never raises."""
        ...

    async def digest(self, model: str) -> str | None:
        """Ask for the digest of a model as it is now; None if that is not known. Never raises."""
        ...

    def forward(
        self, method: str, target: str, headers: Headers, parts: AsyncIterator[bytes]
    ) -> AbstractAsyncContextManager[Forwarded]:
        """Pass a request on as it is, outside the queue; *target* is path and query.

        Raises `BackendError` when there is no answer. Leaving the block closes the connection unless the answer was
        read to its end.
        """
        ...

    async def aclose(self) -> None: ...


Sleep = Callable[[float], Awaitable[None]]
