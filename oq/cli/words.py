"""Texts, times and durations as a terminal shows them to people."""

from __future__ import annotations

import time
import unicodedata

# What turns the direction of writing: text would seem to say another thing than it does.
TURNS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: str) -> str:
    """Return text without what would steer a terminal: models and strangers wrote it.

    >>> printable("a\\x1b[2Jb\\tc")
    'a[2Jb\\tc'
    """
    return "".join(
        c for c in text if c in "\n\t" or (unicodedata.category(c) not in ("Cc", "Cs") and c not in TURNS)
    )


def one_line(text: str, length: int = 60) -> str:
    """Return the beginning of a text, in one line."""
    text = " ".join(printable(text).split())
    return text if len(text) <= length else text[: length - 1] + "…"


def when(at: float | None) -> str:
    """Return a time for a table: local, to the second."""
    return "" if at is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def seconds(value: float | None) -> str:
    """Return a duration for people.

    >>> [seconds(n) for n in (0.25, 12, 75, 7300)]
    ['0.25s', '12.0s', '1m15s', '2h01m']
    """
    if value is None:
        return ""
    if value < 60:
        return f"{value:.2f}s" if value < 10 else f"{value:.1f}s"
    minutes, rest = divmod(int(value), 60)
    return f"{minutes}m{rest:02}s" if minutes < 60 else f"{minutes // 60}h{minutes % 60:02}m"
