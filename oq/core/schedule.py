"""The schedule: every unfinished task, who runs next, and where. Message in, `Step` out.

A plain object with no async in it. It owns the truth in memory; the journal follows it step by step, so that
`recover` of what is on disk equals it after every step. Here each message becomes what is done to the tasks (`Table`),
to the attempts that run (`Attempts`), and to the queue as a whole.

What a step contains leaves in two ways (see `oq.core.messages.Step`): starts at once, promises after the commit.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import assert_never

from oq.core.attempts import Attempts
from oq.core.draft import Draft
from oq.core.events import EventType, Notice
from oq.core.hosts import Host, Hosts
from oq.core.messages import (
    Admit,
    Cancel,
    Delete,
    Drain,
    Finished,
    Inbound,
    Keep,
    Pause,
    Probe,
    Probed,
    Reply,
    Reprioritize,
    Resume,
    Retry,
    Step,
    Tick,
    WakeAt,
)  # fmt: skip
from oq.core.model import Entry, Recovered, Status, TaskSpec, TaskState
from oq.core.retention import Retention
from oq.core.retry import RetryPolicy
from oq.core.rules import Rules
from oq.core.table import Table
from oq.errors import IdempotencyConflict, OqError, QueueClosed, QueueFull


@dataclasses.dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the schedule; times in seconds, 0 for no limit."""

    max_pending: int = 1_000_000
    max_finished: int = 10_000
    max_finished_age: float = 0.0
    cleanup_interval: float = 3600.0


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
        self.limits = limits or Limits()
        self.paused = False
        self.draining = False
        self._table = Table()
        self.entries, self.finished, self.waiting = (
            self._table.entries,
            self._table.finished,
            self._table.waiting,
        )
        self._retry_policy = retry or RetryPolicy()
        self._attempts = Attempts(self._table, self.hosts, self._retry_policy, rules or Rules())
        self._retention = Retention(
            self.limits.max_finished, self.limits.max_finished_age, self.limits.cleanup_interval
        )
        self._drain_at = math.inf
        self._drain_replies: list[Reply] = []
        self._alarm = math.inf
        self.gathers_until = math.inf  # when the call that free slots wait with is to go (rule 8)

    # --- start ------------------------------------------------------------------------------------------------
    def recover(self, stored: Recovered, now: float) -> Step:
        """Take over what is on disk. What was running is queued again, its attempt not counted."""
        draft = Draft()
        self.paused = stored.paused
        self.finished.update((key, (at, revision)) for key, at, revision in stored.finished)
        for text, key, fingerprint in stored.idempotency:
            self._table.names.remember(text, key, fingerprint)
        for entry in stored.unfinished:
            self._table.recover(draft, entry, now, self._retry_policy.max_delay)
        self._retention.due = now
        return self._close(draft, now)

    # --- every message ----------------------------------------------------------------------------------------
    def handle(self, message: Inbound, now: float, luck: float = 0.5) -> Step:
        """Return what *message* leads to at wall time *now*; *luck* in 0–1 feeds the retry jitter."""
        draft = Draft()
        if isinstance(message, Tick):
            now = max(now, message.at)  # otherwise rounding could re-arm the same alarm for ever
        if now >= self._alarm:
            self._alarm = math.inf
        self._table.promote(draft, now)
        match message:
            case Tick():
                pass
            case Finished():
                self._attempts.finished(draft, message, now, luck)
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
            self._table.forget(draft, key)
        if now >= self._drain_at:
            self._drain_at = math.inf
            self._attempts.interrupt(draft)
        self.hosts.bar(now)
        self.gathers_until = math.inf
        if not (self.paused or self.draining):
            self.gathers_until = self._attempts.assign(draft, now)
        if self.draining and not self.hosts.busy:
            for reply in self._drain_replies:
                draft.respond(reply, None)
            self._drain_replies = []
        draft.starts += map(Probe, self.hosts.probes(now))
        due = min(
            self._retention.due,
            self._drain_at,
            self.hosts.next_due(),
            self._table.next_due(),
            self.gathers_until,
        )
        if due < self._alarm:
            self._alarm = due
            draft.wake_at = WakeAt(due)
        return draft.step()

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
            known = self._table.names.known(spec)
            if isinstance(known, OqError):
                return known
            name, fingerprint = spec.idempotency_key, spec.fingerprint or b""
            if name is not None and inside.setdefault(name, fingerprint) != fingerprint:
                return IdempotencyConflict(
                    f"the Idempotency-Key {name!r} stands for two different requests in this batch; "
                    "use one key for each request"
                )
            new += known is None and name is None
        new += sum(name not in self._table.names for name in inside)
        return self._full() if len(self.entries) + new > self.limits.max_pending else None

    def _admit_one(self, draft: Draft, key: int, spec: TaskSpec, now: float) -> int | OqError:
        known = self._table.names.known(spec)
        if known is not None:
            return known
        if len(self.entries) >= self.limits.max_pending:
            return self._full()
        self._table.add(draft, key, spec, now)
        return key

    def _full(self) -> OqError:
        return QueueFull(
            f"the queue is full: {len(self.entries)} unfinished tasks (queue.max_pending is "
            f"{self.limits.max_pending}); try again when some are done"
        )

    # --- commands ---------------------------------------------------------------------------------------------
    def _cancel(self, draft: Draft, key: int, now: float) -> TaskState | OqError:
        entry = self.entries.get(key)
        if entry is None:
            return self._table.refusal(key, "cancelled", "it is finished")
        if entry.state.status is Status.RUNNING:
            self._attempts.leave(draft, entry)
        elif entry.state.status is Status.PENDING:
            self.waiting.discard(entry)
        self._table.end(draft, entry, Status.CANCELLED, now, "cancelled", "cancelled", "cancelled")
        return entry.state

    def _reprioritize(self, draft: Draft, key: int, priority: int) -> TaskState | OqError:
        entry = self.entries.get(key)
        if entry is None:
            return self._table.refusal(key, "given another priority", "it is finished")
        if entry.state.status is Status.RUNNING:
            return self._table.refusal(key, "given another priority", "it is running")
        self._table.reprioritize(draft, entry, priority)
        return entry.state

    def _retry(self, draft: Draft, entry: Entry, now: float) -> TaskState | OqError:
        known = self.finished.get(entry.key)
        if known is None:
            return self._table.refusal(entry.key, "run again", "it is not finished yet")
        if known[1] != entry.state.revision:
            return self._table.refusal(entry.key, "run again", "it changed just now")
        if self.draining:
            return QueueClosed(
                "the queue is draining: it starts nothing more until `oq resume`, or the next start of its server"
            )
        if len(self.entries) >= self.limits.max_pending:
            return self._full()
        self._table.run_again(draft, entry, now)
        return entry.state

    def _delete(self, draft: Draft, key: int) -> OqError | None:
        if key not in self.finished:
            return self._table.refusal(key, "deleted", "it is not finished; cancel it first")
        self._table.forget(draft, key)
        return None

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
            self.draining, self._drain_at = False, math.inf
            for reply in self._drain_replies:
                draft.respond(reply, None)
            self._drain_replies = []
            draft.announce(Notice(EventType.QUEUE_RESUMED))
