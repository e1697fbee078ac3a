"""What both clients share of httpx: its settings, and its errors as our values."""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import httpx

from oq.client.calls import Answer, Call, Lost
from oq.errors import ConfigError, ServerUnreachable

DEFAULT_URL = "http://localhost:7125"
CONNECT_SECONDS = 5.0
SILENCE_SECONDS = (
    75.0  # of an open stream, after which it is opened again where it stood; nothing is lost by it
)
ANSWER_MAX = 2**29  # bytes, unpacked; it is held in memory as a whole
SLOWEST = 1000.0  # bytes a second: a server that sends less does not answer
LOOPBACK = ("localhost", "127.0.0.1", "::1")


def place(url: str | None, token: str | None) -> tuple[str, str | None]:
    """Return the address and the token to use; without *url* those of OQ_URL and OQ_TOKEN, if they are set.

    With a *url* the environment does not count: one server's token must not go to another.
    """
    if url is None:
        url = os.environ.get("OQ_URL") or DEFAULT_URL
        token = token or check_token(os.environ.get("OQ_TOKEN"), "OQ_TOKEN") or None
    return check_url(url), check_token(token, "the token")


def check_token(token: str | None, name: str) -> str | None:
    """Return *token*, or raise `ConfigError`: nothing else can stand in a header. *name* is where it came from."""
    if token is not None and not (token.isascii() and token.isprintable()):
        raise ConfigError(f"{name} is no token: one has visible ASCII characters only", origin=name)
    return token


def check_url(url: str) -> str:
    """Return the base address without a slash at its end; a bare host:port is taken for http."""
    text = url if "://" in url else f"http://{url}"
    try:
        parts = urlsplit(text)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        httpx.URL(text)
    except (ValueError, httpx.InvalidURL):
        good = False
    if not good:
        raise ServerUnreachable(f"{url!r} is not a server's address: write it as http://localhost:7125")
    return text.rstrip("/")


def settings(url: str, timeout: float) -> dict[str, Any]:
    """Return the arguments of `httpx.Client` and `httpx.AsyncClient`."""
    parts = urlsplit(url)
    found: dict[str, Any] = {
        "base_url": url,
        "timeout": httpx.Timeout(timeout, connect=min(timeout, CONNECT_SECONDS), pool=None),
        # httpcore leaks slots of a bounded pool when waiters are cancelled (its issue 1093): no bound.
        "limits": httpx.Limits(max_connections=None, max_keepalive_connections=8),
        "trust_env": parts.hostname not in LOOPBACK,  # no proxy knows the way to this machine itself
        "follow_redirects": False,  # the token and the tasks are for this server alone
        "headers": {"User-Agent": "oq-client"},
    }
    if parts.scheme == "https":
        found["verify"] = _certificates()
    return found


def _certificates() -> ssl.SSLContext:
    """Return what is trusted: certifi's, or that of SSL_CERT_FILE or SSL_CERT_DIR, also for this machine itself."""
    try:
        return httpx.create_ssl_context()
    except OSError as error:
        where = os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR")
        raise ServerUnreachable(
            f"the certificates of SSL_CERT_FILE or SSL_CERT_DIR, {where}, cannot be read"
        ) from error


def request(
    client: httpx.Client | httpx.AsyncClient, call: Call, timeout: float, stream: bool
) -> httpx.Request:
    read = SILENCE_SECONDS if stream else timeout + call.hold
    limits = httpx.Timeout(timeout, connect=min(timeout, CONNECT_SECONDS), read=read, pool=None)
    return client.build_request(
        call.method,
        call.path,
        params=call.params or None,
        content=call.body,
        headers=call.headers,
        timeout=limits,
    )


class Arriving:
    """An answer that is read as a whole: bounded in size, and in time by what has gone and come of it.

    It is to be whole *seconds* from now; each `SLOWEST` bytes of *call*'s body and of the answer's allow one more.
    *clock* tells seconds that only move forward. Raises `httpx.HTTPError` past a bound.
    """

    def __init__(self, call: Call, seconds: float, clock: Callable[[], float]) -> None:
        self._parts: list[bytes] = []
        self._size = 0
        self._clock = clock
        self._until = clock() + seconds + len(call.body or b"") / SLOWEST

    @property
    def until(self) -> float:
        """When it is too late, as the clock tells it."""
        return self._until + self._size / SLOWEST

    def add(self, piece: bytes) -> None:
        self._parts.append(piece)
        self._size += len(piece)
        if self._size > ANSWER_MAX:
            raise httpx.ReadError(f"its answer has more than {ANSWER_MAX} bytes")
        if self._clock() > self.until:
            raise too_slow()

    def whole(self) -> bytes:
        return b"".join(self._parts)


class Flowing:
    """The lines of an open stream: each bounded as `Arriving` bounds an answer, and the stream not at all."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._size = 0
        self._clock = clock
        self._begun = clock()

    def add(self, piece: bytes) -> bytes:
        """Return *piece*, or raise `httpx.HTTPError`: another try of a server that does so is a failed one."""
        ended = piece.rfind(b"\n")
        if ended >= 0:
            self._size, self._begun = 0, self._clock()
        self._size += len(piece) - ended - 1
        if self._size > ANSWER_MAX:
            raise httpx.ReadError(f"a line of its answer has more than {ANSWER_MAX} bytes")
        if self._size and self._clock() > self._begun + SILENCE_SECONDS + self._size / SLOWEST:
            raise httpx.ReadError("a line of its answer arrived too slowly")
        return piece


def too_slow() -> httpx.ReadTimeout:
    return httpx.ReadTimeout("its answer arrived too slowly")


def answer(response: httpx.Response, body: bytes = b"") -> Answer:
    return Answer(
        response.status_code, {name.lower(): value for name, value in response.headers.items()}, body
    )


def lost(error: httpx.HTTPError) -> Lost:
    """Return what a transport error means for a retry."""
    sent = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.UnsupportedProtocol)
    reason = re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or {
        "ReadTimeout": "it took too long to answer"
    }.get(type(error).__name__, type(error).__name__)
    return Lost(reason, sent=sent, idle=isinstance(error, httpx.ReadTimeout))
