"""How long a client may take to send what it has begun: the head of a request, and its body.

Who sends a byte now and then would otherwise keep a connection, and what there is of its body, for as long as it
likes. Between two requests a connection may be idle for longer (the keep-alive).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import h11
import trio
from hypercorn.protocol.h11 import H11Protocol

from oq.errors import OqError
from oq.web.errors import TooSlow, answer_of

if TYPE_CHECKING:
    from oq.config.settings import ServerSettings

HEAD, BODY = "head", "body"


class Patience:
    """When the part of a request that is arriving must be there. One for each connection."""

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._awaited: tuple[str, int] = ("", -1)
        self._since = 0.0

    @property
    def part(self) -> str:
        """What is arriving: HEAD, BODY, or nothing."""
        return self._awaited[0]

    def deadline(self, protocol: Any) -> float:
        """Return the time (Trio's) by which the client must go on; infinity where it owes nothing."""
        part = self._arriving(protocol)
        if not part:
            self._awaited = ("", -1)
            return math.inf
        awaited = (part, protocol.keep_alive_requests)
        if awaited != self._awaited:
            self._awaited, self._since = awaited, trio.current_time()
        limit = self._settings.header_timeout if part is HEAD else self._settings.body_timeout
        return self._since + limit

    def _arriving(self, protocol: Any) -> str:
        if not isinstance(protocol, H11Protocol):
            return ""
        state = protocol.connection.their_state  # None of a WebSocket
        if state is h11.SEND_BODY:
            return BODY
        if state is h11.IDLE and (not protocol.keep_alive_requests or protocol.connection.trailing_data[0]):
            return HEAD
        return ""

    def may_answer(self, protocol: Any) -> bool:
        """Return whether an answer makes sense: the client has begun to ask, and has none yet."""
        connection = protocol.connection
        begun = self.part is BODY or bool(connection.trailing_data[0])  # else a browser's spare connection
        return begun and connection.our_state in (h11.IDLE, h11.SEND_RESPONSE)

    def too_slow(self) -> TooSlow:
        name = "header_timeout" if self.part is HEAD else "body_timeout"
        limit = getattr(self._settings, name)
        return TooSlow(f"the {self.part} of the request did not arrive within {limit:g} s (server.{name})")


def raw_answer(error: OqError) -> bytes:
    """Return the bytes of an answer after which the connection is closed."""
    status, body, headers = answer_of(error)
    fields = {**headers, "Content-Length": str(len(body)), "Connection": "close"}
    lines = [f"HTTP/1.1 {status} ", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body
