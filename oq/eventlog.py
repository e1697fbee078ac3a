"""The recent public events, for any number of subscribers.

One bounded log, and subscribers that pull from it: each keeps its own position. There is no queue per subscriber
to fill up, so a burst (a batch of ten thousand submissions) costs nobody his subscription; who falls behind by
the whole log is told so with `SubscriberLagged`, reads a fresh snapshot and subscribes again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import islice

import trio

from oq.core.events import Event, Happening
from oq.errors import SubscriberLagged


class EventLog:
    """The last *capacity* events. The bus appends; subscribers read."""

    def __init__(self, capacity: int) -> None:
        self._events: deque[Event] = deque(maxlen=capacity)
        self._changed: trio.Event | None = None
        self.last = 0  # sequence number of the newest event
        self.closed = False

    def append(self, happenings: Iterable[Happening], at: float) -> None:
        for happening in happenings:
            self.last += 1
            self._events.append(Event(self.last, at, happening))
        self._wake()

    def close(self) -> None:
        """No event will follow: subscribers end when they have read the rest."""
        self.closed = True
        self._wake()

    def _wake(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    def since(self, seq: int) -> list[Event]:
        """Return all events after number *seq*; `SubscriberLagged` if some of them are gone already."""
        missing = self.last - seq
        if missing < 0 or missing > len(self._events):
            raise SubscriberLagged(
                f"events after number {seq} are no longer kept (server.event_history is {self._events.maxlen}); "
                "read the current state again and subscribe anew"
            )
        return list(islice(self._events, len(self._events) - missing, None)) if missing else []

    async def wait_changed(self) -> None:
        """Wait for the next event or the end; look at `since` and `closed` first, without awaiting between."""
        if self._changed is None:
            self._changed = trio.Event()
        await self._changed.wait()
