"""What stands before every request: who may ask, how much may be sent, and a name for the request.

A thin ASGI wrapper, so that it costs microseconds and holds for every route, the WebSocket included:

- **Host**: a page that rebinds its own name to this address (DNS rebinding) still sends its own name as Host.
  Addresses, localhost and the configured names pass.
- **Origin**: a browser says which page asks; a foreign page is refused. **Sec-Fetch-Site** says that it is one where no Origin is
  sent, as by an image; a link may lead here.
- **Token**: `oq.web.gate`.
- **Rate**: `oq.web.rate`, after the token, so that nobody is counted under a token that is not theirs.
- **Body**: counted as it arrives, so a chunked body cannot pass the limit; and read to its end (`oq.web.unread`).
- **Headers**: every answer forbids a browser to do more with it than to show it to who asked.
"""

from __future__ import annotations

import ipaddress
import itertools
import math
import re
import secrets
import socket
import time
from typing import TYPE_CHECKING

from oq.dropin.batches import ENDPOINTS
from oq.dropin.native import TYPES
from oq.errors import OqError, TooLarge
from oq.web.errors import Forbidden, HttpError, Unauthorized
from oq.web.gate import Gate, Grant, network_of
from oq.web.parts import answer_for
from oq.web.rate import RateLimit
from oq.web.safety import SAFE_HEADERS
from oq.web.submit import Answer, Asgi, Message, Receive, Scope, Send, send_answer
from oq.web.unread import Body, closing, too_large

if TYPE_CHECKING:
    from oq.config import Settings

BLOBS, FILES = "/api/blobs/", "/v1/files"
FORM_BYTES = 65_536  # of a multipart form around its file
READ_WHOLE = frozenset(
    {"/api/tasks", *TYPES, *ENDPOINTS}
)  # routes that read a body to its end before they answer
REMEMBERED = 1000  # Host values known to be good
REQUEST_ID_MAX = 128
_LOCAL = frozenset({"localhost", socket.gethostname().lower()})

_HOST = re.compile(r"(\[(?P<six>[0-9A-Fa-f:.%]+)\]|(?P<name>[^\[\]:/?#@\\\s]+))(:[0-9]*)?")


