"""Small values as JSON and people write them: priorities, durations, times."""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime

from oq.core.guard import GUARDS
from oq.core.model import PRIORITIES, PRIORITY_MAX
from oq.errors import InvalidTask

_NAMES = {level: name for name, level in PRIORITIES.items()}
_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_PART = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)(ns|us|µs|ms|s|m|h|d)")
_DURATION = re.compile(rf"(?:{_PART.pattern})+")
DURATION_MAX = 10 * 366 * 86400.0  # ten years: longer is a slip of the keyboard
TIME_MAX = 253_402_300_799.0  # the end of year 9999


def check_text(text: str, field: str) -> str:
    """Return *text*; `InvalidTask` when UTF-8 cannot write it, as an argument of bytes that were no text."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidTask(f"{field} is not UTF-8 text: {text[:100]!r}", field) from error
    return text


def parse_priority(value: object, field: str = "priority") -> int:
    """Return the level of a name (``high``), a number or the text of one.

    >>> parse_priority("high"), parse_priority(7), parse_priority("20")
    (10, 7, 20)
    """
    level = value
    if isinstance(value, str):
        text = value.strip().lower()
        level = PRIORITIES.get(text)
        if level is None and text.isascii() and text.isdigit() and len(text) <= 4:
            level = int(text)
    if isinstance(level, int) and not isinstance(level, bool) and 0 <= level <= PRIORITY_MAX:
        return level
    names = ", ".join(PRIORITIES)
    raise InvalidTask(
        f"{field} must be one of {names}, or a whole number from 0 to {PRIORITY_MAX}, not {_shown(value)}",
        field,
    )


def priority_name(level: int) -> str:
    """Return the name of a level, or its number where it has none.

    >>> priority_name(10), priority_name(7)
    ('high', '7')
    """
    return _NAMES.get(level) or str(level)


def parse_duration(value: object, field: str = "duration") -> float:
    """Return the seconds of a number, or of a text such as ``250ms``, ``5m`` or ``1h30m``.

    >>> parse_duration("1h30m"), parse_duration("250ms"), parse_duration(2)
    (5400.0, 0.25, 2.0)
    """
    seconds = math.nan
    if isinstance(value, str):
        text = value.strip().lower()
        if _DURATION.fullmatch(text):
            seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(text))
        elif re.fullmatch(r"\d+(\.\d*)?", text, re.ASCII):
            seconds = float(text)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        seconds = float(value) if abs(value) <= DURATION_MAX else math.inf
    if 0 <= seconds <= DURATION_MAX:
        return seconds
    raise InvalidTask(
        f'{field} must be seconds or a duration such as "250ms", "5m" or "1h30m" (at most ten years), '
        f"not {_shown(value)}",
        field,
    )


def rfc3339(at: float) -> str:
    """Return Unix seconds as RFC 3339 in UTC.

    >>> rfc3339(1_700_000_000.25)
    '2023-11-14T22:13:20.250000Z'
    """
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def optional_time(at: float | None) -> str | None:
    """Return `rfc3339`, None for None."""
    return None if at is None else rfc3339(at)


def parse_time(value: object, field: str = "time") -> float:
    """Return the Unix seconds of an RFC 3339 text (a number is taken as Unix seconds).

    >>> parse_time("2023-11-14T22:13:20.25Z")
    1700000000.25
    """
    at = math.nan
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value.strip())
            at = moment.timestamp() if moment.tzinfo is not None else math.nan
        except (ValueError, OverflowError):
            pass
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        at = float(value) if abs(value) <= TIME_MAX else math.inf
    if 0 <= at <= TIME_MAX:
        return at
    raise InvalidTask(
        f'{field} must be a time with its zone, such as "2030-01-31T08:00:00Z", not {_shown(value)}', field
    )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def parse_guard(value: object, field: str = "guard") -> str:
    """Return what to do about an answer that is cut or not the JSON asked for.

    >>> parse_guard("retry")
    'retry'
    """
    if value in GUARDS:
        return str(value)
    raise InvalidTask(f"{field} must be one of {', '.join(GUARDS)}", field)
