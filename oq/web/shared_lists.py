"""One reading of a list for all pages that ask for it in the same moment.

Fifty monitors at the top of the same list read it again whenever tasks come in. A page says which event its answer must
contain; an answer that another page has just got and that contains this event will do.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable

import msgspec
import trio

AGE_SECONDS = 1.0  # what no event tells, as the tokens so far, may be as old as this
KEPT = 32  # answers, of at most KEPT_BYTES each
KEPT_BYTES = 64 * 1024


class ListAnswer(msgspec.Struct, frozen=True):
    """The body of an answer and its headers; it contains event *seen*, and was begun at *at* in Trio's time."""

    seen: int
    at: float
    body: bytes
    headers: dict[str, str]


class SharedLists:
    """The newest answers, by what was asked for."""

    def __init__(self) -> None:
        self._kept: OrderedDict[bytes, ListAnswer] = OrderedDict()
        self._reading: dict[bytes, trio.Event] = {}

    async def answer(
        self, question: bytes, least: int, read: Callable[[], Awaitable[ListAnswer]]
    ) -> ListAnswer:
        """Return an answer that contains event *least*: one of a moment ago, or what *read* returns."""
        while (reading := self._reading.get(question)) is not None:
            await reading.wait()
        kept = self._kept.get(question)
        if kept is not None and kept.seen >= least and trio.current_time() - kept.at <= AGE_SECONDS:
            return kept
        ended = self._reading[question] = trio.Event()
        try:
            found = await read()
        finally:
            del self._reading[question]
            ended.set()
        if len(found.body) <= KEPT_BYTES:
            self._kept[question] = found
            self._kept.move_to_end(question)
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return found
