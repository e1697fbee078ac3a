"""A call of another API, answered by a task: submit, follow, and answer in that API's form.

Rule 1: the head of an answer leaves with its first byte, so a failure before it has its real status, and retries up
to then are invisible. Rule 2: after the first byte a failure is an error inside the answer, and ends it: text that a
client has cannot be taken back, so the task is not tried again for it. Rule 3: the last word of an answer leaves when
the result is on disk. Rule 4: a client that goes away cancels its task, unless settings or another reader keep it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol

import msgspec
import trio

from oq.core.ids import created_at, format_id
from oq.core.model import Status, TaskSpec
from oq.core.task import Task
from oq.dropin.refusals import Refused, refusal_of
from oq.dropin.terms import Terms
from oq.errors import OqError, TooMany
from oq.transcript import Transcript
from oq.web.exchange import Exchange
from oq.wire import rfc3339

if TYPE_CHECKING:
    from oq.config import Settings
    from oq.queue import Queue

HEARTBEAT_SECONDS = 15.0  # between two signs of life, once they began
CANCEL_SECONDS = 5.0  # for the cancel of a task whose client is gone, also while the server stops
STOPPING = Refused(
    503, "the server is stopping; the task waits in its queue until it is back", code="queue_closed"
)

BAD_ANSWER = Refused(502, "the model server's answer is not what Ollama sends", code="bad_answer")


class Form(Protocol):
    """How an API answers. Bytes are whole lines or events; `whole` and `refused` are bodies."""

    streams: bool

    def began(self, id: str, created_at: float) -> None:
        """The call is the task *id* now; called first."""
        ...

    def content_type(self, first: bytes) -> str:
        """Return that of a streamed answer which begins with the line *first* (b"": not known yet)."""
        ...

    def lines(self, lines: list[bytes]) -> bytes: ...

    def end(self, task: Task) -> bytes: ...

    def whole(self, task: Task) -> bytes: ...

    def refused(self, why: Refused) -> tuple[bytes, str]:
        """Return an error's body and its content type."""
        ...

    def broken(self, why: Refused) -> bytes: ...

    def waiting(self, now: str) -> bytes: ...


class Broke(Exception):
    """The attempt whose text the client has will not be the one that ends."""


class Relay:
    """Reads the model server's lines of one task as they come."""

    def __init__(self, queue: Queue, key: int, transcript: Transcript) -> None:
        self._queue = queue
        self._key = key
        self._transcript = transcript
        self._attempt = 0
        self._position = 0
        self._given = False
        self.complete = False  # the line with done: true was given
        self._held: list[bytes] = []
        self.started_at: float | None = None  # Trio's time of the first start seen

    @property
    def ended(self) -> bool:
        return self._transcript.ended or self._queue.status_of(self._key).finished

    async def next(self) -> list[bytes] | None:
        """Return the lines that came since, at least one; None when the task is finished. Raises `Broke`."""
        transcript = self._transcript
        while True:
            attempt, pieces = transcript.since(self._attempt, self._position)
            if attempt and self.started_at is None:
                self.started_at = trio.current_time()
            if self._given and (attempt != self._attempt or transcript.broken >= attempt):
                raise Broke
            if attempt != self._attempt:
                self._attempt, self._position, self._held = attempt, 0, []
                attempt, pieces = transcript.since(attempt, 0)
            self._position += len(pieces)
            lines = [piece.line for piece in pieces if piece.line and piece.kind != "end"]
            self._held += [piece.line for piece in pieces if piece.kind == "end"]
            if lines:
                self._given = True
                return lines
            if pieces:
                continue  # there may be more
            if self.ended:
                if self._held:
                    lines, self._held, self.complete = self._held, [], True
                    return lines
                return None
            await transcript.wait_changed()

    async def wait_ended(self) -> None:
        """Wait for the end of the task, whatever its attempts do."""
        transcript = self._transcript
        while not self.ended:
            if self.started_at is None and transcript.since(0, 0)[0]:
                self.started_at = trio.current_time()
            if self.started_at is None:
                await transcript.wait_changed()
            else:
                await transcript.wait_ended()


async def answer_task(
    exchange: Exchange, queue: Queue, settings: Settings, stopping: trio.Event, spec: TaskSpec, terms: Terms, form: Form
) -> None:  # fmt: skip
    """Answer *exchange*, whose body was read, with what becomes of *spec*. Raises `OqError` before the first byte."""
    check_share(queue, terms)
    async with queue.submit_watched(spec) as (key, transcript):
        place = queue.position(key)
        form.began(format_id(key), created_at(key))
        call = _Call(
            exchange, queue, settings, key, Relay(queue, key, transcript), form, place[0] if place else 0
        )
        if terms.respond_async:
            await call.point_to_task()
            return
        reason = ""
        failure: OqError | None = None
        async with trio.open_nursery() as nursery:

            async def end_when_gone() -> None:
                nonlocal reason
                await exchange.wait_gone()
                reason = "gone"
                nursery.cancel_scope.cancel()

            async def end_on_stop() -> None:
                nonlocal reason
                await stopping.wait()
                while transcript.runs:
                    await transcript.wait_changed()
                if not call.relay.ended:
                    reason = "stop"
                    nursery.cancel_scope.cancel()

            nursery.start_soon(end_when_gone)
            nursery.start_soon(end_on_stop)
            try:
                await (call.stream() if form.streams else call.wait())
            except OqError as error:  # kept out of the nursery, which would wrap it in a group
                failure = error
            except msgspec.MsgspecError:
                await call.refuse(BAD_ANSWER)
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        if reason == "gone" and settings.dropin.on_disconnect == "cancel" and transcript.watchers < 2:
            await _cancel(queue, key)
        elif reason == "stop":
            await call.refuse(STOPPING)


