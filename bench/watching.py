"""A WebSocket client on a plain socket that only counts: what the benchmarks watch with."""

from __future__ import annotations

import base64
import json
import os
import socket
import threading


def connect(port: int, path: str = "/ws") -> socket.socket:
    """Return a socket on which the WebSocket is open; what the server sent already is still to be read."""
    sock = socket.create_connection(("127.0.0.1", port), 30)
    key = base64.b64encode(os.urandom(16)).decode()
    sock.sendall(
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    head = b""
    while b"\r\n\r\n" not in head:
        piece = sock.recv(1)
        if not piece:
            raise SystemExit("the WebSocket was refused")
        head += piece
    if not head.startswith(b"HTTP/1.1 101"):
        raise SystemExit(f"the WebSocket was refused: {head[:200]!r}")
    return sock


def send(sock: socket.socket, message: object) -> None:
    """Send one message, masked as a client must."""
    data = json.dumps(message).encode()
    size = len(data)
    head = bytes((0x81, 0x80 | size)) if size < 126 else bytes((0x81, 0xFE)) + size.to_bytes(2, "big")
    sock.sendall(head + b"\0\0\0\0" + data)


def drain(sock: socket.socket, ends: threading.Event) -> None:
    """Read and forget until *ends*."""
    sock.settimeout(0.5)
    while not ends.is_set():
        try:
            if not sock.recv(65536):
                return
        except TimeoutError:
            pass
