"""/ws: live updates for the monitor. JSON; every message names its kind in `type`.

::

    → watch  {ids: [rows on the screen], task: id or null}
    ← hello  {epoch, seq, now, counts, total, series, sys}        at the start
    ← delta  {from, seq, tasks: {id: patch}, counts: {changed only}, total}   at most 10 a second
    ← tok    {id, attempt, off, text, kind}                       text of the open task
    ← sys    as in hello, when it changed        ← stat {now, waiting, running, finished}, once a second
    ← ping   every 5 s                           ← resync {epoch, seq}   ← bye {reason}

Rule 1: per client a *map* of changed rows, never a queue: a slow client costs at most its own window.
Rule 2: a client whose own seq is not a delta's `from` reads its pages again by REST. So does one that got `resync`.
Rule 3: seq and map are taken together, with no await in between; else a change could fall between two deltas.
"""

from __future__ import annotations

from collections import deque
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import trio
from quart import websocket

from oq.access import StreamText
from oq.core.events import Change, Event, EventType
from oq.core.ids import format_id
from oq.errors import OqError, SubscriberLagged, TooMany
from oq.web.rest import this_app
from oq.wire import (
    Watch,
    counts_dict,
    error_json,
    frame_json,
    parse_watch,
    state_dict,
    system_dict,
)

if TYPE_CHECKING:
    from oq.queue import Queue
    from oq.web.app import OqApp

DELTA_SECONDS, STAT_SECONDS, PING_SECONDS = 0.1, 1.0, 5.0
SERIES_LENGTH = 300  # samples, one a second: five minutes of charts
WATCHED_MAX = 2000  # rows one client may watch
GOING_AWAY, TRY_LATER = 1001, 1013  # close codes of RFC 6455
_DELETED = {EventType.TASK_DELETED}


def add_routes(app: OqApp) -> None:
    app.add_websocket("/ws", "WS /ws", ws)
    series = Series(app.queue)
    app.extensions["oq_series"] = series

    @app.before_serving
    async def sample() -> None:
        app.nursery.start_soon(series.run)


class Series:
    """The last five minutes, one sample a second, for the charts of a page that has just been opened."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._samples: deque[dict[str, Any]] = deque(maxlen=SERIES_LENGTH)

    async def run(self) -> None:
        while True:
            self._samples.append(sample(self._queue))
            await trio.sleep(STAT_SECONDS)

    def samples(self) -> list[dict[str, Any]]:
        return list(self._samples)


def sample(queue: Queue) -> dict[str, Any]:
    """Return the numbers of this second; *finished* counts from the server's start."""
    stats = queue.stats()
    return {
        "now": queue.clock.now(),
        "waiting": stats.pending + stats.scheduled,
        "running": stats.running,
        "finished": stats.finished_since_start,
    }


async def ws() -> None:
    """One client, from its connection to its end."""
    app, connection = this_app(), websocket._get_current_object()  # type: ignore[attr-defined]
    await connection.accept()
    client = Client(app, connection)
    if app.queue.stats().subscribers >= app.oq_settings.server.max_subscribers:
        await client.bye(
            TRY_LATER, "too many subscribers are connected (server.max_subscribers); try again later"
        )
    else:
        await client.run()


