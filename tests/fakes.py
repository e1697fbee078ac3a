"""Stand-ins for the world that a queue sees: a model server and a disk that do as a test tells them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any

import msgspec
import trio

from oq.config import Settings, settings_from
from oq.core.messages import Step
from oq.core.model import TaskSpec
from oq.engine import inline, open_queue_from
from oq.errors import BackendError, StorageFull
from oq.ports import BackendInfo, Forwarded, Headers, Offload, Piece
from oq.queue import Queue
from oq.store import ZodbJournal, open_journal

DEADLINE = 1e7  # seconds of a test's clock: who waits in vain fails instead of hanging


class FakeBackend:
    """A model server: answers every task with `pieces` of text, as its knobs say.

    Attributes:
        gate: the first piece is sent at once, the rest when this is set.
        seconds: an attempt takes this long before its first piece.
        error: raised by every attempt.
        errors: raised by the next attempts, one each.
        reachable: what a probe finds.
        seen: the requests of all attempts, in order; `times` when they began; `stopped` those that were cut off.
    """

    def __init__(self) -> None:
        self.pieces = ["Hel", "lo"]
        self.gate = trio.Event()
        self.gate.set()
        self.seconds = 0.0
        self.error: BackendError | None = None
        self.errors: list[Exception] = []
        self.reachable = True
        self.seen: list[TaskSpec] = []
        self.times: list[float] = []
        self.stopped: list[TaskSpec] = []
        self.running = 0
        self.most = 0
        self.probes = 0
        self.closed = False

    def close_gate(self) -> None:
        self.gate = trio.Event()

    async def run(self, spec: TaskSpec) -> AsyncGenerator[Piece | bytes, None]:
        self.seen.append(spec)
        self.times.append(trio.current_time())
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            async with aclosing(self._answer()) as answer:
                async for item in answer:
                    yield item
        except BaseException as error:
            if isinstance(error, (trio.Cancelled, GeneratorExit)):
                self.stopped.append(spec)
            raise
        finally:
            self.running -= 1

    async def _answer(self) -> AsyncGenerator[Piece | bytes, None]:
        await trio.sleep(self.seconds)
        if self.errors:
            raise self.errors.pop(0)
        if self.error is not None:
            raise self.error
        first, *rest = self.pieces
        yield Piece(first)
        await self.gate.wait()
        for text in rest:
            yield Piece(text)
        message = {"role": "assistant", "content": "".join(self.pieces)}
        yield msgspec.json.encode({"message": message, "done": True, "eval_count": 2})

    async def probe(self) -> bool:
        self.probes += 1
        await trio.lowlevel.checkpoint()
        return self.reachable

    async def info(self) -> BackendInfo:
        return BackendInfo(up=self.reachable, version="0.32.0", models=("llama3.2",), loaded=())

    async def digest(self, model: str) -> str | None:
        return None

    @asynccontextmanager
    async def forward(
        self, method: str, target: str, headers: Headers, parts: AsyncIterator[bytes]
    ) -> AsyncIterator[Forwarded]:
        raise BackendError("nothing is passed on to a fake", "unreachable")
        yield  # never

    async def aclose(self) -> None:
        self.closed = True


class WatchedJournal(ZodbJournal):
    """A real journal that counts its commits and calls `before` and `after` with the number of each."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.commits: list[list[Step]] = []
        self.refuses = False
        self.before: Callable[[int], None] = lambda number: None
        self.after: Callable[[int], None] = lambda number: None
        super().__init__(*args, **kwargs)

    def commit(self, steps: Sequence[Step]) -> None:
        if self.refuses:
            raise StorageFull("the store cannot be written: No space left on device")
        number = len(self.commits) + 1
        self.before(number)
        super().commit(steps)
        self.commits.append(list(steps))
        self.after(number)


@asynccontextmanager
async def open_fake_queue(
    backend: FakeBackend | Mapping[str, FakeBackend],
    journal: ZodbJournal | None = None,
    *,
    settings: Settings | None = None,
    offload: Offload = inline,
    paused: bool = False,
    **overrides: Any,
) -> AsyncIterator[Queue]:
    """A queue on a store in memory (or *journal*), whose every model server is *backend*; for an autojump clock.

    *overrides* are settings; jitter is off, so that pauses are exact.
    """
    settings = settings or settings_from(jitter=0.0, **overrides)
    backends = (
        {host.name: backend for host in settings.hosts} if isinstance(backend, FakeBackend) else backend
    )
    with trio.fail_after(DEADLINE):
        async with open_queue_from(
            settings,
            journal=journal if journal is not None else open_journal(),
            backends=backends,
            offload=offload,
            paused=paused,
        ) as queue:
            yield queue