class Guard:
    """See the module."""

    def __init__(self, app: Asgi, settings: Settings, gate: Gate) -> None:
        server = settings.server
        self._gate = gate
        self._app = app
        self._limit = server.max_body_bytes
        self._file_limit = settings.dropin.max_file_bytes + FORM_BYTES
        self._names = {name.lower() for name in (*server.allowed_hosts, server.host)} | _LOCAL
        self._any_host = "*" in server.allowed_hosts
        self._origins = {origin.lower().rstrip("/") for origin in server.allowed_origins}
        self._good_hosts: set[bytes] = set()
        self._rate = RateLimit(server.rate_limit, time.monotonic) if server.rate_limit else None
        self._prefix = secrets.token_hex(4)
        self._numbers = itertools.count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        host = origin = request_id = length = None
        secrets_given: dict[bytes, bytes] = {}
        chunked = foreign = shown = False
        for name, value in scope["headers"]:
            if name == b"host":
                host = value
            elif name == b"origin":
                origin = value
            elif name in (b"authorization", b"sec-websocket-protocol"):
                secrets_given[name] = value
            elif name == b"content-length":
                length = value
            elif name == b"transfer-encoding":
                chunked = True
            elif name == b"x-request-id":
                request_id = value
            elif name == b"sec-fetch-site":
                foreign = value in (b"cross-site", b"same-site")  # the latter is another port of this machine
            elif name == b"sec-fetch-dest":
                shown = value == b"document"
        if request_id is None or not _sane(request_id):
            request_id = f"{self._prefix}-{next(self._numbers):x}".encode()
        extra = [(b"x-request-id", request_id)]
        if origin is not None and self._is_friend(origin):
            extra += [(b"access-control-allow-origin", origin), (b"vary", b"Origin")]
        started = False
        body: Body | None = None

        async def named_send(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                message["headers"] = _safe([*message["headers"], *extra])
                if body is not None and not body.ended:
                    await body.wait_ended()
                    if not body.ended:
                        message = closing(message)
                started = True
            await send(message)

        preflight = scope.get("method") == "OPTIONS" and origin is not None
        grant: Grant | None = None
        try:
            self._check_host(host)
            self._check_origin(origin, host)
            if foreign and origin is None and not shown:
                raise Forbidden("a page of another server may link here, and embed or ask for nothing")
            if not scope["path"].startswith("/"):
                raise HttpError(
                    f"{scope['path'][:100]!r} is no path: a request names one that begins with /; this is no proxy"
                )
            address = (scope.get("client") or ("",))[0]
            if self._gate.required and not preflight:
                grant = self._gate.admit(
                    scope.get("method", "GET"), scope["path"], scope["query_string"], secrets_given, address
                )
            if self._rate is not None:
                self._rate.check(network_of(address) if grant is None else grant)
            limit = self._limit_of(scope)
            if length is not None and length.isdigit() and int(length) > limit:
                raise self._too_large(limit)
        except OqError as error:
            if kind == "websocket":
                await _deny_websocket(scope, receive, send, error, extra)
                return
            await self._answer(Body(receive, self._limit), scope, named_send, answer_for(scope, error))
            return
        if kind == "websocket":
            with self._gate.holding(grant):
                await self._app(scope, receive, send)
            return
        if preflight:
            await self._answer(Body(receive, self._limit), scope, named_send, (204, b"", _PREFLIGHT))
            return
        if length is not None and length.isdigit() and not chunked and _reads_all(scope):
            # Hypercorn sees to it that the body is not longer than it says.
            await self._app(scope, receive, named_send)
            return
        body = Body(receive, limit)
        with self._gate.holding(
            grant if scope["method"] in ("GET", "HEAD") else None
        ) as held:  # a change that began goes to its end
            await self._app(scope, body.receive, named_send)
        if held.cancelled_caught and not started:
            await self._answer(
                body, scope, named_send, answer_for(scope, Unauthorized("this token was revoked"))
            )
        elif body.cut and not started:
            await self._answer(body, scope, named_send, answer_for(scope, self._too_large(limit)))
        elif not body.ended:
            await body.finish(scope)

    async def _answer(self, body: Body, scope: Scope, send: Send, answer: Answer) -> None:
        """Answer in the app's place, after the end of the body."""
        await body.read_on(scope)
        if body.ended:
            await send_answer(send, answer)
            return
        status, text, headers = answer
        await send_answer(send, (status, text, {**headers, "Connection": "close"}))
        await body.finish(scope)

    def _limit_of(self, scope: Scope) -> float:
        """Return how many bytes a body may have; what streams through to disk or to a model server may be large."""
        path: str = scope["path"]
        if path.startswith(BLOBS):
            return math.inf
        return self._file_limit if path == FILES else self._limit

    def _too_large(self, limit: float) -> TooLarge:
        if limit == self._file_limit:
            return TooLarge(f"the file is larger than {limit - FORM_BYTES:.0f} bytes (dropin.max_file_bytes)")
        return too_large(self._limit)

    def _check_host(self, host: bytes | None) -> None:
        if host is None or host in self._good_hosts:
            return  # HTTP/1.0 has none, and no browser speaks that
        name = _hostname(host)
        if not (self._any_host or name in self._names or name.endswith(".localhost") or _is_address(name)):
            raise Forbidden(
                f"requests for the host {name[:100]!r} are refused; add it to server.allowed_hosts if it is this server"
            )
        if len(self._good_hosts) < REMEMBERED:
            self._good_hosts.add(host)

    def _check_origin(self, origin: bytes | None, host: bytes | None) -> None:
        if origin is None:
            return
        if self._is_friend(origin):
            return
        text = origin.decode("latin-1").lower().rstrip("/")
        _, separator, place = text.partition("://")
        if not separator or host is None or place != host.decode("latin-1").lower():
            raise Forbidden(
                f"a page of {text[:100]!r} may not use this server; add it to server.allowed_origins to allow it"
            )

    def _is_friend(self, origin: bytes) -> bool:
        text = origin.decode("latin-1").lower().rstrip("/")
        return text in self._origins or "*" in self._origins


_PREFLIGHT = {
    "Access-Control-Allow-Methods": "GET, POST, DELETE",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, Idempotency-Key, Last-Event-ID, Prefer, X-Client-ID, X-Queue-Priority, "
    "X-Request-ID",
    "Access-Control-Max-Age": "600",
}


def _reads_all(scope: Scope) -> bool:
    """Return whether it is a route that reads its body to the end before it answers (`FastSubmit`, `oq.web.dropin`)."""
    return scope["method"] == "POST" and scope["path"] in READ_WHOLE


def _safe(headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    there = {name for name, _ in headers}
    return headers + [header for header in SAFE_HEADERS if header[0] not in there]


def _sane(request_id: bytes) -> bool:
    return 0 < len(request_id) <= REQUEST_ID_MAX and all(33 <= byte < 127 for byte in request_id)


def _hostname(host: bytes) -> str:
    """Return the name without its port; "" of what is no name, however much of one is in it."""
    found = _HOST.fullmatch(host.decode("latin-1"))
    return "" if found is None else (found["six"] or found["name"]).lower().rstrip(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


async def _deny_websocket(
    scope: Scope, receive: Receive, send: Send, error: OqError, extra: list[tuple[bytes, bytes]]
) -> None:
    await receive()  # websocket.connect
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1008})  # before accept: the server answers 403
        return
    status, body, headers = answer_for(scope, error)
    fields = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    await send(
        {"type": "websocket.http.response.start", "status": status, "headers": _safe([*fields, *extra])}
    )
    await send({"type": "websocket.http.response.body", "body": body, "more_body": False})
