"""A sorted set of keys (integers below 2**63) in 8 bytes a key, with positions and both directions.

Keys lie in arrays of up to `CHUNK` each. New keys are nearly always the largest and old ones the first to go,
and both touch only one end of one array; anything else moves a few kilobytes.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence

CHUNK = 2048


class KeySet:
    """See the module.

    >>> keys = KeySet()
    >>> for key in (5, 1, 3, 5):
    ...     keys.add(key)
    >>> list(keys.ascending()), list(keys.descending(before=5)), len(keys)
    ([1, 3, 5], [3, 1], 3)
    """

    __slots__ = ("_chunks", "_lows", "_size")

    def __init__(self) -> None:
        self._chunks: list[array[int]] = []  # never an empty one
        self._lows: list[int] = []  # all keys of chunk n are at least lows[n] and below lows[n + 1]
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __contains__(self, key: int) -> bool:
        if not self._chunks:
            return False
        chunk = self._chunks[max(0, bisect_right(self._lows, key) - 1)]
        place = bisect_left(chunk, key)
        return place < len(chunk) and chunk[place] == key

    def __iter__(self) -> Iterator[int]:
        return self.ascending()

    def add(self, key: int) -> None:
        """Put *key* in; nothing happens if it is there."""
        chunks = self._chunks
        if not chunks or (len(chunks[-1]) >= CHUNK and key > chunks[-1][-1]):
            chunks.append(array("q", (key,)))
            self._lows.append(key)
            self._size += 1
            return
        chunk = chunks[-1]
        if key > chunk[-1]:
            chunk.append(key)
            self._size += 1
            return
        number = bisect_right(self._lows, key) - 1
        if number < 0:
            number, self._lows[0] = 0, key
        chunk = chunks[number]
        place = bisect_left(chunk, key)
        if place < len(chunk) and chunk[place] == key:
            return
        chunk.insert(place, key)
        self._size += 1
        if len(chunk) > CHUNK:
            half = len(chunk) // 2
            chunks.insert(number + 1, chunk[half:])
            self._lows.insert(number + 1, chunk[half])
            del chunk[half:]

    def discard(self, key: int) -> None:
        """Take *key* out; nothing happens if it is not there."""
        if not self._chunks:
            return
        number = max(0, bisect_right(self._lows, key) - 1)
        chunk = self._chunks[number]
        place = bisect_left(chunk, key)
        if place == len(chunk) or chunk[place] != key:
            return
        del chunk[place]
        self._size -= 1
        if not chunk:
            del self._chunks[number], self._lows[number]

    def first(self) -> int:
        """Return the smallest key; IndexError when empty."""
        return self._chunks[0][0]

    def last(self) -> int:
        """Return the largest key; IndexError when empty."""
        return self._chunks[-1][-1]

    def rank(self, key: int) -> int:
        """Return how many keys are smaller than *key*."""
        number = bisect_right(self._lows, key) - 1
        if number < 0:
            return 0
        return sum(map(len, self._chunks[:number])) + bisect_left(self._chunks[number], key)

    def ascending(self, after: int | None = None) -> Iterator[int]:
        """Yield the keys from small to large, those beyond *after*. The set must not change meanwhile."""
        if after is None:
            number, place = 0, 0
        else:
            number = max(0, bisect_right(self._lows, after) - 1)
            place = bisect_right(self._chunks[number], after) if self._chunks else 0
        for chunk in self._chunks[number : number + 1]:
            yield from chunk[place:]
        for later in range(number + 1, len(self._chunks)):
            yield from self._chunks[later]

    def descending(self, before: int | None = None) -> Iterator[int]:
        """Yield the keys from large to small, those below *before*. The set must not change meanwhile."""
        if before is None:
            number = len(self._chunks) - 1
            place = len(self._chunks[-1]) if self._chunks else 0
        else:
            number = bisect_right(self._lows, before) - 1
            place = bisect_left(self._chunks[number], before) if number >= 0 else 0
        if number >= 0:
            yield from reversed(self._chunks[number][:place])
        for earlier in range(number - 1, -1, -1):
            yield from reversed(self._chunks[earlier])


def locate(sets: Sequence[KeySet], skip: int, descending: bool) -> int | None:
    """Return the key after which to start so that *skip* keys of all (disjoint) *sets* together are left out.

    None when there are no more than *skip* keys, or none to skip. Halves the range of keys: some 60 looks at
    each set instead of a walk.
    """
    total = sum(map(len, sets))
    if not 0 < skip < total:
        return None
    position = total - skip if descending else skip - 1  # of the last one left out, counted from the smallest
    low = min(keys.first() for keys in sets if keys)
    high = max(keys.last() for keys in sets if keys)
    while low < high:  # the largest key with at most *position* smaller ones
        middle = (low + high + 1) // 2
        if sum(keys.rank(middle) for keys in sets) <= position:
            low = middle
        else:
            high = middle - 1
    return low
