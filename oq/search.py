"""Text search over all tasks: from memory what fits, newest first, and the rest from disk for a limited time.

The text of a task never changes, only whether it still exists and how it stands. So what a search found stays
found: matches are kept per text, a repeated search looks only at what has come since, and status, host and all
other filters are applied to the matches afresh, in the catalog.

Texts are read from the journal, in a thread, when somebody searches or watches: submitting costs nothing more. Work
on the event loop is cut into slices of about SLICE_SECONDS. See docs/decisions/search.md.
"""

from __future__ import annotations

import time
from array import array
from bisect import bisect_left, bisect_right
from collections import OrderedDict, deque
from collections.abc import Sequence
from itertools import pairwise

import msgspec
import trio

from oq.catalog import Catalog
from oq.core.corpus import CHUNK_BYTES, Corpus, Needle
from oq.errors import InvalidTask
from oq.ports import Journal, Offload, Query

SLICE_SECONDS = 0.001  # another request takes ten turns of the loop or so, and waits a slice for each
SLICE_KEYS = 1024  # filtered in one go: 0.3 ms
READ_TASKS = 512  # read in one go: about 10 ms in a thread
TEXTS_KEPT = 16  # searches whose matches are kept
MATCHES_KEPT = 2_000_000  # in all of them together: 16 MB
ORDERS_KEPT = 4


class Found(msgspec.Struct, frozen=True):
    """Matches: how many, and the keys of the page. *newer* are those beyond the anchor.

    *complete* is False when the time was over before the oldest tasks were looked at.
    """

    total: int
    keys: list[int]
    newer: int = 0
    complete: bool = True


class _Matches:
    """The keys of the tasks in low <= key < high that a text is in."""

    def __init__(self, text: str, start: int) -> None:
        self.needle = Needle(text)
        self.low = self.high = start
        self.lock = trio.Lock()
        self._parts: deque[array[int]] = deque()

    def add_older(self, keys: Sequence[int], low: int) -> None:
        self.low = low
        if keys:
            self._parts.appendleft(array("q", keys))

    def add_newer(self, keys: Sequence[int], high: int) -> None:
        self.high = high
        if keys:
            self._parts.append(array("q", keys))

    def keys(self) -> array[int]:
        """Return them all, ascending."""
        if len(self._parts) != 1:
            joined: array[int] = array("q")
            for part in self._parts:
                joined.extend(part)
            self._parts = deque((joined,))
        return self._parts[0]

    def __len__(self) -> int:
        return sum(map(len, self._parts))


