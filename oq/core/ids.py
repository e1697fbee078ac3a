"""Task ids: one sortable 63-bit integer, in text as 13 characters of Crockford's base 32.

The integer is (milliseconds since 2020, 41 bits) (node, 8 bits) (counter, 14 bits), as Snowflake ids are:
sorting by id is sorting by submission, and the store needs no index from id to record.
"""

from __future__ import annotations

EPOCH = 1_577_836_800.0  # 2020-01-01 UTC; 41 bits of milliseconds last until 2089
NODE_BITS, COUNTER_BITS = 8, 14
SHIFT = NODE_BITS + COUNTER_BITS
ID_LENGTH = 13
KEY_MAX = 2**63 - 1
MS_MAX = KEY_MAX >> SHIFT
MS_IMPORTED = MS_MAX - 366 * 86_400_000  # of an id that is brought along: after it there must be others
_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_VALUES = {letter: value for value, letter in enumerate(_ALPHABET)} | {"i": 1, "l": 1, "o": 0}
_PAIRS = [a + b for a in _ALPHABET for b in _ALPHABET]  # two letters at a time: ids are made in bulk


def format_id(key: int) -> str:
    """Return the text of *key*.

    >>> format_id(parse_id("0f7x3kq2m00a5"))
    '0f7x3kq2m00a5'
    """
    pairs = _PAIRS
    return (
        _ALPHABET[key >> 60]
        + pairs[key >> 50 & 1023]
        + pairs[key >> 40 & 1023]
        + pairs[key >> 30 & 1023]
        + pairs[key >> 20 & 1023]
        + pairs[key >> 10 & 1023]
        + pairs[key & 1023]
    )


def parse_id(text: str) -> int:
    """Return the integer of an id; ValueError if it is none. Case and the look-alikes i, l, o are forgiven."""
    if len(text) != ID_LENGTH:
        raise ValueError(f"{text!r} is not a task id: an id has {ID_LENGTH} characters")
    key = 0
    for letter in text.lower():
        value = _VALUES.get(letter)
        if value is None:
            raise ValueError(f"{text!r} is not a task id: {letter!r} is not allowed")
        key = key << 5 | value
    if key > KEY_MAX:
        raise ValueError(f"{text!r} is not a task id: it is too large")
    return key


def created_at(key: int) -> float:
    """Return the Unix time, in seconds, at which the id was given out."""
    return EPOCH + (key >> SHIFT) / 1000


class IdSource:
    """Gives out keys that only ever grow, also when the clock goes back, beyond 2089, or the counter runs over."""

    def __init__(self, node: int, last: int = 0) -> None:
        """*node* (0–255) keeps servers apart; *last* is the largest key in use."""
        self._node = (node & (1 << NODE_BITS) - 1) << COUNTER_BITS
        self._ms = last >> SHIFT
        self._counter = (1 << COUNTER_BITS) - 1 if last else 0

    def take(self, count: int, now: float) -> range:
        """Return up to *count* new keys in a row, at least one; ask again for the rest."""
        ms = int((now - EPOCH) * 1000)
        if self._ms < ms <= MS_IMPORTED:  # else the clock is wrong
            self._ms, self._counter = ms, 0
        elif self._counter + 1 >= 1 << COUNTER_BITS:
            self._ms, self._counter = self._ms + 1, 0
        else:
            self._counter += 1
        first = self._ms << SHIFT | self._node | self._counter
        room = (1 << COUNTER_BITS) - self._counter
        taken = min(count, room)
        self._counter += taken - 1
        return range(first, first + taken)
