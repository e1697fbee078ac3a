"""A schedule with a disk, workers as slow as can be, and an oracle that checks every promise after each step.

`World` is what the state machine (random walks) and the exploration (all walks, small) have in common. The disk is a
dict that takes over each step's writes at once. Workers read what the scheduler started only when told to, so that
starts pile up as they would behind a slow worker; an attempt ends only after its `Run` was read.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cache
from itertools import chain, repeat
from typing import Any

import msgspec

from oq.core.embedding import entry_of
from oq.core.hosts import PROBE_SECONDS
from oq.core.ids import EPOCH, IdSource, created_at
from oq.core.lifecycle import TRANSITIONS
from oq.core.messages import (
    Admit,
    Announce,
    Cancel,
    Delete,
    Drain,
    Finished,
    Inbound,
    Interrupt,
    Pause,
    Probe,
    Probed,
    Reprioritize,
    Respond,
    Resume,
    Retry,
    Run,
    Step,
    Tick,
    WakeAt,
)  # fmt: skip
from oq.core.model import Failed, Outcome, Status, TaskSpec, TaskState  # fmt: skip
from oq.errors import OqError

from .promises import Asked, Promises, Seat, Shape, Stored

BEGIN = EPOCH + 1_000_000.0


class World(Promises):
    """See the module."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.now = BEGIN
        self.ids = IdSource(1)
        self.disk: dict[int, Stored] = {}
        self.ended: set[int] = set()  # the finished keys
        self.paused = False
        self._start()

    def _start(self) -> None:
        self.schedule = self.shape.schedule()
        self.seats = {name: Seat(slots, loaded) for name, slots, loaded in self.shape.hosts}
        self.unread: list[Run | Interrupt | Probe] = []
        self.active: set[tuple[int, int]] = set()  # attempts whose Run the workers have read
        self.stopping: set[tuple[int, int]] = set()  # attempts whose Interrupt they have read
        self.interrupted: set[tuple[int, int]] = set()  # attempts that were sent an Interrupt
        self.probing: set[str] = set()
        self.alarm = math.inf
        self.draining = False
        self.drain_at = math.inf
        self.drains: list[Asked] = []
        self.passed_over: dict[
            tuple[str, int], tuple[int, int, float]
        ] = {}  # (host, priority) → head, how often, since
        self.starts_since_jump = 10**9
        self.computed: dict[bytes, tuple[tuple[int, int], tuple[int, int]]] = {}
        before = dict(self.disk)
        step = self.schedule.recover(self.stored(), self.now)
        self._apply(step, before)

    # --- what may happen -------------------------------------------------------------------------------------------
    def submit(self, specs: Iterable[TaskSpec], *, atomic: bool = False) -> Any:
        specs = tuple(specs)
        keys: list[int] = []
        while len(keys) < len(specs):
            keys.extend(self.ids.take(len(specs) - len(keys), self.now))
        before = dict(self.disk)
        answer = self._ask(lambda reply: Admit(tuple(keys), specs, reply, atomic))
        self.check_admission(before, keys, specs, atomic, answer)
        return answer

    def cancel(self, *keys: int) -> Any:
        before = {key: self.disk[key].state.status for key in keys if key in self.disk}
        answers = self._ask(lambda reply: Cancel(keys, reply))
        for key, answer in zip(keys, answers, strict=True):
            if isinstance(answer, OqError):
                assert key not in before or before[key].finished or keys.count(key) > 1
            else:
                assert answer.status is Status.CANCELLED
                assert not before[key].finished
        return answers

    def reprioritize(self, key: int, priority: int) -> Any:
        (answer,) = self._ask(lambda reply: Reprioritize((key,), priority, reply))
        if key in self.disk and isinstance(answer, TaskState):
            assert self.disk[key].state.priority == priority
        return answer

    def retry(self, key: int) -> Any:
        stored = self.disk[key]
        entry = entry_of(key, stored.spec, stored.state)
        (answer,) = self._ask(lambda reply: Retry((entry,), reply), retried={key})
        return answer

    def delete(self, key: int) -> Any:
        before = self.disk.get(key)
        (answer,) = self._ask(lambda reply: Delete((key,), reply), deleted={key})
        if before is not None and before.state.status.finished:
            assert answer is None
            assert key not in self.disk
        else:
            assert isinstance(answer, OqError)
        return answer

    def pause(self) -> None:
        self._ask(Pause)
        assert self.paused

    def resume(self) -> None:
        self.draining, self.drain_at = False, math.inf
        self._ask(Resume)
        assert not self.paused
        assert not self.drains, "the end of a drain answers those who wait for it"

    def drain(self, grace: float) -> None:
        self.draining = True
        self.drain_at = min(self.drain_at, self.now + grace)
        reply = Asked()
        self.drains.append(reply)
        self._handle(Drain(grace, reply))

    def read(self) -> None:
        """The workers take the oldest of what was started."""
        match self.unread.pop(0):
            case Run(key=key, attempt=attempt):
                self.active.add((key, attempt))
            case Interrupt(key=key, attempt=attempt):
                if (key, attempt) in self.active:
                    self.stopping.add((key, attempt))
            case Probe(host=host):
                self.probing.add(host)

    def finish(
        self, key: int, attempt: int, outcome: Outcome, luck: float = 0.5, others: Iterable[Outcome] = ()
    ) -> None:
        """An attempt ends; one that was interrupted may still end in any way.

        *others* are the outcomes of those that ride with it, as many as there are; where they end, all that follow end
        as it does itself.
        """
        seat = next(seat for seat in self.seats.values() if (key, attempt) in seat.held)
        _, *everybody = self.members((key, attempt))
        riders = [member for member in everybody if member not in seat.copies]
        ends = dict(zip(riders, chain(others, repeat(outcome)), strict=False))
        told = tuple((*rider, one) for rider, one in ends.items())
        every: dict[tuple[int, int], Outcome] = {}
        for member, one in {(key, attempt): outcome, **ends}.items():
            twins = [twin for twin in everybody if seat.copies.get(twin) == member]
            every |= dict.fromkeys([member, *twins], one)
        seat.copies = {twin: member for twin, member in seat.copies.items() if twin not in every}
        self.computed = {text: place for text, place in self.computed.items() if place[0] != (key, attempt)}
        self.active.remove((key, attempt))
        self.stopping.discard((key, attempt))
        del seat.held[key, attempt]
        seat.crews.pop((key, attempt), None)
        self.interrupted.discard((key, attempt))
        gone = any(isinstance(one, Failed) and one.unreachable for one in every.values())
        if gone and seat.up:
            seat.up, seat.probe_at = False, self.now + PROBE_SECONDS
        before = dict(self.disk)
        left = {}
        for member, one in every.items():
            if isinstance(one, Failed) and one.elsewhere and len(self.seats) > 1 and self.wants(member):
                task = before[member[0]]
                left[member] = self.left_to_ask(task.state.attempts[-1].host, task)
        self._handle(Finished(key, attempt, outcome, told), luck)
        for member, one in every.items():
            self.check_outcome(
                before.get(member[0]), *member, one, luck, left.get(member, False), len(every) > 1
            )

    def answer_probe(self, host: str, up: bool) -> None:
        self.probing.remove(host)
        if up:
            self.seats[host].up = True
        else:
            self.seats[host].probe_at = self.now + PROBE_SECONDS
        self._handle(Probed(host, up))

    def pass_time(self, seconds: float) -> None:
        self.now += seconds

    def ring(self) -> None:
        """The alarm rings, at its time or later."""
        assert self.alarm < math.inf
        at, self.alarm = self.alarm, math.inf
        self.now = max(self.now, at)
        self._handle(Tick(at))

    def crash(self) -> None:
        """Everything but the disk is gone; start again."""
        self._start()

    # --- one step ---------------------------------------------------------------------------------------------------
    def _ask(self, make: Callable[[Asked], Inbound], **allowed: set[int]) -> Any:
        reply = Asked()
        self._handle(make(reply), **allowed)
        assert len(reply.answers) == 1, "a request was not answered"
        return reply.answers[0]

    def _handle(
        self,
        message: Inbound,
        luck: float = 0.5,
        retried: frozenset[int] | set[int] = frozenset(),
        deleted: frozenset[int] | set[int] = frozenset(),
    ) -> None:
        before = dict(self.disk)
        step = self.schedule.handle(message, self.now, luck)
        self._apply(step, before, retried, deleted)

    def _apply(
        self,
        step: Step,
        before: dict[int, Stored],
        retried: frozenset[int] | set[int] = frozenset(),
        deleted: frozenset[int] | set[int] = frozenset(),
    ) -> None:
        self._write(step, retried)
        self._delete(step, deleted)
        if step.paused is not None:
            self.paused = step.paused
        for effect in step.effects:
            match effect:
                case Respond():
                    effect.reply.send_nowait(effect.answer)
                case WakeAt():
                    self.alarm = effect.at
                case Announce():
                    pass
        self.drains = [reply for reply in self.drains if not reply.answers]
        self._starts(step, before, retried)
        self.check_events(step, before)
        self.check()

    def _write(self, step: Step, retried: frozenset[int] | set[int]) -> None:
        assert len({write.key for write in step.writes}) == len(step.writes), (
            "two writes of one task in a step"
        )
        for write in step.writes:
            stored, status = self.disk.get(write.key), write.state.status
            if stored is None:
                assert write.spec is not None, "a state without its request"
                assert led(None, status, write.state.revision), "not a way to begin"
                self.disk[write.key] = Stored(write.spec, write.state)
            else:
                assert write.spec is None, "a request is written once"
                was = stored.state
                rise = write.state.revision - was.revision
                assert rise > 0, "a revision only grows"
                assert led(was.status, status, rise), f"{was.status} → {status} in {rise} steps"
                if was.status.finished:
                    assert write.key in retried, "a finished task came back by itself"
                self.disk[write.key] = Stored(stored.spec, write.state, write.result)
            assert (write.result is not None) == (status is Status.COMPLETED)
            if status.finished:
                self.ended.add(write.key)
            else:
                self.ended.discard(write.key)

    def _delete(self, step: Step, deleted: frozenset[int] | set[int]) -> None:
        limits = self.shape.limits
        left = self.ended | set(step.deletes)  # with those that end in this very step: they are not written
        for key in step.deletes:
            if key not in deleted:
                ends = {
                    other: self.disk[other].state.finished_at or 0.0 if other in self.ended else self.now
                    for other in left
                }
                old = limits.max_finished_age and self.now - ends[key] >= limits.max_finished_age
                many = limits.max_finished and len(left) > limits.max_finished
                assert old or many, "forgotten without need"
                assert ends[key] == min(ends.values()), "what ended longest ago goes first"
            left.discard(key)
            # a task that ended in this very step was never written as such
            assert key in self.ended or key not in {write.key for write in step.writes}
            del self.disk[key]
            self.ended.discard(key)

    def _starts(self, step: Step, before: dict[int, Stored], retried: frozenset[int] | set[int]) -> None:
        runs = [start for start in step.starts if isinstance(start, Run)]
        waiting = {key for key, task in self.disk.items() if task.state.status is Status.PENDING}
        waiting |= {run.key for run in runs} | {key for run in runs for key, _ in run.riders}

        def since(key: int) -> float:
            if key in retried:
                return self.now
            due = before[key].state.run_at if key in before else None
            return max(created_at(key), due or 0.0)

        accounted = {
            member for seat in self.seats.values() for one in seat.held for member in self.members(one)
        }
        alone = {(run.key, run.attempt) for run in runs} | {rider for run in runs for rider in run.riders}
        copied = {  # started with a call, without a place in it; before that they waited as the others did
            write.key
            for write in step.writes
            if write.state.status is Status.RUNNING
            and (write.key, write.state.attempts[-1].number) not in alone
            and not self.is_computed(self.text(write.key) or b"")
        }
        for start in step.starts:
            match start:
                case Run():
                    copied = {key for key in copied if not self.is_computed(self.text(key) or b"")}
                    assert self.gathers_until(waiting | copied, since) <= self.now, "it was to wait for more"
                    self.check_start(start, waiting, since)
                    waiting -= {start.key, *(key for key, _ in start.riders)}
                    accounted |= {(start.key, start.attempt), *start.riders}
                case Interrupt():
                    attempt = start.key, start.attempt
                    assert attempt not in self.interrupted, "one attempt was interrupted twice"
                    assert any(attempt in seat.held for seat in self.seats.values()), "nothing to interrupt"
                    over = self.draining and self.now >= self.drain_at
                    assert over or not any(map(self.wants, self.members(attempt))), "somebody waits for it"
                    self.interrupted.add(attempt)
                case Probe():
                    seat = self.seats[start.host]
                    assert not seat.up
                    assert self.now >= seat.probe_at
                    seat.probe_at = math.inf
            self.unread.append(start)
        for write in step.writes:
            state = write.state
            if state.status is Status.RUNNING and (write.key, state.attempts[-1].number) not in accounted:
                self.check_copy(write.key)


@cache
def led(before: Status | None, after: Status, steps: int) -> bool:
    """Return whether *steps* rows of `lifecycle.TRANSITIONS` lead from *before* to *after*."""
    if steps == 1:
        return after in TRANSITIONS[before]
    return any(led(between, after, steps - 1) for between in TRANSITIONS[before])


def spec(model: str = "a", priority: int = 5, **fields: Any) -> TaskSpec:
    """A small task."""
    return msgspec.structs.replace(
        TaskSpec("generate", model, b'{"prompt": "x"}', priority=priority), **fields
    )


def embed(model: str = "a", priority: int = 5, text: str = "x", **fields: Any) -> TaskSpec:
    """A small task that may share a call with others of its kind."""
    payload = b'{"input": "%b"}' % text.encode()
    return msgspec.structs.replace(TaskSpec("embed", model, payload, priority=priority), **fields)
