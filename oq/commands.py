"""Commands to a running queue: each becomes a message to the intake, and returns when its effect is on disk."""

from __future__ import annotations

from collections.abc import (
    AsyncIterator,
    Callable,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import msgspec
import trio

from oq.config import Settings
from oq.core.embedding import entry_of
from oq.core.ids import format_id
from oq.core.messages import (
    Cancel,
    Delete,
    Drain,
    Keep,
    Pause,
    Reply,
    Reprioritize,
    Request,
    Resume,
    Retry,
    Submit,
)  # fmt: skip
from oq.core.model import PRIORITY_MAX, TaskSpec, TaskState
from oq.errors import (
    InvalidTask,
    OqError,
    QueueBusy,
    QueueClosed,
    TaskNotFound,
    TooLarge,
)  # fmt: skip
from oq.ports import Clock, Journal, Offload
from oq.transcript import Transcript, Transcripts
from oq.wire import fingerprint


class _Answer:
    """Where the one answer to a request goes.

    A caller that was cancelled meanwhile (its client left, its deadline passed) never reads it. That is no failure
    of the actor that answers; a closed channel would make it one, and so end the queue.
    """

    def __init__(self) -> None:
        self._given = trio.Event()
        self._value: Any = None

    def send_nowait(self, value: Any, /) -> None:
        if not self._given.is_set():  # the end of the queue may come between an answer and its reading
            self._value = value
            self._given.set()

    async def receive(self) -> Any:
        await self._given.wait()
        return self._value


class Commands:
    """What changes tasks and the queue; *keys* are the integers behind task ids (`oq.core.ids`)."""

    def __init__(
        self,
        settings: Settings,
        *,
        requests: trio.MemorySendChannel[Request],
        journal: Journal,
        transcripts: Transcripts,
        clock: Clock,
        read: Offload,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self._requests = requests
        self._journal = journal
        self._transcripts = transcripts
        self._read = read
        self._unanswered: set[_Answer] = set()

    async def _ask(self, make: Callable[[Reply], Request]) -> Any:
        reply = _Answer()
        self._unanswered.add(reply)
        try:
            await self._send(make(reply))
            found = await reply.receive()
        finally:
            self._unanswered.discard(reply)
        if isinstance(found, OqError):
            raise found
        return found

    def _end(self) -> None:
        """The actors have ended: those who still wait, outside the block of `oq.open_queue`, wait in vain."""
        self._transcripts.close()
        for reply in self._unanswered:
            reply.send_nowait(QueueClosed("the queue has stopped; start it again"))

    async def _send(self, request: Request) -> None:
        try:
            try:
                return self._requests.send_nowait(request)
            except trio.WouldBlock:
                limit = self.settings.queue.request_timeout
                with trio.move_on_after(limit):
                    return await self._requests.send(request)
        except (trio.ClosedResourceError, trio.BrokenResourceError):
            raise QueueClosed("the queue has stopped; start it again") from None
        raise QueueBusy(
            f"the queue took no request for {limit:g} s (queue.request_timeout); try again in a moment"
        )

    async def submit_keys(self, specs: Iterable[TaskSpec], *, atomic: bool = False) -> list[int | OqError]:
        """Take these tasks; return, after they are on disk, a key or an error for each, in order.

        With *atomic*, all or none: one error is raised for all. Raises `QueueBusy`, `QueueClosed`, `StorageError`.
        """
        retries, now = self.settings.retry_config.max_retries, self.clock.now()
        known = tuple([_taken(spec, retries, now) for spec in specs])
        if not known:
            return []
        if len(known) > self.settings.server.max_batch:
            raise TooLarge(
                f"{len(known)} tasks in one batch; at most {self.settings.server.max_batch} are allowed "
                "(server.max_batch): send several batches"
            )
        return list(await self._ask(lambda reply: Submit(known, reply, atomic)))

    @asynccontextmanager
    async def submit_watched(self, spec: TaskSpec) -> AsyncIterator[tuple[int, Transcript]]:
        """Take one task and follow it from its first word on: gives its key, on disk, and its transcript.

        The transcript is opened before the task can start, so that not even a model that answers at once is missed.
        A repeated idempotency key gives the task it belongs to, which may be finished. Raises as `submit_keys`.
        """
        with ExitStack() as held:
            opened: dict[int, Transcript] = {}

            def keyed(keys: Sequence[int]) -> None:
                opened[keys[0]] = held.enter_context(self._transcripts.watch(keys[0]))

            taken = _taken(spec, self.settings.retry_config.max_retries, self.clock.now())
            (key,) = await self._ask(lambda reply: Submit((taken,), reply, keyed=keyed))
            if isinstance(key, OqError):
                raise key
            transcript = opened.get(key) or held.enter_context(self._transcripts.watch(key))
            yield key, transcript

    async def cancel_many(self, keys: Sequence[int]) -> list[TaskState | OqError]:
        return list(await self._ask(lambda reply: Cancel(tuple(keys), reply)))

    async def reprioritize_many(self, keys: Sequence[int], priority: int) -> list[TaskState | OqError]:
        if not 0 <= priority <= PRIORITY_MAX:
            raise InvalidTask(f"priority must be 0 to {PRIORITY_MAX}, not {priority}", "priority")
        return list(await self._ask(lambda reply: Reprioritize(tuple(keys), priority, reply)))

    async def retry_many(self, keys: Sequence[int]) -> list[TaskState | OqError]:
        """Run finished tasks again."""
        tasks = await self._read(self._journal.get_light, list(keys))
        entries = tuple(entry_of(task.key, task.spec, task.state) for task in tasks if task is not None)
        found = iter(await self._ask(lambda reply: Retry(entries, reply)) if entries else ())
        return [
            not_found(key) if task is None else next(found) for key, task in zip(keys, tasks, strict=True)
        ]

    async def delete_many(self, keys: Sequence[int]) -> list[OqError | None]:
        """Forget finished tasks."""
        return list(await self._ask(lambda reply: Delete(tuple(keys), reply)))

    async def keep_documents(self, documents: Mapping[str, bytes | None]) -> None:
        """Put small named records on disk beside the tasks; forget those that are None."""
        await self._ask(lambda reply: Keep(tuple(documents.items()), reply))

    async def documents(self, prefix: str) -> list[tuple[str, bytes]]:
        """Return the named records whose name begins with *prefix*, by name."""
        return list(await self._read(self._journal.documents, prefix))

    async def pause(self) -> None:
        """Start no more tasks until `resume`; what runs goes on. The switch survives a restart."""
        await self._ask(Pause)

    async def resume(self) -> None:
        """End a pause, or a drain."""
        await self._ask(Resume)

    async def drain(self, grace_seconds: float | None = None) -> None:
        """Take and start nothing more; return when nothing runs. After the grace, what runs goes back to pending.

        *grace_seconds* None: the setting `server.shutdown_grace`.
        """
        grace = self.settings.server.shutdown_grace if grace_seconds is None else grace_seconds
        await self._ask(lambda reply: Drain(grace, reply))


def _taken(spec: TaskSpec, retries: int, now: float) -> TaskSpec:
    """Return *spec* as it goes to the store: its delay a time, and what it left to the settings filled in."""
    if spec.max_retries >= 0 and spec.delay is None and spec.idempotency_key is None:
        return spec
    digest = spec.fingerprint
    if digest is None and spec.idempotency_key is not None:
        digest = fingerprint(spec)
    return msgspec.structs.replace(
        spec,
        max_retries=retries if spec.max_retries < 0 else spec.max_retries,
        run_at=spec.run_at if spec.delay is None else now + spec.delay,
        delay=None,
        fingerprint=digest,
    )


def not_found(key: int) -> TaskNotFound:
    return TaskNotFound(f"there is no task {format_id(key)}; it may have been deleted or cleaned up")
