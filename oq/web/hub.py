"""What all monitors are told: read once from the queue, rendered once, given to every client.

Ten times a second the hub reads the events since its last look and hands each client the patches of its own rows;
once a second it takes a sample of the queue. It never waits for a client: see `oq.web.monitor`.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Protocol

import trio

from oq.core.events import Change, Event, EventType
from oq.core.model import Status
from oq.errors import OqError, SubscriberLagged
from oq.web.series import Sample, Series
from oq.wire import (
    frame_json,
    optional_time,
    patch_of,
    progress_patch,
    system_dict,
    waiting_dict,
)

if TYPE_CHECKING:
    from oq.queue import Queue

log = logging.getLogger(__name__)

TICK_SECONDS, BEAT_SECONDS = 0.1, 1.0
TOLD_MOST = (
    500  # viewers a second, all together: a thousand are told every two seconds, and the queue keeps its pace
)
READ_MOST = 25  # lists a second, by all pages together: fifty at the top read theirs every two seconds
COUNTS_TICKS = 5  # a change of counts alone is told that many ticks after the last delta
PING_BEATS = 5
HOSTS_SECONDS = 5.0  # between two questions to the model servers while somebody watches
Patch = dict[str, Any]
Counts = dict[str, int]


class Viewer(Protocol):
    """A client, as the hub knows it. Every method returns at once."""

    task: int | None

    def sees(self, key: int) -> bool: ...

    def patch(self, key: int, patch: Patch | None) -> None:
        """The row *key* changed; None: it is gone."""

    def restart(self) -> None:
        """The open task runs again."""

    def lost(self) -> None:
        """Some events are gone: its rows are to be read again."""

    def say(self, kind: str, frame: str) -> None:
        """Send this to the client soon; a later frame of the same kind replaces one not yet sent."""

    def tick(self) -> None:
        """A tick is over: send what there is to send."""


class Hub:
    """See the module.

    Attributes:
        seq: the number of the newest event that the viewers were given.
        counts: tasks by status; `counts_version` grows whenever one of them changed.
        ticks: grows by one each tick.
    """

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self.seq = queue.last_event
        self.counts: Counts = count_tasks(queue)
        self.counts_version = 0
        self.ticks = 0
        self.series = Series()
        self._viewers: set[Viewer] = set()
        self._watched = trio.Event()
        self._frames: dict[int, str] = {}  # of this tick, by the seq that they begin with
        self._system: dict[str, Any] = {}
        self._progress: dict[int, Patch] = {}
        self._beats = 0

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._tick_for_ever)
            nursery.start_soon(self._ask_hosts)
            nursery.start_soon(self._keep_searchable)
            while True:
                self._beat()
                await trio.sleep(BEAT_SECONDS)

    def add(self, viewer: Viewer) -> None:
        self.tick()
        self._viewers.add(viewer)
        self._watched.set()

    def remove(self, viewer: Viewer) -> None:
        self._viewers.discard(viewer)
        if not self._viewers:
            self._watched = trio.Event()

    def pause(self) -> float:
        """Return how long a viewer waits after it was told, in seconds: a tick, or its share of TOLD_MOST.

        The share varies by half of it, so that a crowd does not come in step.
        """
        share = len(self._viewers) / TOLD_MOST
        return TICK_SECONDS if share <= TICK_SECONDS else share * random.uniform(0.5, 1.5)

    def list_seconds(self) -> float:
        """Return how long a page waits at least between two readings of its list: a second, or its share of READ_MOST."""
        return max(1.0, round(len(self._viewers) / READ_MOST, 1))

    # --- ten times a second
    async def _tick_for_ever(self) -> None:
        while True:
            await self._watched.wait()
            await trio.sleep(TICK_SECONDS)
            self.tick()

    def tick(self) -> None:
        """Give the viewers what happened since the last time. No await in here: seq and rows go together."""
        self.ticks += 1
        self._frames.clear()
        try:
            events = self._queue.events_since(self.seq)
        except SubscriberLagged:
            events, self.seq = [], self._queue.last_event
            for viewer in self._viewers:
                viewer.lost()
        if events:
            self.seq = events[-1].seq
            self._give(events)
        counts = count_tasks(self._queue)
        if counts != self.counts:
            self.counts, self.counts_version = counts, self.counts_version + 1
        for viewer in self._viewers:
            viewer.tick()

    def _give(self, events: list[Event]) -> None:
        changed: dict[int, Change] = {}
        started = set()
        for event in events:
            if isinstance(event.what, Change):
                changed[event.what.key] = event.what
                self.series.note(event.what)
                if event.type is EventType.TASK_STARTED:
                    started.add(event.what.key)
        if not self._viewers:
            return
        for key, change in changed.items():
            patch: Patch | None = None
            made = False
            for viewer in self._viewers:
                if viewer.sees(key):
                    if not made:
                        patch, made = patch_after(change), True
                    viewer.patch(key, patch)
        for viewer in self._viewers:
            if viewer.task in changed:
                viewer.patch(viewer.task, self.facts(viewer.task))
            if viewer.task in started:
                viewer.restart()

    def frame(self, seq: int) -> str:
        """Return the delta from *seq* to now, with all counts and without rows: it ends in `"tasks":{}}`."""
        known = self._frames.get(seq)
        if known is None:
            total = sum(self.counts.values())
            known = frame_json(
                "delta", from_=seq, seq=self.seq, counts=self.counts, total=total, tasks={}
            ).decode()
            self._frames[seq] = known
        return known

    def patches_since(self, seq: int, keys: Collection[int]) -> dict[int, Patch | None]:
        """Return what happened to *keys* after event *seq* and was given to the viewers already; `SubscriberLagged`."""
        found: dict[int, Patch | None] = {}
        for event in self._queue.events_since(min(seq, self.seq)):
            if event.seq <= self.seq and isinstance(event.what, Change) and event.what.key in keys:
                found[event.what.key] = patch_after(event.what)
        return found

    # --- once a second
    def _beat(self) -> None:
        self._beats += 1
        if not self._viewers:
            self.tick()
        sample = self.series.add(self._sample())
        if not self._viewers:
            return
        self._say("stat", frame_json("stat", **sample).decode())
        system = system_dict(self._queue.stats(), self._queue.known_hosts)
        if _without_times(system) != _without_times(self._system):
            self._say("sys", frame_json("sys", **system).decode())
        self._system = system
        if self._beats % PING_BEATS == 0:
            self._say(
                "ping", frame_json("ping", now=sample["now"], list_seconds=self.list_seconds()).decode()
            )
        self._tell_progress()
        facts: dict[int, Patch] = {}
        for viewer in self._viewers:
            if viewer.task is not None:
                if viewer.task not in facts:
                    facts[viewer.task] = self.facts(viewer.task)
                viewer.patch(viewer.task, facts[viewer.task])

    def _say(self, kind: str, frame: str) -> None:
        for viewer in self._viewers:
            viewer.say(kind, frame)

    def _sample(self) -> Sample:
        queue = self._queue
        counts, ended = queue.counts, queue.ended
        return {
            "now": round(queue.clock.now(), 3),
            "waiting": counts[Status.PENDING] + counts[Status.SCHEDULED],
            "running": counts[Status.RUNNING],
            "finished": sum(ended.values()),
            "failed": ended[Status.FAILED],
            "tokens": queue.pieces,
        }

    def _tell_progress(self) -> None:
        now = {key: progress_patch(self._queue.progress(key)) for key in self._queue.running()}
        for key, patch in now.items():
            if patch["tokens"] and patch != self._progress.get(key):
                for viewer in self._viewers:
                    if viewer.sees(key):
                        viewer.patch(key, patch)
        self._progress = now

    def facts(self, key: int) -> Patch:
        """Return what the open task shows beside its row: its place, and why it waits."""
        place, start = self._queue.position(key) or (None, None)
        return {
            "queue_position": place,
            "expected_start_at": optional_time(start),
            "waiting": waiting_dict(self._queue.waiting(key)),
        }

    def hello(self) -> str:
        """Return the first message for a viewer that was added just now."""
        system = system_dict(self._queue.stats(), self._queue.known_hosts)
        return frame_json(
            "hello",
            epoch=self._queue.epoch,
            seq=self.seq,
            now=self._queue.clock.now(),
            list_seconds=self.list_seconds(),
            counts=self.counts,
            total=sum(self.counts.values()),
            series=self.series.rings["5m"].columns(),
            sys=system,
        ).decode()

    # --- while somebody watches
    async def _ask_hosts(self) -> None:
        while True:
            await self._watched.wait()
            await self._queue.host_info()
            await trio.sleep(HOSTS_SECONDS)

    async def _keep_searchable(self) -> None:
        while True:
            await self._watched.wait()
            try:
                await self._queue.keep_searchable()
            except OqError as error:
                log.warning("the texts of the tasks cannot be read for searching: %s", error)
            await trio.sleep(BEAT_SECONDS)


def count_tasks(queue: Queue) -> Counts:
    return {status.value: count for status, count in queue.counts.items()}


def patch_after(change: Change) -> Patch | None:
    """Return the patch of a row after *change*; None when the task is gone."""
    return None if change.state is None else patch_of(change.state)


def _without_times(system: dict[str, Any]) -> dict[str, Any]:
    """Return *system* without what changes by itself."""
    hosts = [
        {name: value for name, value in host.items() if name != "checked_at"}
        for host in system.get("hosts", ())
    ]
    return {**system, "hosts": hosts}
