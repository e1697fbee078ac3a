"""Retention: how long finished tasks are kept, by number and by age. No I/O."""

from __future__ import annotations

import math
from itertools import islice

DELETES_PER_STEP = 500  # in slices, so that no commit gets long
SLACK = 100  # tasks over the number before they are deleted: one commit for many, not one for each

Ends = dict[int, tuple[float, int]]
"""Task key → (finished_at, revision), the oldest end first."""


class Retention:
    """The bounds, 0 for none: *most* tasks, *age* and *interval* in seconds. `due` is when to look at ages again."""

    def __init__(self, most: int, age: float, interval: float) -> None:
        self._most = most
        self._age = age
        self._interval = interval
        self.due = math.inf

    def expired(self, finished: Ends, now: float) -> list[int]:
        """Return the tasks to forget now, a slice of them at most: those that ended longest ago."""
        excess = max(0, len(finished) - self._most) if self._most else 0
        timely = now >= self.due
        if timely:
            if self._age:
                excess = max(excess, self._too_old(finished, now))
            self.due = now if excess > DELETES_PER_STEP else now + self._interval
        if not timely and excess <= min(SLACK, self._most // 10):
            return []
        return list(islice(finished, min(excess, DELETES_PER_STEP)))

    def _too_old(self, finished: Ends, now: float) -> int:
        """Return how many; more than a slice are not counted."""
        oldest = now - self._age
        count = 0
        for at, _ in finished.values():
            if at > oldest or count > DELETES_PER_STEP:
                break
            count += 1
        return count
