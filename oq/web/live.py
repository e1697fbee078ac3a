"""/ws: one client of the monitor, from its connection to its end. The wire is docs/reference/websocket.md.

Rule 1: per client a *map* of changed rows, and of every other kind of message the newest, never a queue: a slow
        client costs at most its own window, and holds up nobody.
Rule 2: a client whose own seq is not a delta's `from` reads its pages again by REST. So does one that got `resync`.
Rule 3: seq and map are taken together, with no await in between; else a change could fall between two deltas.
"""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any, cast

import msgspec
import trio
from quart import websocket

from oq.core.ids import format_id, parse_id
from oq.errors import InvalidTask, OqError, SubscriberLagged, TaskNotFound, TooMany
from oq.following import StreamEnd, StreamText
from oq.web.app import OqApp, this_app
from oq.web.gate import SUBPROTOCOL
from oq.web.hub import COUNTS_TICKS, TICK_SECONDS, Hub, Patch
from oq.wire import Watch, error_json, frame_json, parse_watch

if TYPE_CHECKING:
    from oq.core.task import Task

WATCHED_MAX = 2000  # rows one client may watch
GOING_AWAY, TRY_LATER = 1001, 1013  # close codes of RFC 6455
_NO_ROWS = "{}}"  # the end of a delta without rows


def add_routes(app: OqApp) -> None:
    app.add_websocket("/ws", "WS /ws", ws)

    @app.before_serving
    async def begin() -> None:
        app.hub = Hub(app.queue)
        app.nursery.start_soon(app.hub.run)


async def ws() -> None:
    """Serve one client."""
    # A local proxy, which the type checker sees as what it stands for, in one version of Quart and not in the next.
    app, connection = this_app(), cast(Any, websocket)._get_current_object()
    offered = connection.requested_subprotocols
    await connection.accept(subprotocol=SUBPROTOCOL if SUBPROTOCOL in offered else None)
    client = Client(app, connection)
    try:
        with app.queue.subscriber():
            await client.run()
    except TooMany as error:
        await client.bye(TRY_LATER, error.message)


