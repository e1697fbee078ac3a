"""Who goes next, and where. The only file to edit to change the order.

Rule 1  A higher priority starts first; within one priority, the oldest first.
Rule 2  Among equals, a task whose model is warm on the host may overtake the oldest one: at most
        `affinity_limit` times and for at most `affinity_wait` seconds per overtaken head. Swapping models costs
        Ollama seconds; 12 requests that alternate between two models took 9.5 s, grouped 2.9 s.
Rule 3  Nobody starves: while a task has waited longer than `starvation_after`, one start in `starvation_share`
        goes to the one that has waited longest, whatever its priority.
Rule 4  A host never has more than `max_loaded_models` different models in flight: a further one would wait inside
        Ollama behind all of them, out of our sight. A task that only this rule holds back makes the least used
        model on the host run dry, as soon as a lower priority or the bounds of rule 2 would overtake it.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Iterator

from oq.core.ids import created_at
from oq.core.model import Entry, Status


@dataclasses.dataclass(frozen=True, slots=True)
class Rules:
    """The bounds of the rules above; times in seconds. 0 switches a rule off."""

    affinity_limit: int = 16
    affinity_wait: float = 10.0
    starvation_after: float = 600.0
    starvation_share: int = 10


@dataclasses.dataclass(slots=True)
class Host:
    """One model server as the schedule sees it. `running` maps (key, attempt) to the affinity in flight."""

    name: str
    slots: int
    max_loaded_models: int = 0  # 0: no limit
    up: bool = True
    probe_at: float | None = None
    running: dict[tuple[int, int], str] = dataclasses.field(default_factory=dict)
    in_flight: dict[str, int] = dataclasses.field(default_factory=dict)
    recent: list[str] = dataclasses.field(default_factory=list)  # affinities lately run here, newest last

    @property
    def free(self) -> int:
        return self.slots - len(self.running)

    def has_room_for(self, affinity: str) -> bool:
        return affinity in self.in_flight or not 0 < self.max_loaded_models <= len(self.in_flight)

    def is_warm(self, affinity: str) -> bool:
        return affinity in self.recent

    def begin(self, key: int, attempt: int, affinity: str) -> None:
        self.running[key, attempt] = affinity
        self.in_flight[affinity] = self.in_flight.get(affinity, 0) + 1
        if not self.recent or self.recent[-1] != affinity:
            if affinity in self.recent:
                self.recent.remove(affinity)
            self.recent.append(affinity)
            del self.recent[: -max(1, self.max_loaded_models)]

    def end(self, key: int, attempt: int) -> None:
        affinity = self.running.pop((key, attempt))
        left = self.in_flight[affinity] - 1
        if left:
            self.in_flight[affinity] = left
        else:
            del self.in_flight[affinity]


class Lane:
    """The waiting tasks of one priority and one affinity, oldest first. Keys that left are skipped lazily."""

    __slots__ = ("heap", "live")

    def __init__(self) -> None:
        self.heap: list[int] = []
        self.live = 0


class Waiting:
    """Every pending task, by priority and affinity. *entries* is the schedule's table, read only."""

    def __init__(self, entries: dict[int, Entry]) -> None:
        self._entries = entries
        self._levels: dict[int, dict[str, Lane]] = {}
        self.count = 0

    def add(self, entry: Entry) -> None:
        """Queue a task that has just become pending, or whose priority changed."""
        level = self._levels.setdefault(entry.state.priority, {})
        lane = level.get(entry.affinity)
        if lane is None:
            lane = level[entry.affinity] = Lane()
        lane.live += 1
        self.count += 1
        heapq.heappush(lane.heap, entry.key)
        if len(lane.heap) > 2 * lane.live + 64:
            keys = {key for key in lane.heap if self._belongs(key, entry.state.priority, entry.affinity)}
            lane.heap = sorted(keys)

    def discard(self, entry: Entry) -> None:
        """Take out a task; call it while `entry.state` still is the pending one."""
        level = self._levels[entry.state.priority]
        lane = level[entry.affinity]
        lane.live -= 1
        self.count -= 1
        if not lane.live:
            del level[entry.affinity]
            if not level:
                del self._levels[entry.state.priority]

    def _belongs(self, key: int, priority: int, affinity: str) -> bool:
        entry = self._entries.get(key)
        return (
            entry is not None
            and entry.state.status is Status.PENDING
            and entry.state.priority == priority
            and entry.affinity == affinity
        )

    def heads(self) -> Iterator[tuple[int, list[tuple[int, str]]]]:
        """Yield (priority, [(oldest key, affinity)…]) from the highest priority down; the heads are not sorted."""
        for priority in sorted(self._levels, reverse=True):
            found = []
            for affinity, lane in self._levels[priority].items():
                heap = lane.heap
                while not self._belongs(heap[0], priority, affinity):
                    heapq.heappop(heap)
                found.append((heap[0], affinity))
            yield priority, found


