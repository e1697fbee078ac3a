"""Room in memory for large results that clients have not taken yet, all together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from oq.errors import QueueBusy

LARGE = 1024 * 1024  # bytes: what is smaller is not counted


class Room:
    """*size* bytes. One large result always has room, however large."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._taken = 0

    @contextmanager
    def held(self, count: int) -> Iterator[None]:
        """Hold room for *count* bytes; `QueueBusy` when there is none."""
        if count < LARGE:
            yield
            return
        if self._taken and self._taken + count > self._size:
            raise QueueBusy(
                "too many large results are in memory that nobody has read yet (queue.max_answer_memory); try again"
            )
        self._taken += count
        try:
            yield
        finally:
            self._taken -= count
