"""Every task that the schedule knows, and how one moves from one status to the next.

One table of entries, and views of it that hold keys only: `Lanes` (pending), `_due` (scheduled), `Twins`. A move
changes entry and views together, and puts what is to be written and told into the draft.
"""

from __future__ import annotations

import heapq
import math

import msgspec

from oq.core.draft import Draft
from oq.core.embedding import entry_of
from oq.core.events import Change, EventType
from oq.core.idempotency import IdempotencyKeys
from oq.core.ids import format_id
from oq.core.lanes import Lanes
from oq.core.lifecycle import may_follow
from oq.core.model import ATTEMPTS_KEPT, Attempt, Entry, Failed, Status, TaskSpec, TaskState
from oq.core.retention import Ends
from oq.core.twins import Twins
from oq.errors import OqError, TaskConflict, TaskNotFound

PROMOTED_PER_STEP = 2000  # so that no commit gets long when many have the same time

_replace = msgspec.structs.replace


class Table:
    """See the module.

    Attributes:
        entries: the unfinished tasks by key.
        finished: of each finished one, when it ended, and its revision then.
    """

    def __init__(self) -> None:
        self.entries: dict[int, Entry] = {}
        self.finished: Ends = {}
        self.waiting = Lanes(self.entries)
        self.twins = Twins()
        self.names = IdempotencyKeys()
        self._due: list[tuple[float, int]] = []  # scheduled tasks; entries that moved on are skipped lazily

    def recover(self, draft: Draft, entry: Entry, now: float, longest: float) -> None:
        """Take over an unfinished task as it is on disk. A running one is queued again, its attempt not counted.

        A retry comes in *longest* seconds at most: its time may be of a clock that was wrong, or of other settings.
        """
        self.entries[entry.key] = entry
        if entry.state.status is Status.RUNNING:
            self.requeue(draft, entry, now, "interrupted", "the server stopped during this attempt", None)
        elif entry.state.status is Status.SCHEDULED:
            if entry.state.retry_count and (entry.state.run_at or now) > now + longest:
                self._advance(entry, Status.SCHEDULED, run_at=now + longest)
                draft.write(entry.key, entry.state)
            heapq.heappush(self._due, (entry.state.run_at or now, entry.key))
        else:
            self._wait(entry)

    # --- to come and to go ------------------------------------------------------------------------------------
    def add(self, draft: Draft, key: int, spec: TaskSpec, now: float) -> None:
        if spec.run_at is not None and spec.run_at > now:
            state = TaskState(Status.SCHEDULED, spec.priority, run_at=spec.run_at)
            heapq.heappush(self._due, (spec.run_at, key))
        else:
            state = TaskState(Status.PENDING, spec.priority)
        entry = self.entries[key] = entry_of(key, spec, state)
        if state.status is Status.PENDING:
            self._wait(entry)
        if spec.idempotency_key is not None:
            self.names.remember(spec.idempotency_key, key, spec.fingerprint or b"")
        draft.write(key, state, spec)
        draft.tell(EventType.TASK_SUBMITTED, entry)

    def forget(self, draft: Draft, key: int) -> None:
        del self.finished[key]
        self.names.forget(key)
        draft.writes.pop(key, None)
        draft.deletes.append(key)
        draft.announce(Change(EventType.TASK_DELETED, key))

    def refusal(self, key: int, what: str, why: str) -> OqError:
        if key in self.entries or key in self.finished:
            return TaskConflict(f"task {format_id(key)} cannot be {what}: {why}")
        return TaskNotFound(f"there is no task {format_id(key)}; it may have been deleted or cleaned up")

    # --- to wait ----------------------------------------------------------------------------------------------
    def _wait(self, entry: Entry) -> None:
        """A task has become pending."""
        self.waiting.add(entry)
        self.twins.note(entry.text)

    def next_due(self) -> float:
        """Return when the next scheduled task is due; infinity if there is none."""
        while self._due and not self._is_due_entry(*self._due[0]):
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else math.inf

    def promote(self, draft: Draft, now: float) -> None:
        """Move what is due from scheduled to pending, a slice of it at most: `next_due` stays in the past then."""
        moved = 0
        while self._due and (self._due[0][0] <= now or not self._is_due_entry(*self._due[0])):
            if moved == PROMOTED_PER_STEP:
                break
            at, key = heapq.heappop(self._due)
            if self._is_due_entry(at, key):
                moved += 1
                entry = self.entries[key]
                self._advance(entry, Status.PENDING)
                self._wait(entry)
                draft.write(key, entry.state)

    def _is_due_entry(self, at: float, key: int) -> bool:
        entry = self.entries.get(key)
        return (
            entry is not None and entry.state.status is Status.SCHEDULED and (entry.state.run_at or at) == at
        )

    def reprioritize(self, draft: Draft, entry: Entry, priority: int) -> None:
        waits = entry.state.status is Status.PENDING
        if waits:
            self.waiting.discard(entry)
        self._advance(entry, entry.state.status, priority=priority)
        if waits:
            self._wait(entry)
        draft.write(entry.key, entry.state)
        draft.tell(EventType.PRIORITY_UPDATED, entry)

    def run_again(self, draft: Draft, entry: Entry, now: float) -> None:
        """A finished task, as it is on disk, is pending once more."""
        del self.finished[entry.key]
        self.entries[entry.key] = entry
        self._advance(
            entry, Status.PENDING, retry_count=0, started_at=None, finished_at=None, host=None, error=None,
            error_code=None, refusal=None, tokens=None, output_start="", warnings=(), run_at=now,  # from now on it waits, for rule 3
        )  # fmt: skip
        self._wait(entry)
        draft.write(entry.key, entry.state)
        draft.tell(EventType.TASK_SUBMITTED, entry)

    # --- attempts ---------------------------------------------------------------------------------------------
    def begin(self, draft: Draft, entry: Entry, host: str, now: float) -> int:
        """Make a waiting task a running one and return the attempt's number."""
        self.waiting.discard(entry)
        state = entry.state
        number = state.attempts[-1].number + 1 if state.attempts else 1
        attempt = Attempt(number, host, now)
        self._advance(
            entry, Status.RUNNING, host=host, started_at=now, run_at=None, finished_at=None,
            attempts=(*state.attempts, attempt)[-ATTEMPTS_KEPT:],
        )  # fmt: skip
        draft.write(entry.key, entry.state)
        draft.tell(EventType.TASK_STARTED, entry)
        return number

    def retry_later(self, draft: Draft, entry: Entry, outcome: Failed, now: float, due: float) -> None:
        self._advance(
            entry, Status.SCHEDULED, run_at=due, retry_count=entry.state.retry_count + 1, error=outcome.error,
            error_code=outcome.code, host=None, refusal=outcome.refusal,
            attempts=_closed(entry.state, now, "failed", outcome.error, outcome.code),
        )  # fmt: skip
        heapq.heappush(self._due, (due, entry.key))
        draft.write(entry.key, entry.state)
        draft.tell(EventType.TASK_RETRYING, entry)

    def requeue(
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

    def end(
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
    def runs(entry: Entry, attempt: int) -> bool:
        return entry.state.status is Status.RUNNING and entry.state.attempts[-1].number == attempt

    @staticmethod
    def _advance(entry: Entry, status: Status, **fields: object) -> None:
        assert may_follow(entry.state.status, status), f"{entry.state.status} → {status}"
        entry.state = _replace(entry.state, status=status, revision=entry.state.revision + 1, **fields)


def _closed(
    state: TaskState, now: float, outcome: str, error: str | None, code: str | None
) -> tuple[Attempt, ...]:
    """Return the attempts of *state*, the last one ended if it was still running."""
    if not state.attempts or state.attempts[-1].finished_at is not None:
        return state.attempts
    last = _replace(state.attempts[-1], finished_at=now, outcome=outcome, error=error, code=code)
    return (*state.attempts[:-1], last)