class Client:
    """One connection. Its children share the fields; each is changed without awaiting in between."""

    def __init__(self, app: OqApp, connection: Any) -> None:
        self._app, self._queue, self._connection = app, app.queue, connection
        self._lock = trio.Lock()  # one frame at a time
        self._watched: frozenset[str] = frozenset()
        self._open: str | None = None
        self._following = trio.CancelScope()
        self._patches: dict[str, dict[str, Any] | None] = {}
        self._seq = self._told = self._queue.last_event
        self._counts = counts_dict(self._queue.stats())
        self._dirty = False
        self._lagged = False

    async def send(self, kind: str, /, **fields: object) -> None:
        text = frame_json(kind, **fields).decode()
        async with self._lock:
            await self._connection.send(text)

    async def bye(self, code: int, reason: str) -> None:
        await self.send("bye", reason=reason)
        await self._connection.close(code)

    async def run(self) -> None:
        stats = self._queue.stats()
        await self.send(
            "hello",
            epoch=self._queue.epoch,
            seq=self._seq,
            now=self._queue.clock.now(),
            counts=self._counts,
            total=sum(self._counts.values()),
            series=self._app.extensions["oq_series"].samples(),
            sys=system_dict(stats),
        )
        async with trio.open_nursery() as nursery:
            for child in (self._take, self._tell, self._beat, self._ping, self._end_on_stop):
                nursery.start_soon(child)
            nursery.start_soon(self._listen, nursery)

    # --- from the queue
    async def _take(self) -> None:
        while True:
            try:
                async with self._queue.subscribe(after=self._seq) as happening:
                    async for event in happening:
                        self._note(event)
                return  # the queue has stopped; _end_on_stop says so
            except SubscriberLagged:
                self._seq = self._told = self._queue.last_event
                self._lagged = True
            except TooMany as error:
                await self.bye(TRY_LATER, error.message)
                return

    def _note(self, event: Event) -> None:
        self._seq, self._dirty, what = event.seq, True, event.what
        if isinstance(what, Change):
            id = format_id(what.key)
            if id in self._watched or id == self._open:
                self._patches[id] = None if what.type in _DELETED else state_dict(what)

    # --- to the client
    async def _tell(self) -> None:
        while True:
            await trio.sleep(DELTA_SECONDS)
            if self._lagged:
                self._lagged, self._patches = False, {}
                await self.send("resync", epoch=self._queue.epoch, seq=self._seq)
            if self._dirty:
                await self._send_delta()

    async def _send_delta(self) -> None:
        counts = counts_dict(self._queue.stats())
        changed = {name: count for name, count in counts.items() if count != self._counts[name]}
        before, patches = self._told, self._patches
        self._counts, self._told, self._patches, self._dirty = counts, self._seq, {}, False
        await self.send(
            "delta", from_=before, seq=self._told, tasks=patches, counts=changed, total=sum(counts.values())
        )

    async def _beat(self) -> None:
        told = system_dict(self._queue.stats())
        while True:
            await trio.sleep(STAT_SECONDS)
            await self.send("stat", **sample(self._queue))
            system = system_dict(self._queue.stats())
            if system != told:
                told = system
                await self.send("sys", **system)

    async def _ping(self) -> None:
        while True:
            await trio.sleep(PING_SECONDS)
            await self.send("ping", now=self._queue.clock.now())

    async def _end_on_stop(self) -> None:
        await self._app.stopping.wait()
        await self.bye(GOING_AWAY, "the server is stopping")

    # --- from the client
    async def _listen(self, nursery: trio.Nursery) -> None:
        while True:
            text = await self._connection.receive()
            try:
                watch = parse_watch(text)
                self._watch(watch, nursery)
            except OqError as error:
                async with self._lock:
                    await self._connection.send('{"type":"error",' + error_json(error).decode()[1:])

    def _watch(self, watch: Watch, nursery: trio.Nursery) -> None:
        ids = frozenset(watch.ids[:WATCHED_MAX])
        self._patches = {id: patch for id, patch in self._patches.items() if id in ids or id == watch.task}
        self._watched = ids
        if watch.task == self._open:
            return
        self._following.cancel()
        self._open = None
        if watch.task is not None:
            key = self._queue.resolve(watch.task)
            self._open = format_id(key)
            self._following = trio.CancelScope()
            nursery.start_soon(self._follow, key, self._open, self._following)

    async def _follow(self, key: int, id: str, scope: trio.CancelScope) -> None:
        with scope:
            try:
                async with aclosing(self._queue.follow(key)) as items:
                    async for item in items:
                        if isinstance(item, StreamText):
                            place = {"id": id, "attempt": item.attempt, "off": item.offset}
                            await self.send("tok", **place, text=item.text, kind=item.kind)
            except OqError:
                pass  # deleted meanwhile: the delta says so