class Client:
    """One connection. Its children share the fields; each is changed without awaiting in between."""

    def __init__(self, app: OqApp, connection: Any) -> None:
        self._app, self._queue, self._hub, self._connection = app, app.queue, app.hub, connection
        self._lock = trio.Lock()  # one frame at a time
        self._over = False
        self._watched: frozenset[int] = frozenset()
        self.task: int | None = None
        self._following = trio.CancelScope()
        self._again = trio.Event()  # the open task runs again
        self._patches: dict[int, Patch | None] = {}
        self._facts: Patch = {}  # what the open task was told last
        self._frames: dict[str, str] = {}  # by kind
        self._lost = False
        self._due = trio.Event()  # there is something to send

    # --- from the hub
    def sees(self, key: int) -> bool:
        return key in self._watched or key == self.task

    def patch(self, key: int, patch: Patch | None) -> None:
        if key == self.task and patch is not None:
            # Its facts come once a second, whether they changed or not.
            patch = {k: v for k, v in patch.items() if k not in self._facts or self._facts[k] != v}
            self._facts |= {k: v for k, v in patch.items() if k in FACTS}
            if not patch:
                return
        if key in self._patches:
            before = self._patches[key]
            if before is None:
                return  # nothing comes after the end
            patch = None if patch is None else before | patch
        self._patches[key] = patch

    def restart(self) -> None:
        self._again.set()

    def lost(self) -> None:
        self._lost, self._patches = True, {}

    def say(self, kind: str, frame: str) -> None:
        self._frames[kind] = frame
        self._due.set()

    def tick(self) -> None:
        if self._lost or self._patches or self._counts_are_due():
            self._due.set()

    # --- to the client
    async def send(self, text: str) -> None:
        async with self._lock:
            if not self._over:
                await self._connection.send(text)

    async def bye(self, code: int, reason: str) -> None:
        await self.send(frame_json("bye", reason=reason).decode())
        self._over = True  # others may still have something to send
        await self._connection.close(code)

    async def run(self) -> None:
        """Serve the client until it or the server goes."""
        self._hub.add(self)
        self._note_told()
        try:
            hello = self._hub.hello()
            await self.send(hello)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._tell)
                nursery.start_soon(self._end_on_stop)
                await self._listen(nursery)
        finally:
            self._hub.remove(self)

    def _note_told(self) -> None:
        hub = self._hub
        self._told, self._told_at = hub.seq, hub.ticks
        self._version = hub.counts_version

    def _counts_are_due(self) -> bool:
        hub = self._hub
        news = hub.seq != self._told or hub.counts_version != self._version
        return news and hub.ticks - self._told_at >= COUNTS_TICKS

    async def _tell(self) -> None:
        while True:
            await self._due.wait()
            for frame in self._take():
                await self.send(frame)
            pause = self._hub.pause()
            if pause > TICK_SECONDS:
                await trio.sleep(pause)

    def _take(self) -> list[str]:
        """Return what is to be sent, and forget it. No await in here (rule 3)."""
        self._due = trio.Event()
        taken, self._frames = list(self._frames.values()), {}
        hub = self._hub
        if self._lost:
            self._lost, self._told = False, hub.seq
            self._version = -1
            taken.append(frame_json("resync", epoch=self._queue.epoch, seq=hub.seq).decode())
        if self._patches or self._version < 0 or self._counts_are_due():
            frame, patches = hub.frame(self._told), self._patches
            if patches:
                rows = {format_id(key): patch for key, patch in patches.items()}
                frame = frame.removesuffix(_NO_ROWS) + msgspec.json.encode(rows).decode() + "}"
                self._patches = {}
            self._note_told()
            taken.append(frame)
        return taken

    async def _end_on_stop(self) -> None:
        await self._app.stopping.wait()
        await self.bye(GOING_AWAY, "the server is stopping")

    # --- from the client
    async def _listen(self, nursery: trio.Nursery) -> None:
        while True:
            text = await self._connection.receive()  # None, by Quart, of an empty binary message
            try:
                self._watch(parse_watch(text or b""), nursery)
            except OqError as error:
                await self.send('{"type":"error",' + error_json(error).decode()[1:])

    def _watch(self, watch: Watch, nursery: trio.Nursery) -> None:
        keys = frozenset(_keys(watch.ids))
        task = None if watch.task is None else self._key_of(watch.task)
        new = keys - self._watched
        self._watched = keys
        if task != self.task:
            self.task, self._facts = task, {}
            self._following.cancel()
            if task is not None:
                self._following = trio.CancelScope()
                nursery.start_soon(self._follow, task, self._following)
                self.patch(task, self._hub.facts(task))
        self._patches = {key: patch for key, patch in self._patches.items() if self.sees(key)}
        if watch.since is not None and new:
            try:
                for key, patch in self._hub.patches_since(watch.since, new).items():
                    self.patch(key, patch)
            except SubscriberLagged:
                self.lost()
        if self._patches or self._lost:
            self._due.set()

    def _key_of(self, text: str) -> int:
        """Return the key of a whole id, also if its task is gone (`_follow` tells that), or of the beginning of one."""
        try:
            return parse_id(text)
        except ValueError:
            return self._queue.resolve(text)

    async def _follow(self, key: int, scope: trio.CancelScope) -> None:
        """Send the text of the open task, also of its later runs, once each."""
        id, told = format_id(key), -1
        with scope:
            while True:
                self._again = trio.Event()
                try:
                    task = await self._queue.get_light(key)
                    if told < 0:
                        self._tell_where_it_stands(task)
                    # The start of the run whose text was told just now may be heard of only after its end.
                    if _attempts(task) == told:
                        await self._again.wait()
                        continue
                    async with aclosing(self._queue.follow(key)) as items:
                        async for item in items:
                            if isinstance(item, StreamText):
                                place = {
                                    "id": id,
                                    "attempt": item.attempt,
                                    "kind": item.kind,
                                    "off": item.offset,
                                }
                                await self.send(frame_json("tok", **place, text=item.text).decode())
                                await trio.sleep(self._hub.pause())  # what comes meanwhile comes as one
                            elif isinstance(item, StreamEnd):
                                told = _attempts(item.task)
                except TaskNotFound:
                    self.patch(key, None)  # also when it was deleted before the watch came
                    self._due.set()
                    return
                except OqError:
                    return  # the queue ends

    def _tell_where_it_stands(self, task: Task) -> None:
        """Nobody told what happened to the task between the client's reading of it and its watch: it may read again."""
        pending = self._patches.get(task.key, {})
        if pending is not None and pending.get("revision", 0) < task.revision:
            self.patch(task.key, {"status": str(task.status), "revision": task.revision})
            self._due.set()


def _attempts(task: Task) -> int:
    """Return the number of the last attempt, 0 before the first."""
    return task.attempts[-1].number if task.attempts else 0


FACTS = frozenset({"queue_position", "expected_start_at", "waiting"})


def _keys(ids: list[str]) -> list[int]:
    if len(ids) > WATCHED_MAX:
        raise InvalidTask(f"at most {WATCHED_MAX} rows can be watched at a time", "ids")
    found = []
    for number, id in enumerate(ids):
        try:
            found.append(parse_id(id))
        except ValueError as exc:
            raise InvalidTask(f"ids[{number}]: {str(exc)[:200]}", "ids") from None
    return found
