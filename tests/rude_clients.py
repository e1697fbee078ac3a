"""A crowd of clients that cost the server something: monitors, readers that do not read, half requests, idle connections.

Plain sockets and one thread that reads for the monitors and drips for the half requests, so that thousands of
them cost the measuring side next to nothing.
"""

from __future__ import annotations

import contextlib
import json
import resource
import selectors
import socket
import struct
import threading
import time
from collections.abc import Iterator

HOST = "Host: 127.0.0.1\r\n"
TASK = {"type": "generate", "model": "fake", "payload": {"prompt": "rude"}}
DRIP_SECONDS = 1.0


def request(method: str, path: str, body: bytes = b"", more: str = "") -> bytes:
    length = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
    return f"{method} {path} HTTP/1.1\r\n{HOST}{length}{more}\r\n".encode() + body


# One of each kind: short answers, bodies, long polls, endless answers, the WebSocket.
REQUESTS = [
    request("GET", "/health"),
    request("GET", "/api/tasks?limit=100"),
    request("GET", "/api/status"),
    request("GET", "/metrics"),
    request("GET", "/"),
    request("GET", "/api/events"),
    request("POST", "/api/tasks", json.dumps(TASK).encode()),
    request("POST", "/api/tasks/batch", json.dumps([TASK] * 20).encode()),
    request("POST", "/api/tasks/bulk", b'{"action":"cancel","filter":{"model":"none"}}'),
    request(
        "GET", "/ws", more="Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n",
    ),
]  # fmt: skip


class Crowd:
    """Connections to one server; `cut` counts those among monitors and half requests that the server closed."""

    def __init__(self, port: int) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        self.port = port
        self.cut = 0
        self.received = 0
        self._held: list[socket.socket] = []
        self._drips: list[socket.socket] = []
        self._reading = selectors.DefaultSelector()
        self._lock = threading.Lock()
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._pump, daemon=True)
        self._thread.start()

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), 60)

    def monitors(self, count: int) -> None:
        """Open the monitor's WebSocket and go on reading it."""
        for _ in range(count):
            sock = self.connect()
            sock.sendall(REQUESTS[-1])
            head = sock.recv(12)
            if head != b"HTTP/1.1 101":
                raise ConnectionError(f"a monitor was refused: {head!r}")
            sock.setblocking(False)
            with self._lock:
                self._reading.register(sock, selectors.EVENT_READ)

    def stalled(self, count: int, *paths: str) -> None:
        """Ask for streams, *paths* in turn (of events if none is given), and never read them."""
        for number in range(count):
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(("127.0.0.1", self.port))
            sock.sendall(request("GET", paths[number % len(paths)] if paths else "/api/events"))
            self._held.append(sock)

    def slow(self, count: int) -> None:
        """Begin a request, and send a byte of it now and then."""
        for number in range(count):
            sock = self.connect()
            begun = request("POST", "/api/tasks", json.dumps(TASK).encode())
            sock.sendall(begun[: 40 if number % 2 else len(begun) - 20])
            sock.setblocking(False)
            with self._lock:
                self._drips.append(sock)

    def idle(self, count: int) -> None:
        """Keep connections open after one answer."""
        for _ in range(count):
            sock = self.connect()
            sock.sendall(request("GET", "/health"))
            sock.recv(65536)
            self._held.append(sock)

    def open_idle(self) -> int:
        """Return how many of the held connections the server has not closed."""
        there = 0
        for sock in self._held:
            with contextlib.suppress(OSError):
                sock.setblocking(False)
                try:
                    there += bool(sock.recv(1, socket.MSG_PEEK))
                except BlockingIOError:
                    there += 1
        return there

    def _pump(self) -> None:
        dripped = time.monotonic()
        while not self._ends.is_set():
            with self._lock:
                ready = self._reading.select(0) if self._reading.get_map() else []
                for key, _ in ready:
                    sock = key.fileobj
                    assert isinstance(sock, socket.socket)
                    try:
                        data = sock.recv(262_144)
                    except BlockingIOError:
                        continue
                    except OSError:
                        data = b""
                    self.received += len(data)
                    if not data:
                        self.cut += 1
                        self._reading.unregister(sock)
                        sock.close()
                if time.monotonic() - dripped > DRIP_SECONDS:
                    dripped = time.monotonic()
                    self._drips = [sock for sock in self._drips if self._drip(sock)]
            self._ends.wait(0.05)

    def _drip(self, sock: socket.socket) -> bool:
        try:
            if sock.recv(65536):
                raise ConnectionError("answered")
            raise ConnectionError("closed")
        except BlockingIOError:
            pass
        except OSError:
            self.cut += 1
            sock.close()
            return False
        try:
            sock.send(b" ")
        except OSError:
            self.cut += 1
            sock.close()
            return False
        return True

    def close(self) -> None:
        self._ends.set()
        self._thread.join(10)
        watched = [key.fileobj for key in self._reading.get_map().values()]
        for sock in [*self._held, *self._drips, *watched]:
            sock.close()  # type: ignore[union-attr]
        self._reading.close()


@contextlib.contextmanager
def crowd(port: int) -> Iterator[Crowd]:
    found = Crowd(port)
    try:
        yield found
    finally:
        found.close()


def leave_at_every_stage(port: int, step: int = 1) -> int:
    """Reset the connection after every *step*-th byte of each of REQUESTS, and at stages of its answer.

    Returns how many connections were broken off.
    """
    count = 0
    for data in REQUESTS:
        for size in [*range(0, len(data), step), len(data)]:
            sock = _begun(port, data[:size])
            _reset(sock)
            count += 1
        for read in (1, 20, 200):
            sock = _begun(port, data)
            sock.recv(read)
            _reset(sock)
            count += 1
    return count


def _begun(port: int, data: bytes) -> socket.socket:
    sock = socket.create_connection(("127.0.0.1", port), 60)
    sock.sendall(data)
    return sock


def _reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()
