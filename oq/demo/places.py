"""Places that requests take in the order in which they asked, and a client that is gone leaves the line."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from oq.demo.caller import POLL_SECONDS, Caller
from oq.demo.refusals import Gone


class Places:
    """*count* places, first in first out. A semaphore would do but for the order: Python's keeps none."""

    def __init__(self, count: int) -> None:
        self._lock = threading.Lock()
        self._free = count
        self._waiting: deque[threading.Event] = deque()  # not bounded, as in Ollama: one per connection

    @contextmanager
    def taken(self, caller: Caller) -> Iterator[None]:
        """Hold a place; raises `Gone` when the client leaves before it has one."""
        self._take(caller)
        try:
            yield
        finally:
            self._give()

    def _take(self, caller: Caller) -> None:
        with self._lock:
            if self._free:
                self._free -= 1
                return
            turn = threading.Event()
            self._waiting.append(turn)
        while not turn.wait(POLL_SECONDS):
            if caller.gone():
                with self._lock:
                    if not turn.is_set():
                        self._waiting.remove(turn)
                        raise Gone
                self._give()
                raise Gone

    def _give(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()  # it passes from hand to hand: nobody can jump in
            else:
                self._free += 1
