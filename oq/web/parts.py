"""Large answers: sent in parts, and only so many in memory at a time.

A client that does not read holds its answer in memory until `server.send_timeout`. Handed on whole, one of 16 MB takes
68 MB on its way through Quart, h11 and the socket, and has to be read to its end within that time; in parts it is held
once, and each part has the time for itself.
"""

from __future__ import annotations

from contextlib import ExitStack

from oq.errors import OqError, QueueBusy
from oq.room import LARGE, Room
from oq.web.errors import answer_of
from oq.web.openai.errors import openai_answer_of
from oq.web.submit import Answer, Asgi, Message, Receive, Scope, Send, send_answer

PART = 64 * 1024  # bytes


class Parts:
    """An ASGI app around *app*, whose large answers find place in *room* or are refused."""

    def __init__(self, app: Asgi, room: Room) -> None:
        self._app, self._room = app, room

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start: Message | None = None  # of a large answer, until its body is here
        refused = False

        async def parted(message: Message) -> None:
            nonlocal start, refused
            if refused:
                return
            if message["type"] != "http.response.body":
                if _length(message) < LARGE:
                    await send(message)
                else:
                    start = message
                return
            body: bytes = message.get("body", b"")
            if start is not None:
                try:
                    held.enter_context(self._room.held(len(body)))
                except QueueBusy as error:
                    refused = True
                    await send_answer(send, answer_for(scope, error))
                    return
                await send(start)
                start = None
            if len(body) <= PART:
                await send(message)
                return
            last, more = len(body) - PART, message.get("more_body", False)
            for offset in range(0, len(body), PART):
                part = body[offset : offset + PART]
                await send({**message, "body": part, "more_body": more or offset < last})

        with ExitStack() as held:
            await self._app(scope, receive, parted)


def answer_for(scope: Scope, error: OqError) -> Answer:
    """Return what *error* becomes at this path: OpenAI's clients show a message only in OpenAI's form."""
    return openai_answer_of(error) if scope["path"].startswith("/v1/") else answer_of(error)


def _length(start: Message) -> int:
    """Return the length that the head of an answer tells; 0 if it tells none."""
    for name, value in start["headers"]:
        if name.lower() == b"content-length":
            return int(value)
    return 0
