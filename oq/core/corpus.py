"""Text of tasks in memory, to be searched: bytes laid end to end, as Python finds bytes at a gigabyte a second.

A `Corpus` covers an interval of keys: it grows at both ends and, when it holds more than its budget, gives up the
oldest. What it costs beside the text is 13 bytes a task.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence

from oq.core.ids import ID_LENGTH, KEY_MAX, parse_id

CHUNK_TASKS = 1024  # with the bytes below: what is searched in one go, in well below a millisecond
CHUNK_BYTES = 128 * 1024
TASK_BYTES = 13  # of a task beside its text: key, place, separator
ID_PART_MIN = 4  # characters: shorter ends of ids would turn up among the matches of any short word
_SEPARATOR = b"\0"


class Needle:
    """What is searched for. *text* is found as a part, whatever its case; as an id's beginning or end, too.

    >>> Needle("Sky").is_in(b"why is the sky blue?")
    True
    """

    def __init__(self, text: str) -> None:
        self.bytes = text.casefold().encode("utf-8", "surrogatepass")
        self._mask = self._low = self._high = self._value = -1
        if ID_PART_MIN <= len(text) <= ID_LENGTH:
            try:
                self._value = parse_id(text.rjust(ID_LENGTH, "0"))
            except ValueError:
                return
            shift = 5 * (ID_LENGTH - len(text))
            self._mask = (1 << 5 * len(text)) - 1
            self._low = self._value << shift
            self._high = min(self._low + (1 << shift) - 1, KEY_MAX)

    def is_in(self, text: bytes) -> bool:
        """Return whether it is a part of *text*, in which a NUL counts as a space, as in a `Chunk`."""
        return _SEPARATOR not in self.bytes and self.bytes in text.replace(_SEPARATOR, b" ")

    def in_ids(self, keys: Sequence[int]) -> list[int]:
        """Return those of *keys* whose id begins or ends with it."""
        if self._value < 0:
            return []
        mask, value, low, high = self._mask, self._value, self._low, self._high
        return [key for key in keys if key & mask == value or low <= key <= high]


class Chunk:
    """The texts of neighbours. *keys* ascend."""

    __slots__ = ("keys", "starts", "text")

    def __init__(self, keys: Sequence[int], texts: Sequence[bytes]) -> None:
        self.keys: array[int] = array("q")
        self.starts: array[int] = array("I")
        self.text = b""
        self.extend(keys, texts)

    def extend(self, keys: Sequence[int], texts: Sequence[bytes]) -> None:
        place = len(self.text)
        clean = [text.replace(_SEPARATOR, b" ") for text in texts]
        for text in clean:
            self.starts.append(place)
            place += len(text) + 1
        self.keys.extend(keys)
        self.text = b"".join([self.text, *(text + _SEPARATOR for text in clean)])

    @property
    def size(self) -> int:
        return len(self.text) + len(self.keys) * (TASK_BYTES - 1)

    def search(self, needle: Needle) -> list[int]:
        """Return the keys of the texts that *needle* is in, and those that it names by their id, ascending."""
        found: list[int] = []
        text, starts, keys, wanted = self.text, self.starts, self.keys, needle.bytes
        find, last, add = text.find, len(keys) - 1, found.append
        at = find(wanted) if _SEPARATOR not in wanted else -1
        while at >= 0:
            number = bisect_right(starts, at) - 1
            add(keys[number])
            if number == last:
                break
            at = find(wanted, starts[number + 1])
        named = needle.in_ids(keys)
        return sorted({*found, *named}) if named else found

    def without_dead(self, alive: Callable[[int], bool]) -> Chunk | None:
        """Return a smaller chunk of those that are *alive*; None if at least half of them are."""
        kept = [number for number, key in enumerate(self.keys) if alive(key)]
        if 2 * len(kept) >= len(self.keys):
            return None
        ends = [*self.starts[1:], len(self.text)]
        return Chunk([self.keys[n] for n in kept], [self.text[self.starts[n] : ends[n] - 1] for n in kept])


class Corpus:
    """See the module. Covers the keys from *start* on, none of them yet; *budget* in bytes."""

    def __init__(self, start: int, budget: int) -> None:
        self.low = self.high = start  # every task with low <= key < high is in here
        self.size = 0
        self._budget = budget
        self._chunks: list[Chunk] = []
        self._firsts: list[int] = []
        self._to_check = 0

    @property
    def full(self) -> bool:
        return self.size >= self._budget

    def add_newer(self, keys: Sequence[int], texts: Sequence[bytes]) -> list[int]:
        """Take in the tasks that follow the newest one; return the keys of the oldest, given up for them."""
        if not keys:
            return []
        last = self._chunks[-1] if self._chunks else None
        if last is None or len(last.keys) >= CHUNK_TASKS or len(last.text) >= CHUNK_BYTES:
            last = Chunk((), ())
            self._chunks.append(last)
            self._firsts.append(keys[0])
        self.size -= last.size
        last.extend(keys, texts)
        self.size += last.size
        self.high = keys[-1] + 1
        given_up: list[int] = []
        while self.size > self._budget and self._chunks:
            chunk = self._chunks.pop(0)
            del self._firsts[0]
            self.size -= chunk.size
            self.low = chunk.keys[-1] + 1
            given_up += chunk.keys
        return given_up

    def add_older(self, keys: Sequence[int], texts: Sequence[bytes]) -> None:
        """Take in the tasks that precede the oldest one."""
        if keys:
            chunk = Chunk(keys, texts)
            self._chunks.insert(0, chunk)
            self._firsts.insert(0, keys[0])
            self.size += chunk.size
            self.low = keys[0]

    def check_some(self, alive: Callable[[int], bool]) -> None:
        """Look at one chunk, the next each time, and let go of those that are not *alive* if they are many."""
        if not self._chunks:
            return
        self._to_check = (self._to_check + 1) % len(self._chunks)
        chunk = self._chunks[self._to_check]
        smaller = chunk.without_dead(alive)
        if smaller is None:
            return
        self.size -= chunk.size
        if smaller.keys:
            self.size += smaller.size
            self._chunks[self._to_check] = smaller
            self._firsts[self._to_check] = smaller.keys[0]
        else:
            del self._chunks[self._to_check], self._firsts[self._to_check]

    def before(self, key: int) -> Chunk | None:
        """Return the newest chunk that has a smaller key."""
        number = bisect_left(self._firsts, key) - 1
        return self._chunks[number] if number >= 0 else None

    def after(self, key: int) -> Chunk | None:
        """Return the oldest chunk that has a key of at least *key*."""
        number = max(0, bisect_right(self._firsts, key) - 1)
        for chunk in self._chunks[number : number + 2]:
            if chunk.keys[-1] >= key:
                return chunk
        return None

    def __iter__(self) -> Iterator[Chunk]:
        return iter(self._chunks)
