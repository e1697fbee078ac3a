"""The text of running attempts, while it grows, for any number of readers.

The bus writes, readers pull: each keeps its own position and asks for what came after it. So there is no queue
per reader, a slow reader costs nobody anything, and nobody is ever cut off. The text is kept once, bounded by
the limit on results.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import trio

from oq.ports import Piece

AT_ONCE = 64 * 1024  # characters, and bytes of the model server's lines


class Transcript:
    """What the running attempt of one task wrote. Owned by the bus; others only read.

    Attributes:
        attempt: the attempt that the text belongs to; a new one starts the text again.
        ended: the task is finished, and that is on disk.
        broken: the newest attempt that ended while the task goes on; its text is void.
    """

    def __init__(self) -> None:
        self.attempt = 0
        self.broken = 0
        self.ended = False
        self.watchers = 0
        self._pieces: list[Piece] = []
        self._begun_at = 0.0  # Trio's time of the first piece
        self._announced = 0  # the newest attempt whose start is on disk: text of a later one is held back
        self._changed: trio.Event | None = (
            None  # made by the first reader that waits: most text has no reader
        )
        self._end = trio.Event()

    # --- the bus's side
    def add(self, attempt: int, piece: Piece) -> None:
        if attempt != self.attempt:
            self.attempt, self._pieces = attempt, []
        if not self._pieces:
            self._begun_at = trio.current_time()
        self._pieces.append(piece)
        if self._announced >= attempt:
            self._wake()

    def announce(self, attempt: int) -> None:
        """Attempt number *attempt* is on disk as running: its text may be shown."""
        if attempt > self.attempt:
            self.attempt, self._pieces = attempt, []
        self._announced = max(attempt, self._announced)
        self._wake()

    def break_off(self) -> None:
        """The attempt ended, and another one will follow."""
        self.broken = self.attempt
        self._wake()

    def end(self) -> None:
        """The task is finished, and that is on disk."""
        self.ended = True
        self.stop()

    def stop(self) -> None:
        """Nothing will follow."""
        self._end.set()
        self._wake()

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    # --- a reader's side
    @property
    def runs(self) -> bool:
        """Whether an attempt is under way, as far as is on disk."""
        return self._announced > self.broken and not self._end.is_set()

    def since(self, attempt: int, position: int) -> tuple[int, list[Piece]]:
        """Return the current attempt and its next pieces from *position* on (from 0 if the attempt is another one).

        They hold about AT_ONCE characters at most, so that a reader that is far behind, and stops there, keeps no
        more than that for itself.
        """
        if self._announced < self.attempt:
            return attempt, []
        start = position if attempt == self.attempt else 0
        end, size = start, 0
        while end < len(self._pieces) and size < AT_ONCE:
            size += len(self._pieces[end].text) + len(self._pieces[end].line)
            end += 1
        return self.attempt, self._pieces[start:end]

    @property
    def progress(self) -> tuple[int, float | None]:
        """The number of pieces so far, and how many came in a second since the first; None before the second one."""
        count = 0 if self._announced < self.attempt else len(self._pieces)
        seconds = trio.current_time() - self._begun_at
        return count, (count - 1) / seconds if count > 1 and seconds > 0 else None

    async def wait_changed(self) -> None:
        """Wait for the next piece, the next attempt or the end; check `since` and `ended` first, without awaiting."""
        if self._changed is None:
            self._changed = trio.Event()
        await self._changed.wait()

    async def wait_ended(self) -> None:
        """Wait for the end of the task, or of all text."""
        await self._end.wait()


class Transcripts:
    """The transcripts of the tasks that run or are watched, by task key. Owned by the bus."""

    def __init__(self) -> None:
        self._open: dict[int, Transcript] = {}
        self.pieces = 0  # of all attempts since the start
        self.closed = False

    def __len__(self) -> int:
        return len(self._open)

    # --- the bus's side
    def add(self, key: int, attempt: int, piece: Piece) -> None:
        transcript = self._open.get(key)
        if transcript is None:
            transcript = self._open[key] = Transcript()
        self.pieces += bool(piece.text)
        transcript.add(attempt, piece)

    def announce(self, key: int, attempt: int) -> None:
        transcript = self._open.get(key)
        if transcript is None:
            transcript = self._open[key] = Transcript()
        transcript.announce(attempt)

    def end(self, key: int) -> None:
        """The task is finished: its text is in the store from now on. Those who watch keep theirs."""
        transcript = self._open.pop(key, None)
        if transcript is not None:
            transcript.end()

    def release(self, key: int) -> None:
        """The attempt ended and another one will follow: its text is void, unless somebody watches."""
        transcript = self._open.get(key)
        if transcript is not None and transcript.watchers:
            transcript.break_off()
        elif transcript is not None:
            del self._open[key]

    def close(self) -> None:
        """Nothing will follow: those who wait look at `closed`."""
        self.closed = True
        for transcript in self._open.values():
            transcript.stop()

    # --- a reader's side
    def progress(self, key: int) -> tuple[int, float | None]:
        """Return the pieces so far and their rate, as `Transcript.progress`; (0, None) for a task that does not run."""
        transcript = self._open.get(key)
        return (0, None) if transcript is None else transcript.progress

    @contextmanager
    def watch(self, key: int) -> Iterator[Transcript]:
        """Follow the task *key*; open this first, then look where the task stands, and no gap can form."""
        transcript = self._open.get(key)
        if transcript is None:
            transcript = self._open[key] = Transcript()
        transcript.watchers += 1
        try:
            yield transcript
        finally:
            transcript.watchers -= 1
            idle = not transcript.watchers and not transcript.attempt
            if idle and self._open.get(key) is transcript:
                del self._open[key]  # never ran while it was watched: nothing to keep
