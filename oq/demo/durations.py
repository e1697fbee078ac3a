"""keep_alive, as Go reads durations."""

from __future__ import annotations

import re
from math import inf

from oq.demo.refusals import ApiError

_UNITS = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = r"(\d+(?:\.\d+)?)(ns|us|ms|s|m|h)"
_DURATION = re.compile(rf"[+-]?(?:{_PART})+|[+-]?0")
_GO_TYPES = {"bool": "bool", "list": "[]interface {}", "dict": "map[string]interface {}"}


def parse_keep_alive(value: object) -> float:
    """Return seconds from a number of seconds or a duration of Go's; what is negative means for ever.

    >>> parse_keep_alive("1h30m"), parse_keep_alive(10), parse_keep_alive(-1)
    (5400.0, 10.0, inf)
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        kind = type(value).__name__
        raise ApiError(400, f"Unsupported type: '{_GO_TYPES.get(kind, kind)}'")
    if isinstance(value, str):
        if not _DURATION.fullmatch(value):
            problem = "missing unit in" if re.fullmatch(r"[+-]?[\d.]+", value) else "invalid"
            raise ApiError(400, f'time: {problem} duration "{value}"')
        seconds = sum(float(number) * _UNITS[unit] for number, unit in re.findall(_PART, value))
        value = -seconds if value.startswith("-") else seconds
    return inf if value < 0 else float(value)
