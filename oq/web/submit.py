"""POST /api/tasks: one function for the route and for the short way around Quart.

Quart costs about 200 µs of CPU a request, half of what a durable submit may cost in all; this route is the one
that is called for every single task. `FastSubmit` stands in front of the app and answers it with plain ASGI; the
Quart route stays (the URL map and the OpenAPI page are made from it) and a test holds the two to the same answers.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from oq.core.ids import format_id
from oq.core.model import TaskSpec
from oq.errors import OqError
from oq.web.errors import JSON, InternalError, UnsupportedMediaType, answer_of
from oq.wire import parse_task, submitted_json

if TYPE_CHECKING:
    from oq.queue import Queue

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Asgi = Callable[[Scope, Receive, Send], Awaitable[None]]
Answer = tuple[int, bytes, dict[str, str]]

logger = logging.getLogger(__name__)


def check_json(content_type: str | None) -> None:
    """Refuse a body that does not say it is JSON: a browser sends other kinds for foreign pages without asking."""
    kind = (content_type or "").partition(";")[0].strip().lower()
    if kind != JSON and not (kind.startswith("application/") and kind.endswith("+json")):
        raise UnsupportedMediaType(
            f"the body must be JSON: send Content-Type: application/json (it was {kind[:60] or 'missing'})"
        )


def starts_as(spec: TaskSpec, now: float) -> str:
    """Return the status a new task begins with."""
    return "scheduled" if spec.delay or (spec.run_at is not None and spec.run_at > now) else "pending"


async def submit_one(
    queue: Queue, content_type: str | None, idempotency_key: str | None, body: bytes
) -> Answer:
    """Submit the task in *body*; returns once it is on disk. Raises `OqError`."""
    check_json(content_type)
    spec = parse_task(body, idempotency_key=idempotency_key)
    (key,) = await queue.submit_keys([spec])
    if isinstance(key, OqError):
        raise key
    location = f"/api/tasks/{format_id(key)}"
    return (
        201,
        submitted_json(key, starts_as(spec, queue.clock.now())),
        {"Content-Type": JSON, "Location": location},
    )


class FastSubmit:
    """Answers POST /api/tasks itself and hands everything else to *app*."""

    def __init__(self, app: Asgi, queue: Queue) -> None:
        self._app, self._queue = app, queue

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] != "/api/tasks":
            await self._app(scope, receive, send)
            return
        body = await read_body(receive)
        if body is None:
            return
        content_type = key = None
        for name, value in scope["headers"]:
            if name == b"content-type":
                content_type = value.decode("latin-1")
            elif name == b"idempotency-key":
                key = value.decode("latin-1")
        try:
            answer = await submit_one(self._queue, content_type, key, body)
        except OqError as error:
            answer = answer_of(error)
        except Exception:
            logger.exception("a submission failed unexpectedly")
            answer = answer_of(InternalError("the server made a mistake; its log has the details"))
        await send_answer(send, answer)


async def read_body(receive: Receive) -> bytes | None:
    """Return the whole body, None when the client went away."""
    message = await receive()
    if message["type"] == "http.disconnect":
        return None
    body: bytes = message.get("body", b"")
    if not message.get("more_body"):
        return body
    parts = [body]
    while message.get("more_body"):
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
    return b"".join(parts)


async def send_answer(send: Send, answer: Answer) -> None:
    status, body, headers = answer
    fields = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    fields.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body, "more_body": False})