class Chooser:
    """Applies the rules; remembers who was overtaken and how often."""

    def __init__(self, rules: Rules, waiting: Waiting, entries: dict[int, Entry]) -> None:
        self.rules = rules
        self._waiting = waiting
        self._entries = entries
        self._starts_since_aged = 0
        self._overtaken: tuple[int, int, float] = (0, 0, 0.0)  # key, how often, since when

    def choose(self, host: Host, now: float) -> int | None:
        """Return the key to start next on *host*, which has a free slot; None if nothing may start there."""
        levels = list(self._waiting.heads())
        if not levels:
            return None
        aged = self._aged(levels, host, now)
        if aged is not None:
            if self._starts_since_aged + 1 >= self.rules.starvation_share:
                self._starts_since_aged = 0
                return aged
            self._starts_since_aged += 1
        else:
            self._starts_since_aged = 0
        denied: str | None = None
        for _, heads in levels:
            able = [head for head in heads if host.has_room_for(head[1]) and head[1] != denied]
            key = self._first(heads, able, host, now)
            if key is not None:
                return key
            denied = denied or self._least_used(host)  # whatever waits here was held back by rule 4
        return None

    def _first(
        self, heads: list[tuple[int, str]], able: list[tuple[int, str]], host: Host, now: float
    ) -> int | None:
        """Pick within one priority (rules 1, 2 and 4)."""
        if not able:
            return None
        oldest, affinity = min(heads)
        if (oldest, affinity) in able and host.is_warm(affinity):
            return oldest
        warm = [head for head in able if host.is_warm(head[1])] or able
        if self._may_overtake(oldest, now):
            best = min(warm)[0]
            if best != oldest:
                self._overtaken = (oldest, self._overtaken[1] + 1, self._overtaken[2])
            return best
        if (oldest, affinity) in able:
            return oldest
        victim = self._least_used(host)
        return min((head[0] for head in able if head[1] != victim), default=None)

    def _may_overtake(self, oldest: int, now: float) -> bool:
        key, times, since = self._overtaken
        if key != oldest:
            self._overtaken = (oldest, 0, now)
            times, since = 0, now
        return times < self.rules.affinity_limit and now - since < self.rules.affinity_wait

    def _aged(self, levels: list[tuple[int, list[tuple[int, str]]]], host: Host, now: float) -> int | None:
        if not self.rules.starvation_after or not self.rules.starvation_share:
            return None
        able = [key for _, heads in levels for key, affinity in heads if host.has_room_for(affinity)]
        oldest = min(able, default=None)
        if oldest is None or now - self._since(oldest) < self.rules.starvation_after:
            return None
        return oldest

    def _since(self, key: int) -> float:
        return max(created_at(key), self._entries[key].state.run_at or 0.0)

    @staticmethod
    def _least_used(host: Host) -> str | None:
        return min(host.in_flight, key=lambda name: (host.in_flight[name], name), default=None)
