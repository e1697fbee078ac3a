"""Text and events as they happen: NDJSON and server-sent events. Readers pull; a slow one holds up nobody."""

from __future__ import annotations

from contextlib import AsyncExitStack, aclosing
from typing import TYPE_CHECKING

import trio
from quart import Response, request

from oq.core.events import EventType
from oq.errors import InvalidTask, OqError, SubscriberLagged
from oq.web.app import OqApp, queue, this_app
from oq.web.asked import arguments
from oq.web.bodies import Pumped, endless, sse
from oq.wire import error_json, resync_json, stream_line

if TYPE_CHECKING:
    from oq.queue import Queue

SSE = "text/event-stream"
NDJSON = "application/x-ndjson"
RESYNC = "resync"  # to an event reader: some events are gone, read the current state again
OFFSET_DIGITS = 15
GATHER_SECONDS = (
    0.1  # after events were sent, those of so long go together: a reader costs ten sends a second at most
)


def add_routes(app: OqApp) -> None:
    app.add_url_rule("/api/tasks/<id>/stream", "GET /api/tasks/<id>/stream", stream, methods=["GET"])
    app.add_url_rule("/api/events", "GET /api/events", events, methods=["GET"])


async def stream(id: str) -> Response:
    """The text so far from character *offset* on, what follows, and the end."""
    text = arguments("offset").get("offset", "0")
    if not (text.isascii() and text.isdigit() and len(text) <= OFFSET_DIGITS):
        raise InvalidTask(f"offset must be a whole number of characters, not {text[:60]!r}", "offset")
    offset, key, the_queue = int(text), queue().resolve(id), queue()
    as_events = _wants_sse(request.headers.get("Accept"))
    if request.method == "HEAD":
        return Response(b"", content_type=SSE if as_events else NDJSON)

    async def produce(pieces: trio.MemorySendChannel[bytes]) -> None:
        try:
            async with aclosing(the_queue.follow(key, offset)) as items:
                async for item in items:
                    line = stream_line(item)
                    await pieces.send(sse(line, _KINDS[type(item).__name__]) if as_events else line + b"\n")
        except OqError as error:  # the task was deleted, or the store broke, while it was read
            line = error_json(error)
            await pieces.send(sse(line, "error") if as_events else line + b"\n")

    body = Pumped(produce, b":\n\n" if as_events else b"\n", this_app().stopping)
    return endless(body, SSE if as_events else NDJSON)


_KINDS = {"StreamText": "text", "StreamRestart": "restart", "StreamEnd": "end"}


def _wants_sse(accept: str | None) -> bool:
    return SSE in (accept or "").lower()


async def events() -> Response:
    """Everything that happens, from now on or after `Last-Event-ID`."""
    given = arguments("type", "token")
    types = [name for value in given.getlist("type") for name in value.split(",") if name]
    for name in types:
        if name not in _TYPES:
            raise InvalidTask(f"type must be one of {', '.join(sorted(_TYPES))}, not {name[:60]!r}", "type")
    if request.method == "HEAD":
        return Response(b"", content_type=SSE)
    the_queue = queue()
    after = resume_point(the_queue, request.headers.get("Last-Event-ID"))
    lost = after is None
    if after is not None and after > the_queue.last_event:
        lost = True
    start = the_queue.last_event if after is None or lost else after
    held, wanted, texts = AsyncExitStack(), frozenset(types), this_app().event_texts
    # Entered here and not in the child, so that "too many" is a status and not a broken stream.
    held.enter_context(the_queue.subscriber())

    async def produce(pieces: trio.MemorySendChannel[bytes]) -> None:
        epoch, seq = the_queue.epoch, start
        # The id alone: a reader that breaks off before the first event resumes here.
        await pieces.send(b"retry: 1000\nid: %b-%d\n\n" % (epoch.encode(), start))
        if lost:
            await pieces.send(sse(resync_json(epoch, start), RESYNC, f"{epoch}-{start}"))
        try:
            while await the_queue.wait_event(seq):
                found = the_queue.events_since(seq)
                seq = found[-1].seq
                text = b"".join(texts(event) for event in found if not wanted or event.type in wanted)
                if text:
                    await pieces.send(text)
                    await trio.sleep(GATHER_SECONDS)
        except SubscriberLagged:
            now = the_queue.last_event
            await pieces.send(sse(resync_json(epoch, now), RESYNC, f"{epoch}-{now}"))  # then it reconnects

    return endless(Pumped(produce, b":\n\n", this_app().stopping, held), SSE)


_TYPES = frozenset(str(kind) for kind in EventType)


def resume_point(queue: Queue, last_id: str | None) -> int | None:
    """Return the event number to go on after; None if that is not of this run of the server."""
    if not last_id:
        return queue.last_event
    epoch, dash, number = last_id.rpartition("-")
    if (dash and epoch != queue.epoch) or not (number.isascii() and number.isdigit() and len(number) <= 18):
        return None
    return int(number)
