"""Access to a running queue by task keys: what the web layer uses, and what `oq.queue.Queue` is made of.

Commands become messages to the intake and wait for their one answer, which comes from the writer when it is on
disk. Reads ask no actor: counts and lists come from the catalog, whole tasks from a snapshot of the journal, text
and events from the bus's log.
"""

from __future__ import annotations

from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import ExitStack, aclosing, asynccontextmanager, contextmanager
from typing import Any, ClassVar, Self, TypeVar

import msgspec
import trio
from msgspec.structs import replace

from oq.catalog import Catalog
from oq.config import Settings
from oq.core.events import Event
from oq.core.ids import KEY_MAX, created_at, format_id
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
from oq.core.model import PRIORITY_MAX, Status, Task, TaskSpec, TaskState, entry_of
from oq.core.schedule import Schedule
from oq.core.tally import Tally
from oq.core.waiting import Waiting, why_waiting
from oq.errors import (
    InvalidTask,
    OqError,
    QueueBusy,
    QueueClosed,
    StorageError,
    SubscriberLagged,
    TaskNotFound,
    TooLarge,
    TooMany,
    WaitTimeout,
)  # fmt: skip
from oq.eventlog import EventLog
from oq.health import Health
from oq.hosts import HostFacts
from oq.ports import Backend, BackendInfo, Clock, Journal, Offload, Query
from oq.search import SLICE_KEYS, Found, Search
from oq.transcript import Transcript, Transcripts
from oq.wire import fingerprint

UNFINISHED = frozenset({Status.PENDING, Status.SCHEDULED, Status.RUNNING})
T = TypeVar("T")


class Page(msgspec.Struct, frozen=True):
    """One page of a list: *total* is the number of matches without limit; *tasks* come without results.

    *newer* are the matches beyond the query's anchor; *complete* is as in `oq.search.Found`.
    """

    total: int
    tasks: list[Task]
    newer: int = 0
    complete: bool = True


class StreamText(msgspec.Struct, frozen=True):
    """*text* of *kind* (``content`` or ``thinking``) beginning *offset* characters into that kind in the attempt."""

    attempt: int
    offset: int
    text: str
    kind: str = "content"
    type: ClassVar[str] = "text"


class StreamRestart(msgspec.Struct, frozen=True):
    """A new attempt begins: text delivered before is void."""

    attempt: int
    type: ClassVar[str] = "restart"


class StreamEnd(msgspec.Struct, frozen=True):
    """The task is finished; *task* is whole."""

    task: Task
    type: ClassVar[str] = "end"


StreamItem = StreamText | StreamRestart | StreamEnd


class HostStatus(msgspec.Struct, frozen=True):
    """A model server as the schedule sees it; *models* are those in flight, *error* is why it is down."""

    name: str
    url: str
    slots: int
    busy: int
    up: bool
    models: list[str]
    error: str | None = None


class Stats(msgspec.Struct, frozen=True):
    """The queue in numbers, all from memory. Times are Unix seconds.

    `by_priority` counts pending tasks; `by_type` and `by_model` unfinished ones; `ended` those that ended since
    the start, by status; `run_seconds` is the moving average of a successful attempt.

    The names of ``GET /api/status``, which the clients give, are here, too; and the value may be awaited, so that
    ``await queue.stats()`` is the same line for a queue and for a client.
    """

    pending: int
    scheduled: int
    running: int
    completed: int
    failed: int
    cancelled: int
    total: int
    by_priority: dict[int, int]
    by_type: dict[str, int]
    by_model: dict[str, int]
    workers_active: int
    workers_idle: int
    paused: bool
    draining: bool
    oldest_waiting_at: float | None
    started_at: float
    finished_since_start: int
    storage_ok: bool
    hosts: list[HostStatus]
    submitted_since_start: int = 0
    retries_since_start: int = 0
    ended: dict[str, int] = {}
    run_seconds: float | None = None
    storage_bytes: int = -1
    subscribers: int = 0

    def __await__(self) -> Generator[Any, None, Self]:
        yield from ()
        return self

    @property
    def pending_tasks(self) -> int:
        return self.pending

    @property
    def scheduled_tasks(self) -> int:
        return self.scheduled

    @property
    def running_tasks(self) -> int:
        return self.running

    @property
    def completed_tasks(self) -> int:
        return self.completed

    @property
    def failed_tasks(self) -> int:
        return self.failed

    @property
    def cancelled_tasks(self) -> int:
        return self.cancelled

    @property
    def total_tasks(self) -> int:
        return self.total

    @property
    def queues_by_priority(self) -> dict[int, int]:
        return self.by_priority


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


