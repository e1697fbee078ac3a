"""The client's connection, watched while its request waits or runs: closing it is how a request is cancelled."""

from __future__ import annotations

import select
import socket

from oq.demo.refusals import Gone

POLL_SECONDS = 0.05  # how soon a request that waits for its turn notices that its client is gone


class Caller:
    """Whoever sent the request that is being answered."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def gone(self) -> bool:
        """Return whether the client closed its connection, or its side of it."""
        poller = select.poll()
        poller.register(self._connection, select.POLLIN)
        if not poller.poll(0):
            return False
        try:
            return self._connection.recv(1, socket.MSG_PEEK) == b""
        except OSError:
            return True

    def wait_readable(self, other: int, seconds: float) -> bool:
        """Wait until the descriptor *other* has something to read; False when it had nothing for so long.

        Raises `Gone` as soon as the client is.
        """
        poller = select.poll()
        poller.register(self._connection, select.POLLIN)
        poller.register(other, select.POLLIN)
        while True:
            ready = dict(poller.poll(seconds * 1000))
            if self._connection.fileno() in ready:
                if self.gone():
                    raise Gone
                # The next request is here already. It hides a hang-up, as it does in Ollama (Go's net/http).
                poller.unregister(self._connection)
            if other in ready or not ready:
                return bool(ready)
