"""A WebSocket client that sends whatever bytes it is told to, on a plain socket."""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from typing import Any

CONTINUED, TEXT, BINARY, CLOSE, PING, PONG = 0, 1, 2, 8, 9, 10
SECONDS_MOST = 60.0
ASK = (
    "GET /ws{query} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n{more}\r\n"
)


def frame(
    kind: int, payload: bytes = b"", *, last: bool = True, flags: int = 0, length: int | None = None
) -> bytes:
    """Return one masked frame; *flags* are the reserved bits, *length* what the head says in place of the truth."""
    size = len(payload) if length is None else length
    if size < 126:
        head = struct.pack("!BB", last << 7 | flags << 4 | kind, 0x80 | size)
    elif size < 65_536:
        head = struct.pack("!BBH", last << 7 | flags << 4 | kind, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", last << 7 | flags << 4 | kind, 0x80 | 127, size)
    return head + b"\0\0\0\0" + payload  # a mask of zeros leaves the payload as it is


class Socket:
    """A connection to /ws that was accepted; `closed` is the server's close code, 0 for an end without one."""

    def __init__(self, port: int, query: str = "", more: str = "", window: int = 0) -> None:
        self._sock = socket.socket()
        if window:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        self._sock.settimeout(SECONDS_MOST)
        self._sock.connect(("127.0.0.1", port))
        self._sock.sendall(ASK.format(query=query, more=more).encode())
        self._left = b""
        self.closed: int | None = None
        self.head = self._until(b"\r\n\r\n")
        if not self.head.startswith(b"HTTP/1.1 101"):
            self.close()
            raise ConnectionError(self.head.decode("latin-1"))

    def __enter__(self) -> Socket:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._sock.close()

    def send(self, data: bytes) -> bool:
        """Send bytes as they are; False if the server has closed the connection."""
        try:
            self._sock.sendall(data)
        except ConnectionError:
            return False
        return True

    def say(self, message: Any) -> bool:
        return self.send(frame(TEXT, json.dumps(message).encode()))

    def next(self) -> dict[str, Any] | None:
        """Return the next message; None at the end of the connection."""
        while self.closed is None:
            try:
                kind, payload = self._frame()
            except ConnectionError:
                self.closed = 0
                break
            if kind == CLOSE:
                self.closed = struct.unpack("!H", payload[:2])[0] if len(payload) >= 2 else 1005
            elif kind == TEXT:
                found: dict[str, Any] = json.loads(payload)
                return found
        return None

    def until(self, kind: str) -> dict[str, Any] | None:
        """Return the next message of that kind; None if the connection ends before. AssertionError if none comes for long."""
        give_up = time.monotonic() + SECONDS_MOST
        while (message := self.next()) is not None:
            if message["type"] == kind:
                return message
            assert time.monotonic() < give_up, f"no {kind!r} came"
        return None

    def wait_end(self) -> None:
        """Read to the end of the connection, beyond its close frame."""
        try:
            while self._sock.recv(65_536):
                pass
        except ConnectionError:
            pass

    def _frame(self) -> tuple[int, bytes]:
        first, size = self._take(2)
        if size == 126:
            (size,) = struct.unpack("!H", self._take(2))
        elif size == 127:
            (size,) = struct.unpack("!Q", self._take(8))
        return first & 15, self._take(size)

    def _take(self, count: int) -> bytes:
        while len(self._left) < count:
            self._more()
        found, self._left = self._left[:count], self._left[count:]
        return found

    def _until(self, end: bytes) -> bytes:
        while end not in self._left:
            self._more()
        found, _, self._left = self._left.partition(end)
        return found

    def _more(self) -> None:
        data = self._sock.recv(65_536)
        if not data:
            raise ConnectionError("the server closed the connection")
        self._left += data


def noise(size: int) -> bytes:
    return os.urandom(size)