def check_share(queue: Queue, terms: Terms) -> None:
    """Refuse a client that has as many unfinished tasks as it may."""
    if terms.client_tag is not None and terms.max_unfinished:
        count = queue.count_unfinished(terms.client_tag)
        if count >= terms.max_unfinished:
            name = terms.client_tag.partition(":")[2]
            raise TooMany(
                f"the client {name!r} has {count} unfinished tasks (clients.{name}.max_unfinished); try again later"
            )


async def _cancel(queue: Queue, key: int) -> None:
    with trio.move_on_after(CANCEL_SECONDS, shield=True):
        try:
            await queue.cancel_many([key])
        except OqError:
            pass  # the queue has stopped or its disk is full: recovery runs the task, nobody is there to be told


class _Call:
    """One call that is being answered."""

    def __init__(
        self, exchange: Exchange, queue: Queue, settings: Settings, key: int, relay: Relay, form: Form, place: int
    ) -> None:  # fmt: skip
        self.exchange = exchange
        self.queue = queue
        self.settings = settings
        self.key = key
        self.relay = relay
        self.form = form
        self.place = place
        self._began_at = trio.current_time()

    async def point_to_task(self) -> None:
        """Answer at once with where the task can be followed."""
        id = format_id(self.key)
        body = b'{"task_id":"%b","url":"/api/tasks/%b"}' % (id.encode(), id.encode())
        headers = {"Location": f"/api/tasks/{id}", "Preference-Applied": "respond-async"}
        await self.exchange.whole(202, body, {**self._headers("application/json"), **headers})

    async def wait(self) -> None:
        """Answer when the task is finished."""
        await self.relay.wait_ended()
        task = await self.queue.get_task(self.key)
        if task.status is Status.COMPLETED:
            await self.exchange.whole(
                200, self.form.whole(task), self._headers("application/json; charset=utf-8")
            )
        else:
            await self.refuse(refusal_of(task.state))

    async def stream(self) -> None:
        """Answer line by line."""
        silence = self.settings.dropin.heartbeat_after or math.inf
        try:
            while True:
                lines = None
                with trio.move_on_after(silence) as scope:
                    lines = await self.relay.next()
                if scope.cancelled_caught:
                    silence = HEARTBEAT_SECONDS
                    await self._begin(b"")
                    await self.exchange.write(self.form.waiting(rfc3339(self.queue.clock.now())))
                    continue
                if lines is None:
                    break
                silence = math.inf
                await self._begin(lines[0])
                await self.exchange.write(self.form.lines(lines))
        except Broke:
            task = await self.queue.get_task(self.key)
            if not task.status.finished:
                await _cancel(self.queue, self.key)
            await self.refuse(refusal_of(task.state))
            return
        task = await self.queue.get_task(self.key)
        if task.status is not Status.COMPLETED:
            await self.refuse(refusal_of(task.state))
            return
        if not self.relay.complete:  # the task ran before, or under another reader: its result is one line
            result = task.result_json or b"{}"
            await self._begin(result)
            await self.exchange.write(self.form.lines([result]))
        await self.exchange.write(self.form.end(task))
        await self.exchange.end()

    async def refuse(self, why: Refused) -> None:
        """Answer with a failure: by a status, or inside the answer that has begun."""
        if self.exchange.begun:
            await self.exchange.write(self.form.broken(why))
            await self.exchange.end()
            return
        body, kind = self.form.refused(why)
        headers = self._headers(kind)
        if why is STOPPING:
            headers["Retry-After"] = "10"
        else:
            headers["X-Should-Retry"] = "false"  # OpenAI's clients heed it; the queue has tried again already
        await self.exchange.whole(why.status, body, headers)

    async def _begin(self, first: bytes) -> None:
        if not self.exchange.begun:
            await self.exchange.begin(200, self._headers(self.form.content_type(first)))

    def _headers(self, content_type: str) -> dict[str, str]:
        start = self.relay.started_at
        waited = (trio.current_time() if start is None else start) - self._began_at
        return {
            "Content-Type": content_type,
            "X-Task-ID": format_id(self.key),
            "X-Queue-Position": str(self.place),
            "X-Queue-Wait": f"{max(0.0, waited):.3f}",
        }
