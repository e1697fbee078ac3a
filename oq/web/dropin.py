"""The APIs of Ollama and OpenAI, in front of Quart on bare ASGI: exact answers, streams, clients that go away."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable
from contextlib import suppress

from oq.errors import OqError
from oq.web.errors import InternalError, MethodNotAllowed, answer_of
from oq.web.exchange import ClientGone, Exchange
from oq.web.house import House
from oq.web.ollama import hosts
from oq.web.ollama.tasks import TASK_PATHS, run_native
from oq.web.openai import batches, files, models
from oq.web.openai.errors import openai_answer_of
from oq.web.openai.forms import READERS
from oq.web.openai.tasks import run_openai
from oq.web.submit import Asgi, Receive, Scope, Send

logger = logging.getLogger(__name__)

Handler = Callable[..., Awaitable[None]]
Answer = tuple[int, bytes, dict[str, str]]

ROUTES: list[tuple[str, str, Handler]] = [
    *(("POST", path, run_native) for path in TASK_PATHS),
    ("GET", "/api/tags", hosts.lists),
    ("GET", "/api/ps", hosts.lists),
    ("GET", "/api/version", hosts.version),
    ("POST", "/api/show", hosts.show),
    *(("POST", f"/api/{verb}", hosts.pass_on) for verb in ("pull", "push", "create", "copy")),
    ("DELETE", "/api/delete", hosts.pass_on),
    *(("POST", path, run_openai) for path in READERS),
    ("GET", "/v1/models", models.every_model),
    ("GET", "/v1/models/{id}", models.one_model),
    ("POST", "/v1/files", files.upload),
    ("GET", "/v1/files", files.every_file),
    ("GET", "/v1/files/{id}", files.one_file),
    ("DELETE", "/v1/files/{id}", files.delete_file),
    ("GET", "/v1/files/{id}/content", files.content),
    ("POST", "/v1/batches", batches.create),
    ("GET", "/v1/batches", batches.every_batch),
    ("GET", "/v1/batches/{id}", batches.one_batch),
    ("POST", "/v1/batches/{id}/cancel", batches.cancel),
    ("HEAD", "/api/blobs/{digest}", hosts.pass_on),
    ("POST", "/api/blobs/{digest}", hosts.pass_on),
]
"""Method, path and what answers. A part in braces may have slashes, except in the middle of a path."""

AS_IT_COMES = (hosts.pass_on, files.upload)  # they read a body piece by piece


class Dropin:
    """Answers what `ROUTES` name and hands everything else to *app*."""

    def __init__(self, app: Asgi, house: House) -> None:
        self._app, self._house = app, house
        self._plain: dict[str, dict[str, Handler]] = {}
        self._patterns: list[tuple[re.Pattern[str], dict[str, Handler]]] = []
        by_path: dict[str, dict[str, Handler]] = {}
        for method, path, handler in ROUTES:
            by_path.setdefault(path, {})[method] = handler
        for path, handlers in by_path.items():
            if "GET" in handlers:
                handlers.setdefault("HEAD", handlers["GET"])
            if "{" in path:
                # The longest first: /v1/files/{id} would take .../content for a part of the name.
                self._patterns.append((_pattern(path), handlers))
                self._patterns.sort(key=lambda item: -len(item[0].pattern))
            else:
                self._plain[path] = handlers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = self._find(scope["path"]) if scope["type"] == "http" else None
        if found is None:
            await self._app(scope, receive, send)
            return
        handlers, parts = found
        handler = handlers.get(scope["method"])
        exchange = Exchange(scope, receive, send)
        failure: OqError | None = None
        try:
            if handler not in AS_IT_COMES or scope["method"] == "HEAD":
                await exchange.body()  # to its end, before the answer begins: oq.web.unread says why
            if handler is None:
                await _refuse_method(exchange, ", ".join(handlers))
            else:
                await handler(self._house, exchange, **parts)
        except ClientGone:
            pass  # nobody is there to be answered
        except OqError as error:
            failure = error
        except Exception:
            logger.exception("a request failed unexpectedly: %s %s", exchange.method, exchange.path)
            failure = InternalError("the server made a mistake; its log has the details")
        if failure is not None:
            with suppress(ClientGone):
                await _refuse(exchange, failure)

    def _find(self, path: str) -> tuple[dict[str, Handler], dict[str, str]] | None:
        handlers = self._plain.get(path)
        if handlers is not None:
            return handlers, {}
        if path.startswith(("/v1/", "/api/blobs/")):
            for pattern, handlers in self._patterns:
                if match := pattern.fullmatch(path):
                    return handlers, match.groupdict()
        return None


async def _refuse_method(exchange: Exchange, allowed: str) -> None:
    """Say it as the API does: Ollama's answer is plain text."""
    if exchange.path.startswith("/v1/"):
        status, body, headers = openai_answer_of(
            MethodNotAllowed(f"{exchange.method} does not go here; use {allowed}")
        )
        await exchange.whole(status, body, {**headers, "Allow": allowed})
    else:
        await exchange.whole(405, b"405 method not allowed", {"Content-Type": "text/plain", "Allow": allowed})


async def _refuse(exchange: Exchange, error: OqError) -> None:
    """Answer with *error*; an answer that has begun is left without its end, which tells the client as much."""
    if not exchange.begun:
        await exchange.read_on()
        answer = openai_answer_of if exchange.path.startswith("/v1/") else answer_of
        status, body, headers = answer(error)
        await exchange.whole(status, body, headers)
        return
    logger.warning("%s %s was cut off: %s", exchange.method, exchange.path, error)


def _pattern(path: str) -> re.Pattern[str]:
    """Return what matches *path*; a name may have slashes where it ends the path, as models' names do.

    A digest may not, nor dots: it goes into a path of the model server as it came, and must lead to no other.
    """
    text = re.escape(path).replace(r"\{digest\}", r"(?P<digest>[\w:-]+)")
    text = re.sub(r"\\{(\w+)\\}$", r"(?P<\1>.+)", text)
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", text))
