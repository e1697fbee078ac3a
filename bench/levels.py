"""Whether figures that were taken over time level off.

The first third of a run is warming up: caches fill, the store reaches the size at which it is packed. After it, the
second third is compared with the last, by their medians, so that one outlier counts for nothing; of what rises and
falls by itself (the data file between two packs) by their highest.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Bound:
    """How much the last third may be above the one before: a share of it, and something on top for small numbers."""

    unit: str
    share: float
    more: float
    highest: bool = False


@dataclasses.dataclass(frozen=True)
class Level:
    name: str
    unit: str
    start: float
    middle: float
    end: float
    peak: float
    level: bool


def judge(name: str, values: Sequence[float], bound: Bound) -> Level:
    """Return the figures of *values*, in the order they were taken, at least three."""
    third = len(values) // 3
    if not third:
        raise ValueError(f"{name}: {len(values)} values are too few to see a trend")
    of = max if bound.highest else statistics.median
    start, middle, end = (float(of(part)) for part in (values[:third], values[third:-third], values[-third:]))
    level = end <= middle * (1 + bound.share) + bound.more
    return Level(name, bound.unit, start, middle, end, float(max(values)), level)


def table(levels: Sequence[Level]) -> str:
    """Return *levels* as a Markdown table."""
    lines = ["| | first third | second | last | highest | |", "| --- | --- | --- | --- | --- | --- |"]
    for one in levels:
        cells = " | ".join(f"{value:,.1f}" for value in (one.start, one.middle, one.end, one.peak))
        lines.append(f"| {one.name}, {one.unit} | {cells} | {'level' if one.level else '**rises**'} |")
    return "\n".join(lines)
