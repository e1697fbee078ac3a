"""The model servers as the schedule sees them: what runs where, who is down, and who lacks which model. No I/O."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable

from oq.core.model import Entry

ABSENT_SECONDS = 60.0  # a model that was pulled meanwhile is found after this time at the latest
ABSENT_KEPT = 256  # models a host is known not to have; of one forgotten it is asked again
PROBE_SECONDS = (
    0.5  # between two looks at a host that is down: it is back in use within a second of its return
)


@dataclasses.dataclass(slots=True)
class Host:
    """One model server as the schedule sees it. `running` maps (key, attempt) to the affinity in flight."""

    name: str
    slots: int
    max_loaded_models: int = 0  # 0: no limit
    up: bool = True
    probe_at: float | None = None
    error: str | None = None  # why it is down
    running: dict[tuple[int, int], str] = dataclasses.field(default_factory=dict)
    stopping: set[tuple[int, int]] = dataclasses.field(default_factory=set)  # of those, interrupted already
    in_flight: dict[str, int] = dataclasses.field(default_factory=dict)
    recent: list[str] = dataclasses.field(default_factory=list)  # affinities lately run here, newest last
    absent: dict[str, float] = dataclasses.field(
        default_factory=dict
    )  # model → when it said it has it not; in order
    barred: frozenset[str] = frozenset()  # of those, models that gain from going elsewhere (rule 5)
    # Of attempts that others ride with: who still waits for it, itself included; and the way back.
    crews: dict[tuple[int, int], set[tuple[int, int]]] = dataclasses.field(default_factory=dict)
    riders: dict[tuple[int, int], tuple[int, int]] = dataclasses.field(default_factory=dict)

    @property
    def free(self) -> int:
        return self.slots - len(self.running)

    @property
    def takes_another_model(self) -> bool:
        return not 0 < self.max_loaded_models <= len(self.in_flight)

    def is_warm(self, affinity: str) -> bool:
        return affinity in self.recent

    def lacks(self, model: str, now: float) -> bool:
        """Return whether it said so lately."""
        said_at = self.absent.get(model)
        return said_at is not None and now < said_at + ABSENT_SECONDS

    def note_absent(self, model: str, now: float) -> None:
        self.absent.pop(model, None)
        self.absent[model] = now
        if len(self.absent) > ABSENT_KEPT:
            del self.absent[next(iter(self.absent))]

    def begin(self, key: int, attempt: int, affinity: str) -> None:
        self.running[key, attempt] = affinity
        self.in_flight[affinity] = self.in_flight.get(affinity, 0) + 1
        if not self.recent or self.recent[-1] != affinity:
            if affinity in self.recent:
                self.recent.remove(affinity)
            self.recent.append(affinity)
            del self.recent[: -max(1, self.max_loaded_models)]

    def ride(self, leader: tuple[int, int], rider: tuple[int, int]) -> None:
        """An attempt shares the slot and the fate of a running one."""
        self.crews.setdefault(leader, {leader}).add(rider)
        self.riders[rider] = leader

    def leave(self, key: int, attempt: int) -> tuple[int, int] | None:
        """An attempt's task is gone. Return the running attempt to stop: the one it is or rode with, if that is nobody's now."""
        leader = self.riders.get((key, attempt), (key, attempt))
        crew = self.crews.get(leader)
        if crew is None:
            return leader
        crew.discard((key, attempt))
        return None if crew else leader

    def end(self, key: int, attempt: int) -> None:
        affinity = self.running.pop((key, attempt))
        if self.crews.pop((key, attempt), None) is not None:
            self.riders = {rider: leader for rider, leader in self.riders.items() if leader != (key, attempt)}
        self.stopping.discard((key, attempt))
        left = self.in_flight[affinity] - 1
        if left:
            self.in_flight[affinity] = left
        else:
            del self.in_flight[affinity]


class Hosts(dict[str, Host]):
    """All of them by name."""

    def __init__(self, hosts: Iterable[Host]) -> None:
        super().__init__((host.name, host) for host in hosts)
        self._bar_at = math.inf  # when rule 5 keeps other models from other hosts than now

    @property
    def busy(self) -> bool:
        return any(host.running for host in self.values())

    def next_due(self) -> float:
        """Return when to look again: for `probes` or for `bar`."""
        probes = (host.probe_at for host in self.values() if host.probe_at is not None)
        return min(self._bar_at, min(probes, default=math.inf))

    # --- outages ----------------------------------------------------------------------------------------------
    def down(self, host: Host, why: str, now: float) -> bool:
        """Note that it cannot be reached; return whether that is news."""
        if not host.up:
            return False
        host.up, host.error = False, why
        host.probe_at = now + PROBE_SECONDS
        return True

    def probed(self, host: Host, up: bool, now: float) -> None:
        """Note what a probe found."""
        if up:
            host.up, host.error = True, None
        else:
            host.probe_at = now + PROBE_SECONDS

    def probes(self, now: float) -> list[str]:
        """Return the hosts to look at now, each once."""
        due = [host for host in self.values() if host.probe_at is not None and host.probe_at <= now]
        for host in due:
            host.probe_at = None
        return [host.name for host in due]

    # --- rule 5 -----------------------------------------------------------------------------------------------
    def may_be_elsewhere(self, entry: Entry, now: float) -> bool:
        """Note that the host of this attempt lacks the model; return whether there is one that may have it.

        Not one that said otherwise since the task began to look: to this task itself, or to another.
        """
        self._bar_at = now
        here = self[entry.state.attempts[-1].host]
        here.note_absent(entry.model, now)
        told, since = {here.name}, now
        for attempt in reversed(entry.state.attempts):
            if attempt.outcome in ("failed", "cancelled", "succeeded"):
                break  # it looked before that for another reason
            since = attempt.started_at
            if attempt.outcome == "not_here":
                told.add(attempt.host)
        left = [
            host
            for host in self.values()
            if host.name not in told
            and not (host.lacks(entry.model, now) and host.absent[entry.model] >= since)
        ]
        for host in left:
            host.absent.pop(entry.model, None)  # what it said before is too old to fail a task
        return bool(left)

    def bar(self, now: float) -> None:
        """Keep models from hosts that lack them, where there is another host; see `Host.barred`."""
        if now < self._bar_at:
            return
        hosts = self.values()
        for host in hosts:
            host.absent = {model: at for model, at in host.absent.items() if host.lacks(model, now)}
        for host in hosts:
            host.barred = frozenset(
                model for model in host.absent if any(model not in other.absent for other in hosts)
            )
        said = [at for host in hosts for at in host.absent.values()]
        self._bar_at = min(said, default=math.inf) + ABSENT_SECONDS
