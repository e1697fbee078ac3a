"""Who goes next, and where. The only file to edit to change the order.

Rule 1  A higher priority starts first; within one priority, the oldest first.
Rule 2  Among equals, a task whose model is warm on the host may overtake the oldest one: at most
        `affinity_limit` times and for at most `affinity_wait` seconds per overtaken head. Swapping models costs
        Ollama seconds; 12 requests that alternate between two models took 9.5 s, grouped 2.9 s.
Rule 3  Nobody starves: while a task has waited longer than `starvation_after`, one start in `starvation_share`
        goes to the one that has waited longest, whatever its priority; of each priority, the oldest counts.
Rule 4  A host never has more than `max_loaded_models` different models in flight: a further one would wait inside
        Ollama behind all of them, out of our sight. A task that only this rule holds back makes the least used
        model on the host run dry, as soon as a lower priority or the bounds of rule 2 would overtake it.
Rule 5  A host that said it does not have a model gets no task of it for `oq.core.hosts.ABSENT_SECONDS`, while another host may have
        it. For that host those tasks do not exist: the rules above look past them.
Rule 6  An embed task that starts takes along those that rule 1 names next, while they are of its group
        (`oq.core.embedding`): one call, one slot. So none is overtaken by it. It takes no more than its share of the free slots, except under rule 8.
Rule 7  An embed task that asks for the same as one that runs takes no slot: it starts at once and gets that one's answer
        (`oq.core.twins`). One that has failed before runs by itself.
Rule 8  While all that waits would go as one call (rule 6), and that call has room, it waits for more: until its oldest task has
        waited `embed_wait` seconds. So nobody else waits for it, and with 0 nobody at all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from oq.core.hosts import Host
from oq.core.ids import created_at
from oq.core.lanes import Lanes, Level
from oq.core.model import Entry


@dataclasses.dataclass(frozen=True, slots=True)
class Rules:
    """The bounds of the rules above; times in seconds. 0 switches a rule off, for rule 6 it is an `embed_batch` of 1.

    *embed_batch* are the tasks of one call, *embed_batch_bytes* the bytes of their payloads.
    """

    affinity_limit: int = 16
    affinity_wait: float = 10.0
    starvation_after: float = 600.0
    starvation_share: int = 10
    embed_batch: int = 1
    embed_batch_bytes: int = 64 * 1024
    embed_wait: float = 0.0


class Chooser:
    """Applies the rules; remembers who was overtaken and how often."""

    def __init__(self, rules: Rules, waiting: Lanes, entries: dict[int, Entry]) -> None:
        self.rules = rules
        self._waiting = waiting
        self._entries = entries
        self._starts_since_aged = 0
        self._overtaken: dict[
            tuple[str, int], tuple[int, int, float]
        ] = {}  # see `_View.name`; key, how often, since

    def choose(self, host: Host, now: float) -> int | None:
        """Return the key to start next on *host*, which has a free slot; None if nothing may start there."""
        view = _View(host, self._waiting.levels(), self._entries)
        if not view.levels:
            return None
        aged = self._aged(view, now)
        if aged is None:
            self._starts_since_aged = 0
        elif self._starts_since_aged + 1 >= self.rules.starvation_share:
            self._starts_since_aged = 0
            return aged
        key = self._highest(view, now)
        if aged is not None and key is not None:
            self._starts_since_aged += 1
        return key

    def _highest(self, view: _View, now: float) -> int | None:
        """Pick from the highest priority that may start (rules 1, 2 and 4)."""
        for number, (level, oldest, affinity) in enumerate(view.levels):
            if number == 1 and view.only is not None:  # the level above was held back by rule 4
                view.only = [name for name in view.only if name != view.victim]
            key = self._first(view, level, oldest, affinity, now)
            if key is not None:
                return key
        return None

    def _first(self, view: _View, level: Level, oldest: int, affinity: str, now: float) -> int | None:
        """Pick within one priority (rules 1, 2 and 4)."""
        only = view.only
        able = None if only is None else view.oldest_of(level, only)
        if only is not None and able is None:
            return None
        may_start = only is None or affinity in only
        if may_start and view.host.is_warm(affinity):
            return oldest
        priority = self._entries[oldest].state.priority
        if self._may_overtake(view, priority, oldest, now):
            warm = view.oldest_of(level, (name for name in view.host.recent if only is None or name in only))
            best = warm if warm is not None else able if able is not None else oldest
            if best != oldest:
                _, times, since = self._overtaken[view.name, priority]
                self._overtaken[view.name, priority] = (oldest, times + 1, since)
            return best
        if may_start:
            return oldest
        return view.oldest_of(level, (name for name in only or () if name != view.victim))

    def _may_overtake(self, view: _View, priority: int, oldest: int, now: float) -> bool:
        key, times, since = self._overtaken.get((view.name, priority), (0, 0, now))
        if key != oldest:
            self._overtaken[view.name, priority] = (oldest, 0, now)
            times, since = 0, now
        return times < self.rules.affinity_limit and now - since < self.rules.affinity_wait

    def _aged(self, view: _View, now: float) -> int | None:
        if not self.rules.starvation_after or not self.rules.starvation_share:
            return None
        only = view.only
        found = [oldest if only is None else view.oldest_of(level, only) for level, oldest, _ in view.levels]
        able = [key for key in found if key is not None]
        longest = min(able, key=lambda key: (self._since(key), key), default=None)
        if longest is None or now - self._since(longest) < self.rules.starvation_after:
            return None
        return longest

    def _since(self, key: int) -> float:
        return _waits_since(self._entries[key])


class _View:
    """What waits, as one host sees it: without what rule 5 keeps from it.

    Attributes:
        name: under which it is counted who was overtaken: hosts that see everything count together.
        levels: those that have something for the host, with the oldest key and its affinity.
        only: where the host takes no further model, those in flight: only their tasks may start (rule 4).
        victim: the least used model in flight.
    """

    def __init__(self, host: Host, levels: list[Level], entries: dict[int, Entry]) -> None:
        self.host = host
        self._entries = entries
        self.name = host.name if host.barred else ""
        may = self._may if host.barred else None
        self.levels = [(level, *found) for level in levels if (found := level.oldest(may)) is not None]
        self.only = None if host.takes_another_model else list(host.in_flight)
        self.victim = min(host.in_flight, key=lambda name: (host.in_flight[name], name), default=None)

    def _may(self, key: int) -> bool:
        return self._entries[key].model not in self.host.barred

    def oldest_of(self, level: Level, affinities: Iterable[str]) -> int | None:
        keys = [key for name in affinities if (key := level.oldest_of(name)) is not None and self._may(key)]
        return min(keys, default=None)


def next_rider(waiting: Lanes, entries: dict[int, Entry], leader: Entry, room: int) -> Entry | None:
    """Return the task that rides next with *leader* (rule 6), where *room* bytes are left. One that has failed before goes alone."""
    if not _may_share(leader) or not waiting.count:
        return None
    found = waiting.levels()[0].oldest()
    if found is None:
        return None
    entry = entries[found[0]]
    return entry if _may_ride(entry, leader) and entry.size <= room else None


def gathers_until(rules: Rules, waiting: Lanes, entries: dict[int, Entry], now: float) -> float:
    """Return until when what waits is left to become a larger call (rule 8); 0 where it is not."""
    if not rules.embed_wait or not 0 < waiting.count < rules.embed_batch:
        return 0.0
    level = waiting.levels()[0]
    found = level.oldest()
    if found is None or level.lanes[found[1]].live < waiting.count:
        return 0.0  # another priority or model waits
    leader, everybody = entries[found[0]], [entries[key] for key in level.keys_of(found[1])]
    one_call = _may_share(leader) and all(_may_ride(entry, leader) for entry in everybody)
    if not one_call or sum(entry.size for entry in everybody) >= rules.embed_batch_bytes:
        return 0.0
    since = _waits_since(leader)
    return since + rules.embed_wait if since <= now else 0.0  # later than now: the clock was set back


def _may_share(leader: Entry) -> bool:
    return leader.group is not None and not leader.state.retry_count


def _may_ride(entry: Entry, leader: Entry) -> bool:
    return (
        entry.affinity == leader.affinity
        and entry.group == leader.group
        and entry.state.priority == leader.state.priority
        and entry.timeout == leader.timeout
        and not entry.state.retry_count
    )


def _waits_since(entry: Entry) -> float:
    return max(created_at(entry.key), entry.state.run_at or 0.0)