class Search:
    """See the module. *budget* bytes of text in memory, *seconds* for one search."""

    def __init__(
        self, catalog: Catalog, journal: Journal, read: Offload, *, budget: int, seconds: float
    ) -> None:
        self._catalog, self._journal, self._read = catalog, journal, read
        self._budget, self._seconds = budget, seconds
        self._corpus: Corpus | None = None
        self._below: array[int] = array("q")  # older keys, not in the corpus
        self._filling = trio.Lock()
        self._texts: OrderedDict[str, _Matches] = OrderedDict()
        self._orders: OrderedDict[tuple[Query, int, int], array[int]] = OrderedDict()

    @property
    def memory(self) -> int:
        """The bytes of text in memory."""
        return 0 if self._corpus is None else self._corpus.size

    # --- keeping up
    async def catch_up(self) -> None:
        """Read the texts of new tasks, then of older ones while there is room. Call it again to go on."""
        async with self._filling:
            corpus = self._corpus or await self._begin()
            while keys := self._catalog.keys_from(corpus.high, READ_TASKS):
                texts = await self._read(self._journal.texts, keys)
                for part in _parts(texts):
                    self._give_up(corpus.add_newer(keys[part], texts[part]))
            while self._below and not corpus.full:
                keys = list(self._below[-READ_TASKS:])
                texts = await self._read(self._journal.texts, keys)
                for part in reversed(_parts(texts)):
                    corpus.add_older(keys[part], texts[part])
                del self._below[-len(keys) :]
            corpus.check_some(self._catalog.__contains__)

    async def _begin(self) -> Corpus:
        """List the keys that there are, in slices."""
        self._below = array("q")
        at = 0
        while keys := self._catalog.keys_from(at, 4 * SLICE_KEYS):
            self._below.extend(keys)
            at = keys[-1] + 1
            await trio.lowlevel.checkpoint()
        self._corpus = Corpus(at, self._budget)
        return self._corpus

    def _give_up(self, keys: list[int]) -> None:
        self._below.extend(keys)
        if len(self._below) > 2 * len(self._catalog) + SLICE_KEYS:
            self._below = array("q", [key for key in self._below if key in self._catalog])

    # --- searching
    async def find(self, query: Query, *, patient: bool = False) -> Found:
        """Return the matches of a query with text. *patient*: however long it takes."""
        assert query.text is not None
        seconds = float("inf") if patient else self._seconds
        with trio.move_on_after(seconds) as scope:
            await self.catch_up()
        if self._corpus is None:  # too little time even to list the tasks
            return Found(0, [], 0, False)
        matches = self._texts.get(query.text)
        if matches is None or matches.high < self._corpus.low:  # or some came and went unseen
            matches = self._texts[query.text] = _Matches(query.text, self._corpus.high)
        self._texts.move_to_end(query.text)
        async with matches.lock:
            await self._look_in_memory(matches, self._corpus)
            complete = not scope.cancelled_caught
            if complete and self._below:
                with trio.move_on_at(scope.deadline):
                    await self._look_on_disk(matches)
                complete = self._lowest() >= matches.low
            self._forget()
            keys = matches.keys()
        ordered = await self._ordered(query, keys)
        return _page(query, ordered, self._place(query, ordered), complete)

    async def _look_in_memory(self, matches: _Matches, corpus: Corpus) -> None:
        pause = _Slices()
        while (chunk := corpus.before(matches.low)) is not None:
            found = chunk.search(matches.needle)
            matches.add_older(found[: bisect_left(found, matches.low)], chunk.keys[0])
            await pause.maybe()
        while (chunk := corpus.after(matches.high)) is not None:
            found = chunk.search(matches.needle)
            matches.add_newer(found[bisect_left(found, matches.high) :], chunk.keys[-1] + 1)
            await pause.maybe()

    async def _look_on_disk(self, matches: _Matches) -> None:
        """Look through what memory does not hold, newest first, and remember how far that went."""
        while True:
            end = bisect_left(self._below, matches.low)
            if not end:
                return
            keys = list(self._below[max(0, end - READ_TASKS) : end])
            texts = await self._read(self._journal.texts, keys)
            named = set(matches.needle.in_ids(keys))
            is_in = matches.needle.is_in
            found = [key for key, text in zip(keys, texts, strict=True) if is_in(text) or key in named]
            matches.add_older(found, keys[0])

    def _lowest(self) -> int:
        return self._below[0] if self._below else 2**63

    def _forget(self) -> None:
        """Keep the latest searches, and of all matches together a bounded number."""
        while len(self._texts) > 1 and (
            len(self._texts) > TEXTS_KEPT or sum(map(len, self._texts.values())) > MATCHES_KEPT
        ):
            self._texts.popitem(last=False)

    async def _ordered(self, query: Query, keys: array[int]) -> array[int]:
        """Return those of *keys* that fit the rest of the query, in its order."""
        plain = msgspec.structs.replace(query, limit=0, offset=0, before=None, anchor=None)
        name = (plain, self._catalog.revision, len(keys))
        known = self._orders.get(name)
        if known is not None:
            return known
        classes: dict[int, list[int]] = {}
        pause = _Slices()
        by_priority = query.sort.endswith("priority")
        for first in range(0, len(keys), SLICE_KEYS):
            self._catalog.sift(query, keys[first : first + SLICE_KEYS], classes, by_priority)
            await pause.maybe()
        ordered: array[int] = array("q")
        for priority in sorted(classes, reverse=query.sort == "-priority"):
            ordered.extend(classes[priority])
        if query.sort == "-created":
            ordered.reverse()
        self._orders[name] = ordered
        while len(self._orders) > ORDERS_KEPT:
            self._orders.popitem(last=False)
        return ordered

    def _place(self, query: Query, ordered: array[int]) -> int:
        """Return where the page begins that the cursor asks for."""
        cursor = query.before
        if cursor is None:
            return 0
        if query.sort == "-created":
            return bisect_right(ordered, -cursor, key=int.__neg__)
        if query.sort == "created":
            return bisect_right(ordered, cursor)
        try:
            return ordered.index(cursor) + 1
        except ValueError:
            raise InvalidTask(
                "the task of the cursor no longer matches; start from the top", "before"
            ) from None


def _page(query: Query, ordered: array[int], place: int, complete: bool) -> Found:
    newer = 0
    if query.anchor is not None:
        newer = bisect_left(ordered, -query.anchor, key=int.__neg__)
    start = place + query.offset
    return Found(len(ordered), list(ordered[start : start + query.limit]), newer, complete)


def _parts(texts: Sequence[bytes]) -> list[slice]:
    """Return how to cut *texts* so that no chunk is much larger than it should be."""
    cuts, size = [0], 0
    for number, text in enumerate(texts):
        if size > CHUNK_BYTES:
            cuts.append(number)
            size = 0
        size += len(text)
    return [slice(first, end) for first, end in pairwise([*cuts, len(texts)])]


class _Slices:
    """Gives others their turn once SLICE_SECONDS are over."""

    def __init__(self) -> None:
        self._until = time.perf_counter() + SLICE_SECONDS

    async def maybe(self) -> None:
        if time.perf_counter() > self._until:
            await trio.lowlevel.checkpoint()
            self._until = time.perf_counter() + SLICE_SECONDS