class Access:
    """See the module. *keys* are the integers behind task ids (`oq.core.ids`)."""

    def __init__(
        self,
        settings: Settings,
        *,
        epoch: str,
        requests: trio.MemorySendChannel[Request],
        journal: Journal,
        catalog: Catalog,
        schedule: Schedule,
        tally: Tally,
        health: Health,
        backends: Mapping[str, Backend],
        history: EventLog,
        transcripts: Transcripts,
        clock: Clock,
        read: Offload,
    ) -> None:
        self.settings = settings
        self.epoch = epoch
        self.clock = clock
        self.started_at = clock.now()
        self._requests = requests
        self._journal = journal
        self._catalog = catalog
        self._schedule = schedule
        self._tally = tally
        self._health = health
        self._history = history
        self._transcripts = transcripts
        self._read = read
        self._backends = backends
        self._hosts = HostFacts(backends, clock)
        self._search = Search(
            catalog,
            journal,
            read,
            budget=settings.queue.search_memory,
            seconds=settings.queue.search_time,
        )
        self._subscribers = 0
        self._unanswered: set[_Answer] = set()

    # --- commands: each returns when its effect is on disk --------------------------------------------------------
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
            _not_found(key) if task is None else next(found) for key, task in zip(keys, tasks, strict=True)
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

    # --- reads ---------------------------------------------------------------------------------------------------
    def resolve(self, text: str) -> int:
        """Return the key of an id, or of a unique beginning or end of one; `TaskNotFound`, `TaskConflict`."""
        return self._catalog.resolve(text)

    def status_of(self, key: int) -> Status:
        status = self._catalog.status(key)
        if status is None:
            raise _not_found(key)
        return status

    async def get_task(self, key: int) -> Task:
        """Return the whole task, result included; `TaskNotFound`."""
        if key not in self._catalog:
            raise _not_found(key)
        (task,) = await self._read(self._journal.get, [key])
        if task is None:
            raise _not_found(key)
        return task

    async def summary(self, key: int, render: Callable[[Task], T]) -> T:
        """Return *render* of the whole task, made in the thread that reads it: a result may be large; `TaskNotFound`."""

        def read() -> T | None:
            (task,) = self._journal.get([key])
            return None if task is None else render(task)

        found = await self._read(read)
        if found is None:
            raise _not_found(key)
        return found

    async def get_light(self, key: int) -> Task:
        """Return the task without its result; `TaskNotFound`."""
        (task,) = await self._read(self._journal.get_light, [key])
        if task is None:
            raise _not_found(key)
        return task

    async def get_tasks(self, keys: Sequence[int]) -> list[Task | None]:
        return list(await self._read(self._journal.get, list(keys)))

    async def find(self, query: Query) -> Page:
        """Return a page of tasks without their results; only that page is read from disk."""
        if query.text is None:
            total, keys = self._catalog.find(query)
            found = Found(total, keys, self._catalog.newer(query))
        else:
            found = await self._search.find(query)
        tasks = await self._read(self._journal.get_light, found.keys)
        return Page(found.total, [task for task in tasks if task is not None], found.newer, found.complete)

    async def matching(self, query: Query) -> list[int]:
        """Return the keys of all tasks that match, oldest first, however long it takes; in slices."""
        wanted = replace(query, sort="created", limit=SLICE_KEYS, offset=0, before=None, anchor=None)
        if query.text is not None:
            return (await self._search.find(replace(wanted, limit=KEY_MAX), patient=True)).keys
        found: list[int] = []
        while keys := self._catalog.find(wanted)[1]:
            found += keys
            wanted = replace(wanted, before=keys[-1])
            await trio.lowlevel.checkpoint()
        return found

    async def keep_searchable(self) -> None:
        """Read the texts of new tasks into memory, so that the next search need not."""
        await self._search.catch_up()

    async def wait(self, key: int, timeout: float | None = None) -> Task:
        """Return the task when it is finished; `WaitTimeout` after *timeout* seconds."""
        with trio.move_on_after(float("inf") if timeout is None else max(0.0, timeout)):
            while not self.status_of(key).finished:
                with self._transcripts.watch(key) as transcript:
                    await self._wait(transcript.wait_ended, key)
        if not self.status_of(key).finished:
            raise WaitTimeout(f"task {format_id(key)} is not finished after {timeout:g} s; it goes on")
        return await self.get_task(key)

    async def _wait(self, wait: Callable[[], Awaitable[None]], key: int) -> None:
        """Wait for a change of a task that is not finished; `QueueClosed` when there will be none."""
        if self._transcripts.closed:
            raise QueueClosed(
                f"the queue has stopped; task {format_id(key)} is not finished, a start runs it"
            )
        await wait()

    async def follow(self, key: int, offset: int = 0) -> AsyncGenerator[StreamItem, None]:
        """Yield the text so far from character *offset* on, then what follows, then the end.

        Any number of readers may follow, at any time and speed: they pull from one transcript.
        """
        with self._transcripts.watch(key) as transcript:
            attempt, position = 0, 0
            lengths = {"content": 0, "thinking": 0}
            skip = offset
            while not (transcript.ended or self.status_of(key).finished):
                current, pieces = transcript.since(attempt, position)
                if current != attempt:
                    if attempt and (lengths["content"] or lengths["thinking"]):
                        yield StreamRestart(current)
                        skip = 0
                    attempt, position, lengths = current, 0, {"content": 0, "thinking": 0}
                elif not pieces:
                    await self._wait(transcript.wait_changed, key)
                    continue
                position += len(pieces)
                for item in _joined(pieces, attempt, lengths, skip):
                    yield item
            task = await self.get_task(key)
            number = task.state.attempts[-1].number if task.state.attempts else 0
            if task.state.status is Status.COMPLETED:
                if attempt and number != attempt and lengths["content"]:
                    yield StreamRestart(number)
                    lengths = {"content": 0, "thinking": 0}
                text, start = task.output, max(lengths["content"], skip)
                if len(text) > start:
                    yield StreamText(number, start, text[start:])
            yield StreamEnd(task)

    def position(self, key: int) -> tuple[int, float | None] | None:
        """Return a waiting task's place (1 is next) and expected start in Unix seconds; None if it does not wait."""
        place = self._catalog.place(key)
        if place is None:
            return None
        slots = sum(host.slots for host in self._schedule.hosts.values() if host.up)
        if self._tally.run_seconds is None or not slots:
            return place, None
        return place, self.clock.now() + self._tally.run_seconds * ((place - 1) // slots)

    @property
    def counts(self) -> dict[Status, int]:
        """How many tasks are in each status."""
        return self._catalog.counts

    @property
    def ended(self) -> Mapping[Status, int]:
        """How many tasks ended since the start, by status."""
        return self._tally.ended

    def stats(self) -> Stats:
        """Return the queue in numbers, from memory."""
        counts, catalog, tally = self._catalog.counts, self._catalog, self._tally
        urls = {host.name: host.url for host in self.settings.hosts}
        hosts = [
            HostStatus(
                host.name,
                urls.get(host.name, ""),
                host.slots,
                len(host.running),
                host.up,
                sorted(host.in_flight),
                host.error,
            )
            for host in self._schedule.hosts.values()
        ]
        active = sum(host.busy for host in hosts)
        oldest = catalog.oldest_pending()
        return Stats(
            pending=counts[Status.PENDING],
            scheduled=counts[Status.SCHEDULED],
            running=counts[Status.RUNNING],
            completed=counts[Status.COMPLETED],
            failed=counts[Status.FAILED],
            cancelled=counts[Status.CANCELLED],
            total=sum(counts.values()),
            by_priority=catalog.pending_by_priority(),
            by_type=catalog.unfinished_by_type(),
            by_model=catalog.unfinished_by_model(),
            workers_active=active,
            workers_idle=sum(host.slots for host in hosts) - active,
            paused=self._schedule.paused,
            draining=self._schedule.draining,
            oldest_waiting_at=None if oldest is None else created_at(oldest),
            started_at=self.started_at,
            finished_since_start=sum(tally.ended.values()),
            storage_ok=self._health.storage_ok,
            hosts=hosts,
            submitted_since_start=tally.submitted,
            retries_since_start=tally.retries,
            ended={str(status): count for status, count in tally.ended.items()},
            run_seconds=tally.run_seconds,
            storage_bytes=self._journal.size(),
            subscribers=self._subscribers,
        )

    @property
    def storage_error(self) -> StorageError | None:
        return self._health.storage_error

    async def host_info(self) -> dict[str, BackendInfo]:
        """Return what every model server says it is and has, a few seconds old at most if it answers; never raises."""
        return dict(await self._hosts.refresh())

    @property
    def known_hosts(self) -> Mapping[str, BackendInfo]:
        """What the model servers said last; nobody is asked."""
        return self._hosts.known

    def waiting(self, key: int) -> Waiting | None:
        """Return why the task does not run yet; None if it does or did."""
        error = self._health.storage_error
        return why_waiting(self._schedule, key, None if error is None else error.message)

    def progress(self, key: int) -> tuple[int, float | None]:
        """Return how many pieces of text a running task has so far, and how many a second; see `oq.transcript`."""
        return self._transcripts.progress(key)

    def running(self) -> list[int]:
        """Return the keys of the tasks that run."""
        return [key for host in self._schedule.hosts.values() for key, _ in host.running]

    @property
    def pieces(self) -> int:
        """The pieces of text that all models wrote since the start; a piece is a token, as Ollama sends them."""
        return self._transcripts.pieces

    def events_since(self, seq: int) -> list[Event]:
        """Return all events after number *seq*, at once; `SubscriberLagged` if some are gone already."""
        return self._history.since(seq)

    def backends(self) -> Mapping[str, Backend]:
        """Return the model servers by name, in the order of the settings."""
        return self._backends

    def count_unfinished(self, tag: str) -> int:
        """Return how many tasks with *tag* are not finished."""
        return self._catalog.find(Query(status=UNFINISHED, tag=frozenset({tag}), limit=0))[0]

    @property
    def last_event(self) -> int:
        """The number of the newest event."""
        return self._history.last

    @asynccontextmanager
    async def subscribe(
        self, types: Collection[str] | None = None, after: int | None = None
    ) -> AsyncIterator[AsyncIterator[Event]]:
        """Give an async iterator of events (of *types*) from now on, or from after event number *after*.

        Raises `TooMany` at `server.max_subscribers`; iterating raises `SubscriberLagged` when the subscriber fell
        behind by more than `server.event_history` events.
        """
        wanted = None if types is None else frozenset(str(name) for name in types)
        start = self._history.last if after is None else after
        if start > self._history.last:
            raise SubscriberLagged(
                f"there is no event number {start} yet; read the current state and subscribe anew"
            )
        with self.subscriber():
            async with aclosing(self._events(start, wanted)) as events:
                yield events

    @contextmanager
    def subscriber(self) -> Iterator[None]:
        """Count as a subscriber; `TooMany` at `server.max_subscribers`."""
        limit = self.settings.server.max_subscribers
        if self._subscribers >= limit:
            raise TooMany(
                f"{limit} subscribers are connected already (server.max_subscribers); try again later"
            )
        self._subscribers += 1
        try:
            yield
        finally:
            self._subscribers -= 1

    async def _events(self, seq: int, wanted: frozenset[str] | None) -> AsyncGenerator[Event, None]:
        history = self._history
        while True:
            for event in history.since(seq):
                seq = event.seq
                if wanted is None or event.type in wanted:
                    yield event
            if seq == history.last:
                if history.closed:
                    return
                await history.wait_changed()


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


def _not_found(key: int) -> TaskNotFound:
    return TaskNotFound(f"there is no task {format_id(key)}; it may have been deleted or cleaned up")


def _joined(pieces: Iterable[Any], attempt: int, lengths: dict[str, int], skip: int) -> list[StreamText]:
    """Join neighbours of one kind: who comes late gets a few long texts instead of thousands of short ones."""
    found: list[StreamText] = []
    run: list[str] = []
    kind = "content"

    def flush() -> None:
        text = "".join(run)
        start = lengths[kind]
        lengths[kind] = start + len(text)
        hidden = max(0, skip - start) if kind == "content" else 0
        if len(text) > hidden:
            found.append(StreamText(attempt, start + hidden, text[hidden:], kind))
        run.clear()

    for piece in pieces:
        if not piece.text:
            continue
        if piece.kind != kind:
            flush()
            kind = piece.kind
        run.append(piece.text)
    flush()
    return found
