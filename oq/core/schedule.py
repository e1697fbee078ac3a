"""The schedule: every unfinished task, who runs next, and where. Message in, `Step` out.

A plain object with no async in it. It owns the truth in memory; the journal follows it step by step, so that
`recover` of what is on disk equals it after every step. One table of entries, and three views of it that hold
keys only: `Waiting` (pending), `_due` (scheduled) and what the hosts run.

What a step contains leaves in two ways (see `oq.core.messages.Step`): starts at once, promises after the commit.
"""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Iterable, Sequence
from typing import assert_never

import msgspec

from oq.core.draft import Draft
from oq.core.embedding import entry_of
from oq.core.events import Change, EventType, Notice
from oq.core.guard import FINDINGS
from oq.core.hosts import Host, Hosts
from oq.core.idempotency import IdempotencyKeys
from oq.core.ids import format_id
from oq.core.lifecycle import may_follow
from oq.core.messages import (
    Admit,
    Cancel,
    Delete,
    Drain,
    Finished,
    Inbound,
    Interrupt,
    Keep,
    Pause,
    Probe,
    Probed,
    Reply,
    Reprioritize,
    Resume,
    Retry,
    Run,
    Step,
    Tick,
    WakeAt,
)  # fmt: skip
from oq.core.model import (  # fmt: skip
    ATTEMPTS_KEPT,
    Attempt,
    Entry,
    Failed,
    Interrupted,
    Outcome,
    Recovered,
    Status,
    Succeeded,
    TaskSpec,
    TaskState,
)
from oq.core.retention import Ends, Retention
from oq.core.retry import RetryPolicy
from oq.core.rules import Chooser, Rules, Waiting, next_rider
from oq.core.twins import COPIES, Twins
from oq.errors import IdempotencyConflict, OqError, QueueClosed, QueueFull, TaskConflict, TaskNotFound

