"""One request to an engine: h11 on a socket, so that the client's hang-up is noticed at any moment."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import h11

from oq.demo.caller import Caller

SILENCE_SECONDS = 600.0  # llama.cpp says nothing while it reads a prompt
RECEIVE_BYTES = 65_536


class EngineLost(Exception):
    """The engine died, or says nothing any more."""


class EngineCall:
    """A POST and its answer. `close` it. All but that raise `EngineLost`, and `Gone` when the client is."""

    def __init__(self, port: int, caller: Caller) -> None:
        self._port = port
        self._caller = caller
        self._protocol = h11.Connection(h11.CLIENT)
        self._socket: socket.socket | None = None

    def send(self, path: str, body: bytes) -> int:
        """Send the request; return the answer's status."""
        headers = [
            ("Host", f"127.0.0.1:{self._port}"),
            ("Content-Type", "application/json"),
            ("Content-Length", str(len(body))),
        ]
        events = [
            h11.Request(method="POST", target=path, headers=headers),
            h11.Data(body),
            h11.EndOfMessage(),
        ]
        try:
            self._socket = socket.create_connection(("127.0.0.1", self._port), SILENCE_SECONDS)
            self._socket.sendall(b"".join(self._protocol.send(event) or b"" for event in events))
        except OSError as exc:
            raise EngineLost from exc
        while not isinstance(event := self._next(), h11.Response):
            pass
        return event.status_code

    def chunks(self) -> Iterator[bytes]:
        """Yield the answer as it comes."""
        while isinstance(event := self._next(), h11.Data):
            yield bytes(event.data)

    def lines(self) -> Iterator[bytes]:
        """Yield the answer's lines as they come, without their ends."""
        rest = b""
        for chunk in self.chunks():
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines
        if rest:
            yield rest

    def read(self) -> bytes:
        return b"".join(self.chunks())

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()

    def _next(self) -> object:
        assert self._socket is not None
        try:
            while (event := self._protocol.next_event()) is h11.NEED_DATA:
                if not self._caller.wait_readable(self._socket.fileno(), SILENCE_SECONDS):
                    raise EngineLost
                self._protocol.receive_data(self._socket.recv(RECEIVE_BYTES))
        except (OSError, h11.RemoteProtocolError) as exc:
            raise EngineLost from exc
        return event
