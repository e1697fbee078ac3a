"""What the hosts answer themselves: lists at once, the rest passed on as it streams; none of it waits in the queue.

With several hosts, lists are those of all that answer, a model is shown by the first that has it, and what changes
a host (pull, push, create, copy, delete, blobs) goes to the first, or to the one that ``X-Queue-Host`` names.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from oq.core.output import NOT_JSON
from oq.errors import BackendError, InvalidTask
from oq.ports import Backend, Forwarded, Headers
from oq.web.exchange import ClientGone, Exchange
from oq.web.safety import SAFE_HEADERS

if TYPE_CHECKING:
    from oq.web.house import House

LIST_SECONDS = 5.0  # for a host to say what it has; a slow one is left out
LIST_BYTES = 16 << 20
# Connection-bound, or ours to say (RFC 9110, 7.6.1).
_HOP = frozenset(
    {b"connection", b"keep-alive", b"transfer-encoding", b"te", b"trailer", b"upgrade", b"proxy-connection"}
)
_NOT_PASSED = _HOP | {
    b"host",
    b"authorization",
    b"content-length",
    b"expect",
    b"cookie",
    b"origin",
    b"referer",
}
# What oq says of its own answers. A page, a cookie or a rule for browsers is no part of what a model server has to tell.
_OURS = _HOP | {name for name, _ in SAFE_HEADERS} | {
    b"date", b"x-request-id", b"set-cookie", b"strict-transport-security", b"clear-site-data", b"alt-svc",
}  # fmt: skip


async def pass_on(house: House, exchange: Exchange, body: bytes | None = None, **_: str) -> None:
    """Pass the request on, both ways as it streams; *body* where it was read already."""
    backend = _chosen(house, exchange)
    async with aclosing(exchange.parts() if body is None else _one(body)) as parts:
        await _forward(backend, exchange, parts)


async def version(house: House, exchange: Exchange, **_: str) -> None:
    """The version of the first host that answers."""
    await _first_good(house, exchange, b"")


async def show(house: House, exchange: Exchange, **_: str) -> None:
    """A model as the first host that has it shows it."""
    await _first_good(house, exchange, await exchange.body())


async def lists(house: House, exchange: Exchange, **_: str) -> None:
    """The models of all hosts, of one name once: /api/tags and /api/ps."""
    if len(house.queue.backends()) == 1:
        await _first_good(house, exchange, b"")
        return
    body = msgspec.json.encode({"models": await models_of(house, exchange.path)})
    await exchange.whole(200, body, {"Content-Type": "application/json; charset=utf-8"})


async def models_of(house: House, path: str = "/api/tags") -> list[dict[str, Any]]:
    """Return what the hosts list at *path*, of one name once. Raises `BackendError` if none answers."""
    answers: dict[str, list[dict[str, Any]]] = {}
    failures: list[BackendError] = []

    async def ask(name: str, backend: Backend) -> None:
        try:
            with trio.move_on_after(LIST_SECONDS):
                answers[name] = await _list(backend, path)
        except BackendError as error:
            failures.append(error)

    async with trio.open_nursery() as nursery:
        for name, backend in house.queue.backends().items():
            nursery.start_soon(ask, name, backend)
    if not answers:
        raise failures[0] if failures else BackendError("no model server answers", "unreachable")
    found: dict[str, dict[str, Any]] = {}
    for name in house.queue.backends():
        for model in answers.get(name, ()):
            found.setdefault(str(model.get("name")), model)
    return list(found.values())


async def _list(backend: Backend, path: str) -> list[dict[str, Any]]:
    async with backend.forward("GET", path, [], _one(b"")) as answer:
        body = await _whole(answer)
    try:
        models = msgspec.json.decode(body)["models"]
        return [model for model in models or () if isinstance(model, dict)]
    except (*NOT_JSON, KeyError, TypeError):
        raise BackendError("the model server's list is not what Ollama sends", "bad_answer") from None


async def _first_good(house: House, exchange: Exchange, body: bytes) -> None:
    """Ask one host after the other; answer as the first that answers well, else as the last."""
    backends = list(house.queue.backends().values())
    for backend in backends[:-1]:
        try:
            async with _asked(backend, exchange, _one(body)) as answer:
                if answer.status < 400:
                    await _pass_back(answer, exchange)
                    return
        except BackendError:
            continue
    await _forward(backends[-1], exchange, _one(body))


def _asked(backend: Backend, exchange: Exchange, parts: AsyncIterator[bytes]) -> Any:
    headers: Headers = []
    for name, value in exchange.headers.items():
        if name.encode() not in _NOT_PASSED and not name.startswith("x-queue-"):
            headers.append((name.encode(), value.encode("latin-1")))
    length = exchange.headers.get("content-length")
    if "transfer-encoding" in exchange.headers:  # beside it a length counts for nothing (RFC 9112, 6.3)
        headers.append((b"transfer-encoding", b"chunked"))
    elif length is not None:
        headers.append((b"content-length", length.encode()))
    target = exchange.raw_path.decode("latin-1") + (
        f"?{exchange.query.decode('latin-1')}" if exchange.query else ""
    )
    return backend.forward(exchange.method, target, headers, parts)


async def _forward(backend: Backend, exchange: Exchange, parts: AsyncIterator[bytes]) -> None:
    """Pass on to *backend*; a client that goes away ends it at the host, too."""
    failure: BaseException | None = None
    async with trio.open_nursery() as nursery:

        async def end_when_gone() -> None:
            await exchange.wait_gone()
            nursery.cancel_scope.cancel()

        try:
            async with _asked(backend, exchange, parts) as answer:
                nursery.start_soon(end_when_gone)
                await _pass_back(answer, exchange)
        except (BackendError, ClientGone) as error:  # kept out of the nursery, which would wrap it in a group
            failure = error
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure


async def _pass_back(answer: Forwarded, exchange: Exchange) -> None:
    left = _OURS | {b"content-length"} if _chunked(answer.headers) else _OURS
    headers = [
        (name, value)
        for name, value in answer.headers
        if name not in left and not name.startswith(b"access-control-")
    ]
    await exchange.begin(answer.status, headers)
    while data := await answer.receive():
        await exchange.write(data)
    await exchange.end()


def _chunked(headers: Headers) -> bool:
    """Return whether the answer comes in chunks: a length beside them counts for nothing (RFC 9112, 6.3)."""
    return any(name == b"transfer-encoding" for name, _ in headers)


async def _whole(answer: Forwarded) -> bytes:
    body = bytearray()
    while len(body) < LIST_BYTES and (data := await answer.receive()):
        body += data
    return bytes(body)


async def _one(body: bytes) -> AsyncGenerator[bytes, None]:
    if body:
        yield body


def _chosen(house: House, exchange: Exchange) -> Backend:
    backends = house.queue.backends()
    name = exchange.headers.get("x-queue-host")
    if name is None:
        return next(iter(backends.values()))
    if name not in backends:
        raise InvalidTask(f"there is no host {name[:100]!r}; there are {', '.join(backends)}", "X-Queue-Host")
    return backends[name]