_replace = msgspec.structs.replace


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the schedule; times in seconds, 0 for no limit. *embed_batch*: embed tasks of one call, and the bytes of their payloads."""

    max_pending: int = 1_000_000
    max_finished: int = 10_000
    max_finished_age: float = 0.0
    cleanup_interval: float = 3600.0
    embed_batch: int = 1
    embed_batch_bytes: int = 64 * 1024


class Schedule:
    """See the module. *hosts* are the model servers with their slots."""

    def __init__(
        self,
        hosts: Iterable[Host],
        retry: RetryPolicy | None = None,
        rules: Rules | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.hosts = Hosts(hosts)
        self.retry = retry or RetryPolicy()
        self.limits = limits or Limits()
        self.entries: dict[int, Entry] = {}
        self.finished: Ends = {}
        self.paused = False
        self.draining = False
        self.waiting = Waiting(self.entries)
        self.twins = Twins()
        self._chooser = Chooser(rules or Rules(), self.waiting, self.entries)
        self._names = IdempotencyKeys()
        self._due: list[tuple[float, int]] = []  # scheduled tasks; entries that moved on are skipped lazily
        self._retention = Retention(
            self.limits.max_finished, self.limits.max_finished_age, self.limits.cleanup_interval
        )
        self._drain_at = float("inf")
        self._drain_replies: list[Reply] = []
        self._alarm = float("inf")

    # --- start ------------------------------------------------------------------------------------------------
    def recover(self, stored: Recovered, now: float) -> Step:
        """Take over what is on disk. What was running is queued again, its attempt not counted."""
        draft = Draft()
        self.paused = stored.paused
        self.finished = {key: (at, revision) for key, at, revision in stored.finished}
        for text, key, fingerprint in stored.idempotency:
            self._names.remember(text, key, fingerprint)
        for entry in stored.unfinished:
            self.entries[entry.key] = entry
            if entry.state.status is Status.RUNNING:
                self._requeue(
                    draft, entry, now, "interrupted", "the server stopped during this attempt", None
                )
            elif entry.state.status is Status.SCHEDULED:
                heapq.heappush(self._due, (entry.state.run_at or now, entry.key))
            else:
                self._wait(entry)
        self._retention.due = now
        return self._close(draft, now)

    # --- every message ----------------------------------------------------------------------------------------
    def handle(self, message: Inbound, now: float, luck: float = 0.5) -> Step:
        """Return what *message* leads to at wall time *now*; *luck* in 0–1 feeds the retry jitter."""
        draft = Draft()
        if isinstance(message, Tick):
            now = max(now, message.at)  # otherwise rounding could re-arm the same alarm for ever
        if now >= self._alarm:
            self._alarm = float("inf")
        self._promote(draft, now)
        match message:
            case Tick():
                pass
            case Finished():
                self._finished(draft, message, now, luck)
            case Admit():
                self._admit(draft, message, now)
            case Cancel():
                draft.respond(message.reply, tuple(self._cancel(draft, key, now) for key in message.keys))
            case Reprioritize():
                answer = tuple(self._reprioritize(draft, key, message.priority) for key in message.keys)
                draft.respond(message.reply, answer)
            case Retry():
                draft.respond(
                    message.reply, tuple(self._retry(draft, entry, now) for entry in message.entries)
                )
            case Delete():
                draft.respond(message.reply, tuple(self._delete(draft, key) for key in message.keys))
            case Keep():
                draft.documents += message.documents
                draft.respond(message.reply, None)
            case Pause():
                self._switch(draft, True)
                draft.respond(message.reply, None)
            case Resume():
                self._switch(draft, False)
                self._undrain(draft)
                draft.respond(message.reply, None)
            case Drain():
                self._drain(draft, message, now)
            case Probed():
                host = self.hosts[message.host]
                self.hosts.probed(host, message.up, now)
                if message.up:
                    draft.announce(Notice(EventType.HOST_UP, host.name))
            case _:
                assert_never(message)
        return self._close(draft, now)

    def _close(self, draft: Draft, now: float) -> Step:
        """What follows every message: retention, drain, new starts, and the alarm."""
        for key in self._retention.expired(self.finished, now):
            self._forget(draft, key)
        self._interrupt_at_drain_end(draft, now)
        self.hosts.bar(now)
        self._assign(draft, now)
        if self.draining and not self.hosts.busy:
            for reply in self._drain_replies:
                draft.respond(reply, None)
            self._drain_replies = []
        draft.starts += map(Probe, self.hosts.probes(now))
        due = self._next_due()
        if due < self._alarm:
            self._alarm = due
            draft.wake_at = WakeAt(due)
        return draft.step()

    def _next_due(self) -> float:
        while self._due and not self._is_due_entry(*self._due[0]):
            heapq.heappop(self._due)
        return min(
            [self._retention.due, self._drain_at, self.hosts.next_due(), *(item[0] for item in self._due[:1])]
        )

    # --- submission -------------------------------------------------------------------------------------------
    def _admit(self, draft: Draft, message: Admit, now: float) -> None:
        if self.draining:
            draft.respond(
                message.reply,
                QueueClosed(
                    "the queue is draining: it takes no new tasks until `oq resume`, or the next start of its server"
                ),
            )
            return
        if message.atomic:
            error = self._refusal(message.specs)
            if error is not None:
                draft.respond(message.reply, error)
                return
        answers: list[int | OqError] = []
        for key, spec in zip(message.keys, message.specs, strict=True):
            answers.append(self._admit_one(draft, key, spec, now))
        draft.respond(message.reply, tuple(answers))

    def _refusal(self, specs: Sequence[TaskSpec]) -> OqError | None:
        """Return why these cannot all be taken, None if they can."""
        new = 0
        inside: dict[str, bytes] = {}  # idempotency keys that this batch brings
        for spec in specs:
            known = self._names.known(spec)
            if isinstance(known, OqError):
                return known
            name, fingerprint = spec.idempotency_key, spec.fingerprint or b""
            if name is not None and inside.setdefault(name, fingerprint) != fingerprint:
                return IdempotencyConflict(
                    f"the Idempotency-Key {name!r} stands for two different requests in this batch; "
                    "use one key for each request"
                )
            new += known is None and name is None
        new += sum(name not in self._names for name in inside)
        return self._full() if len(self.entries) + new > self.limits.max_pending else None

    def _admit_one(self, draft: Draft, key: int, spec: TaskSpec, now: float) -> int | OqError:
        known = self._names.known(spec)
        if known is not None:
            return known
        if len(self.entries) >= self.limits.max_pending:
            return self._full()
        if spec.run_at is not None and spec.run_at > now:
            state = TaskState(Status.SCHEDULED, spec.priority, run_at=spec.run_at)
            heapq.heappush(self._due, (spec.run_at, key))
        else:
            state = TaskState(Status.PENDING, spec.priority)
        entry = self.entries[key] = entry_of(key, spec, state)
        if state.status is Status.PENDING:
            self._wait(entry)
        if spec.idempotency_key is not None:
            self._names.remember(spec.idempotency_key, key, spec.fingerprint or b"")
        draft.write(key, state, spec)
        draft.tell(EventType.TASK_SUBMITTED, entry)
        return key

    def _full(self) -> OqError:
        return QueueFull(
            f"the queue is full: {len(self.entries)} unfinished tasks (queue.max_pending is "
            f"{self.limits.max_pending}); try again when some are done"
        )

    # --- attempts ---------------------------------------------------------------------------------------------
    def _assign(self, draft: Draft, now: float) -> None:
        """Fill free slots. Only here do tasks start."""
        if self.paused or self.draining or not self.waiting.count:
            return
        for text in self.twins.take_wanted():
            self._copy(draft, text, now)
        hosts = [host for host in self.hosts.values() if host.up]
        started = True
        while started:  # each host again: a start on one may lift what held another back (rule 4)
            started = False
            for host in sorted(hosts, key=lambda host: -host.free):
                key = self._chooser.choose(host, now) if host.free > 0 and self.waiting.count else None
                if key is not None:
                    self._start(draft, self.entries[key], host, now)
                    started = True

    def _start(self, draft: Draft, entry: Entry, host: Host, now: float) -> None:
        refused = tuple(attempt.code for attempt in entry.state.attempts if attempt.code in FINDINGS)
        slots = sum(one.free for one in self.hosts.values() if one.up and one.free > 0)
        number = self._begin(draft, entry, host, now)
        leader = entry.key, number
        host.begin(*leader, entry.affinity)
        self._compute(draft, entry, host, leader, leader, now)
        riders: list[tuple[int, int]] = []
        most = min(self.limits.embed_batch - 1, self.waiting.count // slots)
        room = self.limits.embed_batch_bytes - entry.size
        while len(riders) < most:
            rider = next_rider(self.waiting, self.entries, entry, room)
            if rider is None:
                break
            room -= rider.size
            riders.append((rider.key, self._begin(draft, rider, host, now)))
            host.ride(leader, riders[-1])
            self._compute(draft, rider, host, leader, riders[-1], now)
        run = Run(
            entry.key, number, host.name, entry.type, entry.model, entry.timeout, refused, tuple(riders)
        )
        draft.starts.append(run)

    def _compute(
        self,
        draft: Draft,
        entry: Entry,
        host: Host,
        leader: tuple[int, int],
        attempt: tuple[int, int],
        now: float,
    ) -> None:
        """An attempt has started: who asks for the same starts with it (rule 7). One that failed before is left alone."""
        if entry.text is not None and not entry.state.retry_count:
            self.twins.begin(entry.text, host.name, leader, attempt)
            self._copy(draft, entry.text, now)

    def _copy(self, draft: Draft, text: bytes, now: float) -> None:
        """Start those that ask for what is being computed (rule 7)."""
        for key in self.waiting.alike(text, COPIES):
            found = self.twins.find(text)
            if found is None:
                return
            call, attempt = found
            host = self.hosts[call.host]
            if call.leader in host.stopping:
                return
            twin = key, self._begin(draft, self.entries[key], host, now)
            host.ride(call.leader, twin)
            self.twins.copy(call, attempt, twin)

    def _wait(self, entry: Entry) -> None:
        """A task has become pending."""
        self.waiting.add(entry)
        self.twins.note(entry.text)

    def _begin(self, draft: Draft, entry: Entry, host: Host, now: float) -> int:
        """Make a waiting task a running one and return the attempt's number."""
        self.waiting.discard(entry)
        state = entry.state
        number = state.attempts[-1].number + 1 if state.attempts else 1
        attempt = Attempt(number, host.name, now)
        self._advance(
            entry, Status.RUNNING, host=host.name, started_at=now, run_at=None, finished_at=None,
            attempts=(*state.attempts, attempt)[-ATTEMPTS_KEPT:],
        )  # fmt: skip
        draft.write(entry.key, entry.state)
        draft.tell(EventType.TASK_STARTED, entry)
        return number

    def _finished(self, draft: Draft, message: Finished, now: float, luck: float) -> None:
        host = next(h for h in self.hosts.values() if (message.key, message.attempt) in h.running)
        host.end(message.key, message.attempt)
        copies = self.twins.end((message.key, message.attempt))
        shared = bool(message.riders or copies)
        for key, attempt, outcome in ((message.key, message.attempt, message.outcome), *message.riders):
            if (
                isinstance(outcome, Failed)
                and outcome.unreachable
                and self.hosts.down(host, outcome.error, now)
            ):
                draft.announce(Notice(EventType.HOST_DOWN, host.name, outcome.error))
            for one, number in ((key, attempt), *copies.get((key, attempt), ())):
                entry = self.entries.get(one)
                # Else cancelled in the meantime, perhaps even run again: only the slot was left to free.
                if entry is not None and self._runs(entry, number):
                    self._settle(draft, entry, outcome, now, luck, shared)

    def _settle(
        self, draft: Draft, entry: Entry, outcome: Outcome, now: float, luck: float, shared: bool
    ) -> None:
        match outcome:
            case Succeeded():
                self._end(
                    draft, entry, Status.COMPLETED, now, "succeeded", result=outcome.result,
                    tokens=outcome.tokens, output_start=outcome.output_start, warnings=outcome.warnings,
                )  # fmt: skip
            case Interrupted():
                self._requeue(draft, entry, now, "interrupted", None, None)
            case Failed(unreachable=True):
                self._requeue(draft, entry, now, "unreachable", outcome.error, outcome.code)
            case Failed(elsewhere=True) if len(self.hosts) > 1:
                if self.hosts.may_be_elsewhere(entry, now):
                    self._requeue(draft, entry, now, "not_here", outcome.error, outcome.code)
                else:
                    error = f"{outcome.error} (no other model server has it either)"
                    self._end(draft, entry, Status.FAILED, now, "failed", error, outcome.code)
            case Failed():
                allowed = entry.max_retries
                if outcome.retry_limit is not None:
                    allowed = min(allowed, outcome.retry_limit)
                if shared:  # perhaps by another's fault: it has a try by itself
                    allowed = max(allowed, 1)
                if outcome.retryable and entry.state.retry_count < allowed:
                    self._retry_later(draft, entry, outcome, now, luck)
                else:
                    self._end(
                        draft, entry, Status.FAILED, now, "failed", outcome.error, outcome.code,
                        refusal=outcome.refusal,
                    )  # fmt: skip
            case _:
                assert_never(outcome)

    def _retry_later(self, draft: Draft, entry: Entry, outcome: Failed, now: float, luck: float) -> None:
        due = now + self.retry.delay(entry.state.retry_count + 1, luck)
        self._advance(
            entry, Status.SCHEDULED, run_at=due, retry_count=entry.state.retry_count + 1, error=outcome.error,
            error_code=outcome.code, host=None, refusal=outcome.refusal,
            attempts=_closed(entry.state, now, "failed", outcome.error, outcome.code),
        )  # fmt: skip
        heapq.heappush(self._due, (due, entry.key))
        draft.write(entry.key, entry.state)
        draft.tell(EventType.TASK_RETRYING, entry)

    def _requeue(
        self, draft: Draft, entry: Entry, now: float, outcome: str, error: str | None, code: str | None
    ) -> None:
        """Back to the queue, in its old place; the attempt is recorded and not counted."""
        self._advance(
            entry, Status.PENDING, host=None, error=error, error_code=code,
            attempts=_closed(entry.state, now, outcome, error, code),
        )  # fmt: skip
        self._wait(entry)
        draft.write(entry.key, entry.state)
        draft.tell(EventType.TASK_REQUEUED, entry)

    def _end(
        self, draft: Draft, entry: Entry, status: Status, now: float, outcome: str,
        error: str | None = None, code: str | None = None, result: bytes | None = None, **more: object,
    ) -> None:  # fmt: skip
        attempts = _closed(entry.state, now, outcome, error, code)
        self._advance(
            entry,
            status,
            finished_at=now,
            run_at=None,
            error=error,
            error_code=code,
            attempts=attempts,
            **{"refusal": None, **more},
        )
        del self.entries[entry.key]
        self.finished[entry.key] = (now, entry.state.revision)
        draft.write(entry.key, entry.state, result=result)
        draft.tell(EventType(f"task_{status}"), entry)

    @staticmethod
    def _runs(entry: Entry, attempt: int) -> bool:
        return entry.state.status is Status.RUNNING and entry.state.attempts[-1].number == attempt

    @staticmethod
    def _advance(entry: Entry, status: Status, **fields: object) -> None:
        assert may_follow(entry.state.status, status), f"{entry.state.status} → {status}"
        entry.state = _replace(entry.state, status=status, revision=entry.state.revision + 1, **fields)

    # --- commands ---------------------------------------------------------------------------------------------
    def _cancel(self, draft: Draft, key: int, now: float) -> TaskState | OqError:
        entry = self.entries.get(key)
        if entry is None:
            return self._refuse(key, "cancelled", "it is finished")
        if entry.state.status is Status.RUNNING:
            attempt = entry.state.attempts[-1]
            host = self.hosts[attempt.host]
            stop = host.leave(key, attempt.number)
            if stop is not None:
                self._interrupt(draft, host, *stop)
        elif entry.state.status is Status.PENDING:
            self.waiting.discard(entry)
        self._end(draft, entry, Status.CANCELLED, now, "cancelled", "cancelled", "cancelled")
        return entry.state

    @staticmethod
    def _interrupt(draft: Draft, host: Host, key: int, attempt: int) -> None:
        """Stop an attempt, once: what workers have not read yet stays within three messages a slot."""
        if (key, attempt) not in host.stopping:
            host.stopping.add((key, attempt))
            draft.starts.append(Interrupt(key, attempt))

    def _reprioritize(self, draft: Draft, key: int, priority: int) -> TaskState | OqError:
        entry = self.entries.get(key)
        if entry is None:
            return self._refuse(key, "given another priority", "it is finished")
        if entry.state.status is Status.RUNNING:
            return self._refuse(key, "given another priority", "it is running")
        waits = entry.state.status is Status.PENDING
        if waits:
            self.waiting.discard(entry)
        self._advance(entry, entry.state.status, priority=priority)
        if waits:
            self._wait(entry)
        draft.write(key, entry.state)
        draft.tell(EventType.PRIORITY_UPDATED, entry)
        return entry.state

    def _retry(self, draft: Draft, entry: Entry, now: float) -> TaskState | OqError:
        known = self.finished.get(entry.key)
        if known is None:
            return self._refuse(entry.key, "run again", "it is not finished yet")
        if known[1] != entry.state.revision:
            return self._refuse(entry.key, "run again", "it changed just now")
        if self.draining:
            return QueueClosed(
                "the queue is draining: it starts nothing more until `oq resume`, or the next start of its server"
            )
        if len(self.entries) >= self.limits.max_pending:
            return self._full()
        del self.finished[entry.key]
        self.entries[entry.key] = entry
        self._advance(
            entry, Status.PENDING, retry_count=0, started_at=None, finished_at=None, host=None, error=None,
            error_code=None, refusal=None, tokens=None, output_start="", warnings=(), run_at=now,  # from now on it waits, for rule 3
        )  # fmt: skip
        self._wait(entry)
        draft.write(entry.key, entry.state)
        draft.tell(EventType.TASK_SUBMITTED, entry)
        return entry.state

    def _delete(self, draft: Draft, key: int) -> OqError | None:
        if key not in self.finished:
            return self._refuse(key, "deleted", "it is not finished; cancel it first")
        self._forget(draft, key)
        return None

    def _forget(self, draft: Draft, key: int) -> None:
        del self.finished[key]
        self._names.forget(key)
        draft.writes.pop(key, None)
        draft.deletes.append(key)
        draft.announce(Change(EventType.TASK_DELETED, key))

    def _refuse(self, key: int, what: str, why: str) -> OqError:
        if key in self.entries or key in self.finished:
            return TaskConflict(f"task {format_id(key)} cannot be {what}: {why}")
        return TaskNotFound(f"there is no task {format_id(key)}; it may have been deleted or cleaned up")

    # --- the queue as a whole ---------------------------------------------------------------------------------
    def _switch(self, draft: Draft, paused: bool) -> None:
        if paused != self.paused:
            self.paused = draft.paused = paused
            draft.announce(Notice(EventType.QUEUE_PAUSED if paused else EventType.QUEUE_RESUMED))

    def _drain(self, draft: Draft, message: Drain, now: float) -> None:
        if not self.draining:
            draft.announce(Notice(EventType.QUEUE_DRAINING))
        self.draining = True
        self._drain_at = min(self._drain_at, now + message.grace)
        self._drain_replies.append(message.reply)

    def _undrain(self, draft: Draft) -> None:
        if self.draining:
            self.draining, self._drain_at = False, float("inf")
            for reply in self._drain_replies:
                draft.respond(reply, None)
            self._drain_replies = []
            draft.announce(Notice(EventType.QUEUE_RESUMED))

    def _interrupt_at_drain_end(self, draft: Draft, now: float) -> None:
        if now < self._drain_at:
            return
        self._drain_at = float("inf")
        for host in self.hosts.values():
            for key, attempt in host.running:
                self._interrupt(draft, host, key, attempt)

    # --- what is due ------------------------------------------------------------------------------------------
    def _is_due_entry(self, at: float, key: int) -> bool:
        entry = self.entries.get(key)
        return (
            entry is not None and entry.state.status is Status.SCHEDULED and (entry.state.run_at or at) == at
        )

    def _promote(self, draft: Draft, now: float) -> None:
        """Move what is due from scheduled to pending."""
        while self._due and (self._due[0][0] <= now or not self._is_due_entry(*self._due[0])):
            at, key = heapq.heappop(self._due)
            if self._is_due_entry(at, key):
                entry = self.entries[key]
                self._advance(entry, Status.PENDING)
                self._wait(entry)
                draft.write(key, entry.state)


def _closed(
    state: TaskState, now: float, outcome: str, error: str | None, code: str | None
) -> tuple[Attempt, ...]:
    """Return the attempts of *state*, the last one ended if it was still running."""
    if not state.attempts or state.attempts[-1].finished_at is not None:
        return state.attempts
    last = _replace(state.attempts[-1], finished_at=now, outcome=outcome, error=error, code=code)
    return (*state.attempts[:-1], last)
