"""Puts the HTTP face together: routes, errors, and the thin ASGI layers in front of Quart."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import quart.wrappers.base
from quart import Response, has_websocket_context, request, websocket
from quart.wrappers import Request, Websocket
from werkzeug.exceptions import HTTPException
from werkzeug.routing.exceptions import WebsocketMismatch

from oq.errors import OqError, TooLarge
from oq.web import live, monitor, pages, rest, streams
from oq.web.app import OqApp
from oq.web.dropin import Dropin
from oq.web.errors import HttpError, InternalError, MethodNotAllowed, NoSuchRoute, answer_of
from oq.web.guard import Guard
from oq.web.house import House
from oq.web.openai.errors import openai_answer_of
from oq.web.parts import Parts
from oq.web.submit import Asgi, FastSubmit, Receive, Scope, Send

if TYPE_CHECKING:
    from oq.config import Settings
    from oq.queue import Queue

logger = logging.getLogger(__name__)


class _Never(Exception):
    """Stands for what an older Quart does not raise."""


# Quart 0.23 raises it in a route that still reads when the client leaves, and again when it would answer.
_Gone: type[Exception] = getattr(quart.wrappers.base, "ClientDisconnectedError", _Never)


def make_app(queue: Queue, settings: Settings) -> OqApp:
    """Return the ASGI app that serves *queue*."""
    app = OqApp(queue, settings)
    app.config["MAX_CONTENT_LENGTH"] = None  # the guard counts, and answers in our form
    app.config["BODY_TIMEOUT"] = None
    app.config["RESPONSE_TIMEOUT"] = None
    app.config["BACKGROUND_TASK_SHUTDOWN_TIMEOUT"] = None  # the sampler ends at once, not after five seconds
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    app.register_error_handler(OqError, _oq_error)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _bug)
    rest.add_routes(app)
    streams.add_routes(app)
    live.add_routes(app)
    monitor.add_routes(app)
    pages.add_routes(app)
    inner: Asgi = app.asgi_app  # type: ignore[assignment]

    async def served(scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await inner(scope, receive, send)
        except* _Gone:
            pass  # nobody is there to be answered

    house = House(queue, settings, app.stopping)

    @app.before_serving
    async def run_batches() -> None:
        app.nursery.start_soon(house.runner.run)

    @app.before_serving
    async def watch_tokens() -> None:
        app.nursery.start_soon(app.gate.run)

    parts = Parts(FastSubmit(Dropin(served, house), queue), queue.room)
    app.asgi_app = Guard(parts, settings, app.gate)  # type: ignore[method-assign,assignment]
    return app


def answer(error: OqError) -> Response:
    status, body, headers = answer_of(error)
    return Response(body, status, headers)


async def _oq_error(error: OqError) -> Response:
    if not isinstance(error, HttpError) and type(error) is OqError:
        logger.error("an error without a status of its own: %s", error)
    return answer(error)


async def _http_error(error: HTTPException) -> Response:
    """Say what Werkzeug found wrong in our form."""
    asked = _asked()
    status = error.code or 500
    if status == 404:
        missing = NoSuchRoute(
            f"there is nothing at {asked.path[:100]!r}; see /openapi.json for what there is"
        )
        if asked.path.startswith("/v1/"):  # OpenAI's clients show a message only in OpenAI's form
            code, body, headers = openai_answer_of(missing)
            return Response(body, code, headers)
        return answer(missing)
    if isinstance(error, WebsocketMismatch):
        return answer(
            HttpError(
                f"{asked.path} is a WebSocket: connect to it with Upgrade: websocket, or use /api/events"
            )
        )
    if status == 405:
        allowed = sorted(set(getattr(error, "valid_methods", None) or ()) - {"HEAD", "OPTIONS"})
        found = answer(MethodNotAllowed(f"{asked.method} does not go here; use {' or '.join(allowed)}"))
        found.headers["Allow"] = ", ".join(allowed)
        return found
    if status == 413:
        return answer(TooLarge("the body is too large (server.max_body_bytes); send it in parts"))
    if status >= 500:
        return await _bug(error)
    if status < 400:
        return Response("", status, {"Location": getattr(error, "new_url", "/")})
    said = HttpError(error.description or "the request is not understood")
    said.status = status
    return answer(said)


async def _bug(error: Exception) -> Response:
    if isinstance(error, _Gone):
        return Response(b"")
    asked = _asked()
    logger.error("a request failed unexpectedly: %s %s", asked.method, asked.path, exc_info=error)
    return answer(InternalError("the server made a mistake; its log has the details"))


def _asked() -> Request | Websocket:
    """Return what is being answered: errors of the WebSocket come to the same handlers."""
    return websocket if has_websocket_context() else request
