"""The two endless answers, text and events, as flows that survive a lost connection. No I/O here."""

from __future__ import annotations

from typing import Any

import msgspec

from oq.client.calls import NDJSON, SSE, Answer, Lost, named_error, task_path
from oq.client.flows import Emit, EventParser, Flow, Lines, Open, Pause, Read, Tries
from oq.client.verbs import Verbs
from oq.errors import InvalidTask, ServerError
from oq.wire import RemoteLine, decode_event, decode_line


class Connected(msgspec.Struct, frozen=True):
    """The subscription is live: what happens from now on is delivered."""


def follow(verbs: Verbs, id: str, offset: int = 0) -> Flow[None]:
    """Emit the text so far, then the text as it comes, then the end; each character once, whatever breaks."""
    tries = Tries(verbs.patience, verbs.url)
    place = _Place(offset)
    while True:
        call = verbs.call(
            "GET", task_path(id, "stream"), params=[("offset", str(place.offset))], headers={"Accept": NDJSON}
        )
        outcome = yield Open(call)
        if isinstance(outcome, Lost) or outcome.status >= 300:
            yield Pause(tries.failed(call, outcome))
            continue
        lines = Lines()
        broken = Lost("the stream ended early")
        while (piece := (yield Read())) is not None:
            if isinstance(piece, Lost):
                broken = piece
                break
            for line in lines.feed(piece):
                for item in place.take(line):
                    tries.progress()
                    yield Emit(item)
                    if item.type == "end":
                        return
            if place.again:
                break
        if place.again:
            place.again = False
        elif not broken.idle:
            yield Pause(tries.failed(call, broken))


class _Place:
    """Where a reader stands in a task's text, so that a new connection goes on where the old one broke."""

    def __init__(self, offset: int) -> None:
        # After a break the text is asked for from here again, and what was seen is dropped: asking from where it
        # broke would hide the beginning of another attempt that started meanwhile.
        self.offset = offset
        self._attempt = 0
        self._seen = {"content": offset}
        self.again = False  # another attempt's text began before our offset: ask for it from its beginning

    def take(self, raw: bytes) -> list[RemoteLine]:
        """Return what a line of the answer brings: nothing, it, or a restart and it."""
        if not raw.strip():
            return []  # a heartbeat
        line = decode_line(raw)
        if line.type == "end":
            return [line]
        if line.error is not None:
            raise named_error(line.code or "", line.error)
        if line.type == "restart":
            return self._begin(line.attempt)
        if line.type != "text":
            return []  # a newer server's
        before = self._begin(line.attempt)
        if before and line.offset > 0:
            self.again = True
            return before
        seen = self._seen.get(line.kind, 0)
        fresh = line.text[max(0, seen - line.offset) :]
        if not fresh:
            return before
        self._seen[line.kind] = end = line.offset + len(line.text)
        return [*before, msgspec.structs.replace(line, offset=end - len(fresh), text=fresh)]

    def _begin(self, attempt: int) -> list[RemoteLine]:
        """Go to another attempt; the first one that is seen is nothing to tell."""
        if attempt == self._attempt:
            return []
        known, self._attempt = self._attempt, attempt
        if not known:
            return []
        self.offset, self._seen = 0, {}
        return [RemoteLine("restart", attempt)]


def events(verbs: Verbs, types: Any = None, after: str | int | None = None) -> Flow[None]:
    """Emit `Connected` once, then a `RemoteEvent` for each thing that happens, for ever."""
    tries = Tries(verbs.patience, verbs.url)
    last = "" if after is None else str(after)
    if not (last.isascii() and last.isprintable()):  # it stands in a header
        raise InvalidTask(f"{last[:100]!r} is no event's number", "after")
    params = [("type", str(type)) for type in types or ()]
    live = False
    while True:
        headers = {"Accept": SSE} | ({"Last-Event-ID": last} if last else {})
        call = verbs.call("GET", "/api/events", params=params, headers=headers)
        outcome = yield Open(call)
        if not isinstance(outcome, Answer) or outcome.status >= 300:
            yield Pause(tries.failed(call, outcome))
            continue
        if not outcome.headers.get("content-type", "").startswith(SSE):
            raise ServerError(
                f"{verbs.url} answers, but tells no events. Is it an oq server?", outcome.status
            )
        if not live:
            live = True
            yield Emit(Connected())
        parser = EventParser(last)
        broken = Lost("the event stream ended")
        while (piece := (yield Read())) is not None:
            if isinstance(piece, Lost):
                broken = piece
                break
            if b"\n" in piece:
                tries.progress()
            found = parser.feed(piece)
            last = parser.last_id
            for event in found:
                last = event.id or last
                yield Emit(decode_event(event.data))
        if not broken.idle:
            yield Pause(tries.failed(call, broken))
