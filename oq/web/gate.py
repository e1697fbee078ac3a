"""Who may ask for what: bearer tokens and their scopes (`oq.web.scopes`), and what guessing them costs.

Rule 1: where a token is asked for once, it is until the server ends: revoking the last one opens nothing.
Rule 2: nothing of a token is logged or answered; a token is compared as a hash, and with every one there is.
Rule 3: an address that sent `server.auth_failures` wrong tokens within a minute is not told any more whether a guess of
        `server.token`, which a person chose, is right. Tokens of `oq token` go on: those cannot be guessed, and behind a
        proxy all clients have one address.
"""

from __future__ import annotations

import hmac
import ipaddress
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

import msgspec
import trio

from oq.errors import ConfigError
from oq.tokens import WORDS, Scope, TokenFile, digest
from oq.web.errors import Forbidden, TooManyFailures, Unauthorized
from oq.web.scopes import needed

if TYPE_CHECKING:
    from oq.config import Settings

logger = logging.getLogger(__name__)

TOKEN_IN_QUERY = frozenset({"/ws", "/api/events"})  # a browser cannot set headers for these
SUBPROTOCOL = "oq"
TOKEN_PROTOCOL = b"oq.token."  # a browser can offer subprotocols, which nobody logs: "oq, oq.token.TOKEN"
LOOK_SECONDS = 1.0  # between two looks at the file, for connections that stay open
WINDOW_SECONDS = 60.0  # of `server.auth_failures`
ADDRESSES = 4096  # that are remembered for their failures; the oldest goes first


class Grant(msgspec.Struct, frozen=True):
    """A known token: *name* is that of `oq token`, or of the setting."""

    sha256: bytes
    scope: Scope
    name: str


class Failures:
    """Counts wrong tokens by address, within a window that begins with the first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._seen: dict[str, tuple[int, float]] = {}

    def wait(self, address: str) -> float | None:
        """Return for how many seconds the address has had its share; None if it has not."""
        count, began = self._seen.get(address, (0, 0.0))
        left = began + WINDOW_SECONDS - trio.current_time()
        return left if self._most and count >= self._most and left > 0 else None

    def add(self, address: str) -> int:
        """Count one more and return how many there are in this window."""
        count, began = self._seen.pop(address, (0, 0.0))
        now = trio.current_time()
        if not count or now - began >= WINDOW_SECONDS:
            count, began = 0, now
        while len(self._seen) >= ADDRESSES:
            del self._seen[next(iter(self._seen))]
        self._seen[address] = (count + 1, began)
        return count + 1


class Gate:
    """See the module. *required*: whether a request needs a token at all."""

    def __init__(self, settings: Settings) -> None:
        server = settings.server
        self._file = TokenFile(settings.queue.storage_path)
        self._fixed: list[Grant] = []  # chosen by a person
        if server.token:
            self._fixed.append(Grant(digest(server.token.encode()), Scope.ADMIN, "server.token"))
        for client in settings.clients:
            if client.token:
                self._fixed.append(
                    Grant(digest(client.token.encode()), Scope.SUBMIT, f"clients.{client.name}")
                )
        self._made: list[Grant] = []
        self._state: object = None
        self._most = server.auth_failures
        self._failures = Failures(server.auth_failures)
        self._open: dict[bytes, set[trio.CancelScope]] = {}
        self.required = bool(server.token)
        self.look()

    def look(self) -> None:
        """Read the file again if it has changed; what stays open by a token that is gone is ended."""
        state = self._file.state()
        if state == self._state:
            return
        self._state = state
        self.required |= state is not None
        try:
            tokens = self._file.read()
        except ConfigError as error:
            tokens = ()
            logger.error("no token of the file counts: %s", error)
        self._made = [Grant(bytes.fromhex(t.sha256), WORDS[t.scope], t.name) for t in tokens]
        known = {grant.sha256 for grant in (*self._made, *self._fixed)}
        for gone in self._open.keys() - known:
            for scope in self._open[gone]:
                scope.cancel()

    async def run(self) -> None:
        """Look at the file every second."""
        while True:
            await trio.sleep(LOOK_SECONDS)
            self.look()

    def admit(
        self, method: str, path: str, query: bytes, headers: dict[bytes, bytes], address: str
    ) -> Grant | None:
        """Return the token of a request, None if it needs none; raises `Unauthorized`, `Forbidden`, `TooManyFailures`."""
        need = needed(method, path)
        if need is None:
            return None
        self.look()
        secret = _secret_of(path, query, headers)
        if not secret:
            raise Unauthorized("this server wants a token: send Authorization: Bearer TOKEN; see `oq token`")
        grant = self._find(secret, network_of(address), method, path)
        if grant.scope < need:
            raise Forbidden(
                f"this token may {grant.scope.word}, and {method} {path[:100]} needs one that may {need.word}"
            )
        return grant

    @contextmanager
    def holding(self, grant: Grant | None) -> Iterator[trio.CancelScope]:
        """End what is inside when the token is revoked; the scope tells whether it was."""
        if grant is None:
            yield trio.CancelScope()
            return
        with trio.CancelScope() as scope:
            self._open.setdefault(grant.sha256, set()).add(scope)
            try:
                yield scope
            finally:
                others = self._open[grant.sha256]
                others.discard(scope)
                if not others:
                    del self._open[grant.sha256]

    def _find(self, secret: bytes, network: str, method: str, path: str) -> Grant:
        wait = self._failures.wait(network)
        known = self._made if wait is not None else [*self._made, *self._fixed]
        given = digest(secret)
        found: Grant | None = None
        for grant in known:  # all of them, so that the time taken says nothing of which fits
            if hmac.compare_digest(given, grant.sha256):
                found = grant
        if found is not None:
            return found
        if wait is not None:
            raise TooManyFailures("too many wrong tokens came from this address; try again later", wait)
        count = self._failures.add(network)
        more = "; no more of them are logged for a minute" if count == self._most else ""
        logger.warning("wrong token from %s for %s %.100r%s", network, method, path, more)
        raise Unauthorized("this token is not known here: it is wrong, or was revoked")


def _secret_of(path: str, query: bytes, headers: dict[bytes, bytes]) -> bytes:
    scheme, _, value = headers.get(b"authorization", b"").partition(b" ")
    if scheme.lower() == b"bearer":
        return value.strip()
    if path == "/ws":
        for offered in headers.get(b"sec-websocket-protocol", b"").split(b","):
            if offered.strip().startswith(TOKEN_PROTOCOL):
                return offered.strip().removeprefix(TOKEN_PROTOCOL)
    if path in TOKEN_IN_QUERY:
        for field in query.split(b"&"):
            name, _, value = field.partition(b"=")
            if name == b"token" and value:
                return unquote_to_bytes(value.replace(b"+", b" "))
    return b""


def network_of(address: str) -> str:
    """Return what a stranger is counted by: an IPv4 address, or the /64 that one client of IPv6 has to itself."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "unknown"
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is None:
        return str(ipaddress.ip_network((parsed, 64), strict=False))
    return str(parsed)
