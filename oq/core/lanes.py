"""The waiting tasks by priority and affinity: the oldest of each, and those that ask for the same, without a search."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from functools import partial
from itertools import islice

from oq.core.model import Entry, Status

SLACK = 64  # entries of a heap that may be out of date before it is made anew


class Lane:
    """The waiting tasks of one priority and one affinity, oldest first. Keys that left are skipped lazily."""

    __slots__ = ("keys", "live")

    def __init__(self) -> None:
        self.keys: list[int] = []  # a heap
        self.live = 0


class Level:
    """The lanes of one priority.

    The oldest of all is found without looking at each lane: there may be as many lanes as tasks. `_heads` holds, for
    each lane, at least one (key, affinity) that is not above the lane's oldest; what is out of date is put right
    when it comes to the top.
    """

    __slots__ = ("_belongs", "_heads", "lanes")

    def __init__(self, belongs: Callable[[int, str], bool]) -> None:
        """*belongs* tells whether a task still waits here, in the lane of that affinity."""
        self.lanes: dict[str, Lane] = {}
        self._belongs = belongs
        self._heads: list[tuple[int, str]] = []  # a heap

    def add(self, key: int, affinity: str) -> None:
        lane = self.lanes.get(affinity)
        if lane is None:
            lane = self.lanes[affinity] = Lane()
        if not lane.keys or key < lane.keys[0]:
            heapq.heappush(self._heads, (key, affinity))
            if len(self._heads) > 2 * len(self.lanes) + SLACK:
                self._heads = [(lane.keys[0], name) for name, lane in self.lanes.items() if lane.keys]
                self._heads.append((key, affinity))
                heapq.heapify(self._heads)
        lane.live += 1
        heapq.heappush(lane.keys, key)
        if len(lane.keys) > 2 * lane.live + SLACK:
            lane.keys = sorted({key for key in lane.keys if self._belongs(key, affinity)})

    def discard(self, affinity: str) -> None:
        """One task of that lane has left, or is about to."""
        lane = self.lanes[affinity]
        lane.live -= 1
        if not lane.live:
            del self.lanes[affinity]

    def oldest_of(self, affinity: str) -> int | None:
        """Return the oldest key of a lane; None if it is empty."""
        lane = self.lanes.get(affinity)
        if lane is None:
            return None
        while not self._belongs(lane.keys[0], affinity):
            heapq.heappop(lane.keys)
        return lane.keys[0]

    def keys_of(self, affinity: str) -> set[int]:
        """Return the keys of a lane. It looks at all of them: for few."""
        return {key for key in self.lanes[affinity].keys if self._belongs(key, affinity)}

    def oldest(self, may: Callable[[int], bool] | None = None) -> tuple[int, str] | None:
        """Return the oldest key of all lanes and its affinity; None if there is none.

        With *may*, of those lanes whose oldest it is true of; what it passes over costs a look each.
        """
        aside: list[tuple[int, str]] = []
        found = None
        while self._heads and found is None:
            key, affinity = self._heads[0]
            head = self.oldest_of(affinity)
            if head is None:
                heapq.heappop(self._heads)
            elif head != key:
                heapq.heapreplace(self._heads, (head, affinity))
            elif may is not None and not may(key):
                aside.append(heapq.heappop(self._heads))
            else:
                found = key, affinity
        for item in aside:
            heapq.heappush(self._heads, item)
        return found


class Lanes:
    """Every pending task, by priority and affinity. *entries* is the schedule's table, read only."""

    def __init__(self, entries: dict[int, Entry]) -> None:
        self._entries = entries
        self._levels: dict[int, Level] = {}
        self._order: list[Level] = []  # from the highest priority down; empty: to be made again
        self._alike: dict[
            bytes, int | dict[int, None]
        ] = {}  # by `Entry.text`; a dict only where there are several: most texts are of one task
        self.count = 0

    def add(self, entry: Entry) -> None:
        """Queue a task that has just become pending, or whose priority changed."""
        priority = entry.state.priority
        level = self._levels.get(priority)
        if level is None:
            level = self._levels[priority] = Level(partial(self._belongs, priority))
            self._order = []
        self.count += 1
        level.add(entry.key, entry.affinity)
        if entry.text is not None and not entry.state.retry_count:
            self._add_alike(entry.text, entry.key)

    def discard(self, entry: Entry) -> None:
        """Take out a task; call it while `entry.state` still is the pending one."""
        level = self._levels[entry.state.priority]
        level.discard(entry.affinity)
        self.count -= 1
        if not level.lanes:
            del self._levels[entry.state.priority]
            self._order = []
        if entry.text is not None and not entry.state.retry_count:
            self._discard_alike(entry.text, entry.key)

    def alike(self, text: bytes, most: int) -> list[int]:
        """Return tasks that ask for the same and have not failed before: the first *most* that came."""
        found = self._alike.get(text, {})
        return [found] if isinstance(found, int) else list(islice(found, most))

    def _add_alike(self, text: bytes, key: int) -> None:
        found = self._alike.setdefault(text, key)
        if isinstance(found, dict):
            found[key] = None
        elif found != key:
            self._alike[text] = {found: None, key: None}

    def _discard_alike(self, text: bytes, key: int) -> None:
        found = self._alike[text]
        if isinstance(found, dict):
            del found[key]
        if found in (key, {}):
            del self._alike[text]

    def _belongs(self, priority: int, key: int, affinity: str) -> bool:
        entry = self._entries.get(key)
        return (
            entry is not None
            and entry.state.status is Status.PENDING
            and entry.state.priority == priority
            and entry.affinity == affinity
        )

    def levels(self) -> list[Level]:
        """Return the levels that have tasks, from the highest priority down."""
        if not self._order:
            self._order = [self._levels[priority] for priority in sorted(self._levels, reverse=True)]
        return self._order
