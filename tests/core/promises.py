"""What the schedule promises, checked against a disk and workers that `world` moves.

`Promises` sees what a caller, the disk and the workers see. It keeps its own account of who holds which slot and of
what is due, and asks the schedule only to compare.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

from oq.core.embedding import entry_of, likeness
from oq.core.events import Change, EventType
from oq.core.hosts import ABSENT_SECONDS, Host
from oq.core.ids import created_at
from oq.core.messages import (
    Announce,
    Probe,
    Run,
    Start,
    Step,
)  # fmt: skip
from oq.core.model import (  # fmt: skip
    Failed,
    Interrupted,
    Outcome,
    Recovered,
    Status,
    Succeeded,
    TaskSpec,
    TaskState,
    affinity,
)
from oq.core.retry import RetryPolicy
from oq.core.rules import Rules
from oq.core.schedule import Limits, Schedule
from oq.core.twins import COPIES
from oq.errors import IdempotencyConflict, OqError, QueueClosed, QueueFull

ENDS = {Status.COMPLETED, Status.FAILED, Status.CANCELLED}


class Asked:
    """The reply channel of one request: takes exactly one answer."""

    def __init__(self) -> None:
        self.answers: list[Any] = []

    def send_nowait(self, value: Any, /) -> None:
        assert not self.answers, "a request was answered twice"
        self.answers.append(value)


class Stored(NamedTuple):
    """A task as the disk has it."""

    spec: TaskSpec
    state: TaskState
    result: bytes | None = None


Member = tuple[int, int]  # a task's key and its attempt


@dataclasses.dataclass
class Seat:
    """What the oracle knows of a host: the attempts that hold a slot, and the affinities lately started there."""

    slots: int
    max_loaded_models: int
    held: dict[tuple[int, int], str] = dataclasses.field(default_factory=dict)
    recent: list[str] = dataclasses.field(default_factory=list)
    crews: dict[Member, tuple[Member, ...]] = dataclasses.field(default_factory=dict)  # who rides with whom
    copies: dict[Member, Member] = dataclasses.field(default_factory=dict)  # of those, who gets whose outcome
    up: bool = True
    probe_at: float = math.inf
    absent: dict[str, float] = dataclasses.field(default_factory=dict)  # model → when it was said to lack it

    def loaded(self) -> dict[str, int]:
        names = list(self.held.values())
        return {name: names.count(name) for name in names}

    def takes(self, name: str) -> bool:
        loaded = self.loaded()
        return not self.max_loaded_models or name in loaded or len(loaded) < self.max_loaded_models

    def least_used(self) -> str | None:
        loaded = self.loaded()
        return min(loaded, key=lambda name: (loaded[name], name), default=None)

    def start(self, key: int, attempt: int, name: str) -> None:
        self.held[key, attempt] = name
        self.recent = [*(other for other in self.recent if other != name), name]
        self.recent = self.recent[-max(1, self.max_loaded_models) :]


@dataclasses.dataclass(frozen=True)
class Shape:
    """How a world is made; kept so that a crash can make the schedule anew."""

    hosts: tuple[tuple[str, int, int], ...] = (("h1", 1, 1), ("h2", 1, 1))
    retry: RetryPolicy = dataclasses.field(default_factory=RetryPolicy)
    rules: Rules = dataclasses.field(default_factory=Rules)
    limits: Limits = dataclasses.field(default_factory=Limits)

    def schedule(self) -> Schedule:
        hosts = [Host(name, slots, loaded) for name, slots, loaded in self.hosts]
        return Schedule(hosts, self.retry, self.rules, self.limits)


class Promises:
    """See the module. `World` changes these fields; the checks are called after each step."""

    shape: Shape
    now: float
    schedule: Schedule
    disk: dict[int, Stored]
    ended: set[int]  # the finished keys
    paused: bool
    seats: dict[str, Seat]
    unread: list[Start]  # what the workers have not read yet
    interrupted: set[tuple[int, int]]  # attempts that were sent an Interrupt
    alarm: float
    draining: bool
    drain_at: float
    drains: list[Asked]  # not answered yet
    computed: dict[bytes, tuple[Member, Member]]  # what is asked → the call that computes it, and who in it
    passed_over: dict[
        tuple[str, int], tuple[int, int, float]
    ]  # (host, priority) → head, how often, since when
    starts_since_jump: int

    def stored(self) -> Recovered:
        """What a journal would hand over at a start."""
        unfinished, finished, idempotency = [], [], []
        for key in sorted(self.disk):
            task = self.disk[key]
            if task.spec.idempotency_key is not None:
                idempotency.append((task.spec.idempotency_key, key, task.spec.fingerprint or b""))
            if not task.state.status.finished:
                unfinished.append(entry_of(key, task.spec, task.state))
        for key in sorted(self.ended, key=lambda key: (self.disk[key].state.finished_at or 0.0, key)):
            state = self.disk[key].state
            finished.append((key, state.finished_at or 0.0, state.revision))
        return Recovered(unfinished, finished, max(self.disk, default=0), self.paused, idempotency)

    def check_start(self, run: Run, waiting: set[int], since: Callable[[int], float]) -> None:
        """Slots are never exceeded, and nothing that waits outranks what starts, within the rules' bounds."""
        assert not self.paused, "paused, but something starts"
        assert not self.draining, "draining, but something starts"
        seat = self.seats[run.host]
        assert seat.up, "a start on a host that is down"
        assert len(seat.held) < seat.slots, "more attempts than slots"
        state, name = self.disk[run.key].state, self.affinity(run.key)
        assert state.status is Status.RUNNING
        assert (state.attempts[-1].number, state.attempts[-1].host) == (run.attempt, run.host)
        assert state.attempts[-1].finished_at is None
        assert run.key in waiting
        assert not self.barred(run.host, run.key), "another host may have the model that this one lacks"
        assert seat.takes(name), "more models in flight than the host may load"
        visible = {key for key in waiting if not self.barred(run.host, key)}
        self._check_rank(run.key, name, state.priority, run.host, visible, since)
        seat.start(run.key, run.attempt, name)
        if run.riders:
            seat.crews[run.key, run.attempt] = run.riders
        assert len(run.riders) < self.shape.rules.embed_batch
        leader = run.key, run.attempt
        members = [leader, *run.riders]
        if run.riders:
            size = sum(len(self.disk[key].spec.payload) for key, _ in members)
            assert size <= self.shape.rules.embed_batch_bytes
        for member in members:
            text = self.text(member[0])
            if text is not None and not self.disk[member[0]].state.retry_count:
                assert not self.is_computed(text), "the same is computed twice"
                self.computed[text] = leader, member
        left = waiting - {run.key}
        for rider in run.riders:
            self._check_rider(run, rider, left)
            left.remove(rider[0])

    def _check_rider(self, run: Run, rider: Member, waiting: set[int]) -> None:
        """What rides along is what rule 1 names next, and of the same kind."""
        key, number = rider
        leader, task = self.disk[run.key], self.disk[key]
        assert task.state.status is Status.RUNNING
        attempt = task.state.attempts[-1]
        assert (attempt.number, attempt.host, attempt.finished_at) == (number, run.host, None)
        assert key in waiting
        highest = max(self.disk[other].state.priority for other in waiting)
        assert key == min(o for o in waiting if self.disk[o].state.priority == highest), "a rider overtook"
        assert task.state.priority == leader.state.priority
        assert task.spec.timeout == leader.spec.timeout
        assert likeness(task.spec).group == likeness(leader.spec).group is not None
        assert not task.state.retry_count
        assert not leader.state.retry_count

    def gathers_until(self, waiting: set[int], since: Callable[[int], float]) -> float:
        """Return until when a free slot waits for more embed tasks (rule 8), 0 where it does not: *waiting* is one small call."""
        rules = self.shape.rules
        tasks = [self.disk[key] for key in waiting]
        if not rules.embed_wait or not 0 < len(waiting) < rules.embed_batch:
            return 0.0
        if any(task.state.retry_count for task in tasks):
            return 0.0
        if {likeness(task.spec).group for task in tasks} & {None}:
            return 0.0
        kinds = {
            (affinity(task.spec), likeness(task.spec).group, task.state.priority, task.spec.timeout)
            for task in tasks
        }
        size = sum(len(task.spec.payload) for task in tasks)
        if len(kinds) > 1 or size >= rules.embed_batch_bytes:
            return 0.0
        began = since(min(waiting))
        return began + rules.embed_wait if began <= self.now else 0.0

    def text(self, key: int) -> bytes | None:
        return likeness(self.disk[key].spec).text

    def is_computed(self, text: bytes) -> bool:
        """Whether a call computes that, is not being stopped, and takes more along."""
        if text not in self.computed:
            return False
        leader, _ = self.computed[text]
        copies = [
            twin for seat in self.seats.values() for twin in seat.crews.get(leader, ()) if twin in seat.copies
        ]
        return leader not in self.interrupted and len(copies) < COPIES

    def check_copy(self, key: int) -> None:
        """A task runs without a slot: only because a running one asks for the same."""
        assert not self.paused, "paused, but something starts"
        assert not self.draining, "draining, but something starts"
        state, text = self.disk[key].state, self.text(key)
        assert text is not None
        assert not state.retry_count, "it failed before and goes alone"
        assert self.is_computed(text), "nobody computes that"
        leader, member = self.computed[text]
        seat = next(seat for seat in self.seats.values() if leader in seat.held)
        assert self.seats[state.attempts[-1].host] is seat
        twin = key, state.attempts[-1].number
        seat.crews[leader] = (*seat.crews.get(leader, ()), twin)
        seat.copies[twin] = member

    def members(self, leader: Member) -> tuple[Member, ...]:
        """Return an attempt that holds a slot and those that ride with it."""
        seat = next(seat for seat in self.seats.values() if leader in seat.held)
        return (leader, *seat.crews.get(leader, ()))

    def wants(self, member: Member) -> bool:
        """Whether the task of an attempt still waits for it."""
        task = self.disk.get(member[0])
        return (
            task is not None
            and task.state.status is Status.RUNNING
            and task.state.attempts[-1].number == member[1]
        )

    def _check_rank(
        self, key: int, name: str, priority: int, host: str, waiting: set[int], since: Callable[[int], float]
    ) -> None:
        seat = self.seats[host]
        view = host if any(self.bars(host, model) for model in seat.absent) else ""
        rules = self.shape.rules
        able = {other for other in waiting if seat.takes(self.affinity(other))}
        higher = {other for other in waiting if self.disk[other].state.priority > priority}
        equal = {other for other in waiting if self.disk[other].state.priority == priority}
        oldest = min(equal)
        self.starts_since_jump += 1
        may_jump = self._may_jump(key, able, since)
        driest = seat.least_used()  # rule 4: must run dry while somebody is held back
        free = {other for other in able if not higher or self.affinity(other) != driest}
        if not higher & able and key in free:  # rule 1
            if key == oldest:
                return
            assert self.affinity(oldest) != name, "overtaken by its own kind"
            head, times, first = self.passed_over.get((view, priority), (0, 0, 0.0))
            if head != oldest:
                times, first = 0, self.now
            older = {self.affinity(other) for other in equal & free if other < key}
            if times < rules.affinity_limit and self.now - first < rules.affinity_wait:  # rule 2
                if may_jump:
                    return  # perhaps by rule 3, and then not counted
                assert name in seat.recent or not older, "a cold task overtook"
                assert not older & set(seat.recent), "the older one is warm"
                self.passed_over[view, priority] = (oldest, times + 1, first)
                return
            if oldest not in free and name != driest:  # rule 4, once the bounds of rule 2 are reached
                return
        assert may_jump, f"{key} outranked others that wait"
        assert self.starts_since_jump >= rules.starvation_share, "jumped too often"
        self.starts_since_jump = 0

    def _may_jump(self, key: int, able: set[int], since: Callable[[int], float]) -> bool:
        """Whether *key* has waited longest of the oldest of each priority, and long enough for rule 3."""
        rules = self.shape.rules
        if not rules.starvation_after or not rules.starvation_share:
            return False
        levels: dict[int, int] = {}  # the oldest of each priority
        for other in sorted(able, reverse=True):
            levels[self.disk[other].state.priority] = other
        longest = min(map(since, levels.values()))
        return key in levels.values() and since(key) <= longest <= self.now - rules.starvation_after

    def lacks(self, host: str, model: str) -> bool:
        said_at = self.seats[host].absent.get(model)
        return said_at is not None and self.now < said_at + ABSENT_SECONDS

    def bars(self, host: str, model: str) -> bool:
        """Whether tasks of *model* are kept from *host*, since another one may have it (rule 5)."""
        return self.lacks(host, model) and not all(self.lacks(other, model) for other in self.seats)

    def barred(self, host: str, key: int) -> bool:
        return self.bars(host, self.disk[key].spec.model)

    def affinity(self, key: int) -> str:
        return affinity(self.disk[key].spec)

    def check_events(self, step: Step, before: dict[int, Stored]) -> None:
        """Each end of a task is told once, and each event agrees with the disk."""
        told = [what for effect in step.effects if isinstance(effect, Announce) for what in effect.happenings]
        changes = [what for what in told if isinstance(what, Change)]
        for key, task in self.disk.items():
            was = before[key].state.status if key in before else None
            ends = [c for c in changes if c.key == key and c.type in {f"task_{status}" for status in ENDS}]
            if task.state.status.finished and was is not task.state.status:
                assert [end.type for end in ends] == [f"task_{task.state.status}"]
                assert ends[0].state == task.state
            else:
                assert not ends
        gone = [change.key for change in changes if change.type is EventType.TASK_DELETED]
        assert sorted(gone) == sorted(step.deletes)

    # --- what holds after every step ------------------------------------------------------------------------------
    def check(self) -> None:
        self.no_slot_idles_while_work_waits_that_may_start()
        self.disk_equals_memory()
        self.a_start_from_the_disk_equals_memory()
        self.the_alarm_is_not_later_than_what_is_due()
        self.unread_starts_fit_the_channel()
        self.what_lost_its_task_is_interrupted()
        self.limits_hold()
        self.nobody_waits_for_what_is_computed()
        if self.draining and not any(seat.held for seat in self.seats.values()):
            assert not self.drains, "nothing runs, but the drain is not answered"

    def no_slot_idles_while_work_waits_that_may_start(self) -> None:
        if self.paused or self.draining:
            return
        waiting = [key for key, task in self.disk.items() if task.state.status is Status.PENDING]
        if self.now < self.gathers_until(set(waiting), self.waits_since):
            return
        for name, seat in self.seats.items():
            if not seat.up or len(seat.held) >= seat.slots:
                continue
            visible = [key for key in waiting if not self.barred(name, key)]
            for key in visible:
                if not seat.takes(self.affinity(key)):
                    continue
                priority = self.disk[key].state.priority
                held_back = any(
                    not seat.takes(self.affinity(other)) and self.disk[other].state.priority >= priority
                    for other in visible
                )
                dry = held_back and self.affinity(key) == seat.least_used()
                assert dry, f"{name} idles while {key} waits"

    def waits_since(self, key: int) -> float:
        return max(created_at(key), self.disk[key].state.run_at or 0.0)

    def disk_equals_memory(self) -> None:
        memory = {key: entry.state for key, entry in self.schedule.entries.items()}
        assert memory == {key: task.state for key, task in self.disk.items() if key not in self.ended}
        finished = {
            key: (self.disk[key].state.finished_at, self.disk[key].state.revision) for key in self.ended
        }
        assert self.schedule.finished == finished
        times = [at for at, _ in self.schedule.finished.values()]
        assert times == sorted(times), "what ended longest ago comes first"
        assert self.schedule.paused == self.paused
        assert self.schedule.waiting.count == sum(state.status is Status.PENDING for state in memory.values())
        for name, seat in self.seats.items():
            host = self.schedule.hosts[name]
            assert (host.running, host.up) == (seat.held, seat.up)
            crews = {leader: set(filter(self.wants, self.members(leader))) for leader in seat.crews}
            assert host.crews == crews
            assert host.riders == {rider: lead for lead, riders in seat.crews.items() for rider in riders}

    def a_start_from_the_disk_equals_memory(self) -> None:
        """`recover` of the disk is this schedule with the running ones queued again."""
        fresh = Schedule([Host(name, 0) for name in self.seats], limits=Limits(max_finished=0))
        fresh.recover(self.stored(), self.now)
        assert fresh.finished == self.schedule.finished
        assert fresh.paused == self.paused
        assert fresh.entries.keys() == self.schedule.entries.keys()
        for key, entry in self.schedule.entries.items():
            again, state = fresh.entries[key], entry.state
            if state.status is Status.RUNNING:
                assert again.state.status is Status.PENDING
                assert again.state.retry_count == state.retry_count, "a crash counts as no retry"
                assert again.state.attempts[-1].outcome == "interrupted"
                assert again.state.revision == state.revision + 1
            else:
                assert again == entry

    def the_alarm_is_not_later_than_what_is_due(self) -> None:
        due = [
            task.state.run_at or 0.0 for task in self.disk.values() if task.state.status is Status.SCHEDULED
        ]
        due += [seat.probe_at for seat in self.seats.values()]
        if not (self.paused or self.draining) and any(
            seat.up and len(seat.held) < seat.slots for seat in self.seats.values()
        ):
            waiting = {key for key, task in self.disk.items() if task.state.status is Status.PENDING}
            until = self.gathers_until(waiting, self.waits_since)
            due += [until] * (until > self.now)
        due += [
            seat.absent[model] + ABSENT_SECONDS
            for host, seat in self.seats.items()
            for model in seat.absent
            if self.bars(host, model)
        ]
        overdue = {
            attempt
            for seat in self.seats.values()
            for attempt in seat.held
            if attempt not in self.interrupted
        }
        if overdue:
            assert self.now < self.drain_at, "the grace is over, but an attempt was not interrupted"
            due.append(self.drain_at)
        assert self.alarm <= min(due, default=math.inf), "nobody will wake up in time"

    def unread_starts_fit_the_channel(self) -> None:
        """At most three unread starts per slot, and one probe per host."""
        probes = [start.host for start in self.unread if isinstance(start, Probe)]
        assert len(set(probes)) == len(probes)
        slots = sum(seat.slots for seat in self.seats.values())
        assert len(self.unread) - len(probes) <= 3 * slots, "more than three unread starts per slot"

    def what_lost_its_task_is_interrupted(self) -> None:
        for seat in self.seats.values():
            for leader in seat.held:
                if not any(map(self.wants, self.members(leader))):
                    assert leader in self.interrupted, "an attempt nobody waits for runs on"

    def limits_hold(self) -> None:
        limits = self.shape.limits
        if limits.max_finished:
            assert len(self.ended) <= limits.max_finished + min(100, limits.max_finished // 10)
        for task in self.disk.values():
            most = task.spec.max_retries if task.spec.type != "embed" else max(task.spec.max_retries, 1)
            assert task.state.retry_count <= most
            numbers = [attempt.number for attempt in task.state.attempts]
            assert numbers == sorted(set(numbers)), "an attempt's number is used once"

    def nobody_waits_for_what_is_computed(self) -> None:
        if self.paused or self.draining:
            return
        for key, task in self.disk.items():
            if task.state.status is Status.PENDING and not task.state.retry_count:
                text = self.text(key)
                assert text is None or not self.is_computed(text), f"{key} waits for what is being computed"

    def left_to_ask(self, host: str, task: Stored) -> bool:
        """Note that *host* lacks the model of *task*, which runs there; return whether another one may have it."""
        model, attempts = task.spec.model, task.state.attempts
        ended = [
            n for n, attempt in enumerate(attempts) if attempt.outcome in ("failed", "cancelled", "succeeded")
        ]
        trail = attempts[ended[-1] + 1 :] if ended else attempts
        told = {attempt.host for attempt in trail if attempt.outcome == "not_here"} | {host}
        left = set()
        for name, seat in self.seats.items():
            said_since = self.lacks(name, model) and seat.absent[model] >= trail[0].started_at
            if name not in told and not said_since:
                seat.absent.pop(model, None)
                left.add(name)
        self.seats[host].absent[model] = self.now
        return bool(left)

    # --- what one message must lead to ----------------------------------------------------------------------------
    def check_outcome(
        self,
        before: Stored | None,
        key: int,
        attempt: int,
        outcome: Outcome,
        luck: float,
        left: bool,
        shared: bool,
    ) -> None:
        """*left*: whether a host is left that may have the model, when this one has not; *shared*: with other tasks."""
        if (
            before is None
            or before.state.status is not Status.RUNNING
            or before.state.attempts[-1].number != attempt
        ):
            return  # stale: `_write` has seen that nothing finished came back
        was = before.state
        task = self.disk.get(key)
        if task is None:
            return  # ended, and forgotten at once
        record = next(a for a in task.state.attempts if a.number == attempt)
        assert record.finished_at == self.now
        match outcome:
            case Succeeded(result=result):
                assert (task.state.status, task.result) == (Status.COMPLETED, result)
                assert record.outcome == "succeeded"
            case Failed(unreachable=True) | Interrupted():
                assert task.state.status in (Status.PENDING, Status.RUNNING)
                assert task.state.retry_count == was.retry_count, "not the task's fault"
                assert record.outcome == (
                    "interrupted" if isinstance(outcome, Interrupted) else "unreachable"
                )
            case Failed(elsewhere=True) if len(self.seats) > 1 and left:
                assert task.state.status in (Status.PENDING, Status.RUNNING)
                assert task.state.retry_count == was.retry_count, "not the task's fault"
                assert record.outcome == "not_here"
            case Failed(retryable=retryable, retry_limit=limit):
                most = task.spec.max_retries if limit is None else min(limit, task.spec.max_retries)
                if shared:
                    most = max(most, 1)
                assert record.outcome == "failed"
                if retryable and was.retry_count < most:
                    assert task.state.status is Status.SCHEDULED
                    assert task.state.retry_count == was.retry_count + 1
                    assert task.state.run_at == self.now + self.shape.retry.delay(
                        was.retry_count + 1, luck, outcome.retry_after
                    )
                else:
                    assert task.state.status is Status.FAILED
                    assert task.state.error_code == outcome.code
                    assert task.state.error is not None
                    assert task.state.error.startswith(outcome.error)

    def check_admission(
        self,
        before: dict[int, Stored],
        keys: list[int],
        specs: tuple[TaskSpec, ...],
        atomic: bool,
        answer: Any,
    ) -> None:
        new = [key for key in keys if key in self.disk]
        if isinstance(answer, OqError):
            assert atomic or self.draining
            assert not new, "refused as a whole, but in part taken"
            assert isinstance(answer, QueueClosed | QueueFull | IdempotencyConflict)
            return
        assert not self.draining
        assert len(answer) == len(specs)
        known = {t.spec.idempotency_key: (k, t.spec.fingerprint) for k, t in before.items()}
        room = self.shape.limits.max_pending - sum(not t.state.status.finished for t in before.values())
        for key, spec, found in zip(keys, specs, answer, strict=True):
            name = spec.idempotency_key
            if name is not None and name in known:
                first, fingerprint = known[name]
                if fingerprint != spec.fingerprint:
                    assert isinstance(found, IdempotencyConflict)
                    assert not atomic
                else:
                    assert found == first, "a repeat is the task it repeats"
            elif room <= 0:
                assert isinstance(found, QueueFull)
                assert not atomic
            else:
                assert found == key
                assert key in self.disk
                room -= 1
                if name is not None:
                    known[name] = (key, spec.fingerprint)
