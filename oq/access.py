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
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing, asynccontextmanager, contextmanager
from typing import TypeVar

import msgspec
import trio
from msgspec.structs import replace

from oq.catalog import Catalog
from oq.commands import Commands, not_found
from oq.config import Settings
from oq.core.events import Event
from oq.core.ids import KEY_MAX, format_id
from oq.core.messages import (
    Request,
)  # fmt: skip
from oq.core.model import Status
from oq.core.schedule import Schedule
from oq.core.tally import Tally
from oq.core.task import Task
from oq.core.waiting import Waiting, why_waiting
from oq.errors import (
    QueueClosed,
    StorageError,
    SubscriberLagged,
    TooMany,
    WaitTimeout,
)  # fmt: skip
from oq.eventlog import EventLog
from oq.following import StreamEnd, StreamItem, StreamRestart, StreamText, joined
from oq.health import Health
from oq.hosts import HostFacts
from oq.ports import Backend, BackendInfo, Clock, Journal, Offload, Query
from oq.room import Room
from oq.search import SLICE_KEYS, Found, Search
from oq.stats import Stats, stats_of
from oq.transcript import Transcripts

TEXT_PART = 256 * 1024  # characters of a finished task, for one who follows it
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


class Access(Commands):
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
        super().__init__(
            settings, requests=requests, journal=journal, transcripts=transcripts, clock=clock, read=read
        )
        self.epoch = epoch
        self.started_at = clock.now()
        self._catalog = catalog
        self._schedule = schedule
        self._tally = tally
        self._health = health
        self._history = history
        self._backends = backends
        self._hosts = HostFacts(backends, clock)
        self.room = Room(settings.queue.max_answer_memory)
        self._search = Search(
            catalog,
            journal,
            read,
            budget=settings.queue.search_memory,
            seconds=settings.queue.search_time,
        )
        self._subscribers = 0

    def resolve(self, text: str) -> int:
        """Return the key of an id, or of a unique beginning or end of one; `TaskNotFound`, `TaskConflict`."""
        return self._catalog.resolve(text)

    def status_of(self, key: int) -> Status:
        status = self._catalog.status(key)
        if status is None:
            raise not_found(key)
        return status

    async def get_task(self, key: int) -> Task:
        """Return the whole task, result included; `TaskNotFound`."""
        if key not in self._catalog:
            raise not_found(key)
        (task,) = await self._read(self._journal.get, [key])
        if task is None:
            raise not_found(key)
        return task

    async def summary(self, key: int, render: Callable[[Task], T]) -> T:
        """Return *render* of the whole task, made in the thread that reads it: a result may be large; `TaskNotFound`."""

        def read() -> T | None:
            (task,) = self._journal.get([key])
            return None if task is None else render(task)

        found = await self._read(read)
        if found is None:
            raise not_found(key)
        return found

    async def get_light(self, key: int) -> Task:
        """Return the task without its result; `TaskNotFound`."""
        (task,) = await self._read(self._journal.get_light, [key])
        if task is None:
            raise not_found(key)
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
                for item in joined(pieces, attempt, lengths, skip):
                    yield item
            task = await self.get_task(key)
            number = task.state.attempts[-1].number if task.state.attempts else 0
            with self.room.held(
                2 * len(task.result_json or b"")
            ):  # beside it there is its text, or its last line
                if task.state.status is Status.COMPLETED:
                    if attempt and number != attempt and lengths["content"]:
                        yield StreamRestart(number)
                        lengths = {"content": 0, "thinking": 0}
                    text = task.output
                    for start in range(max(lengths["content"], skip), len(text), TEXT_PART):
                        yield StreamText(number, start, text[start : start + TEXT_PART])
                    del text
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
        return stats_of(
            self.settings,
            self._catalog,
            self._schedule,
            self._tally,
            started_at=self.started_at,
            storage_ok=self._health.storage_ok,
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

    async def wait_event(self, after: int) -> bool:
        """Wait for an event after number *after*; False if none will follow."""
        history = self._history
        while history.last == after and not history.closed:
            await history.wait_changed()
        return history.last != after

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
