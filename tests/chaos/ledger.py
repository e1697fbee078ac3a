"""What the server has acknowledged, and the rules that hold for it whatever happened since.

Rule 1. An acknowledged task is there, once; one whose submit was never answered, at most once.
Rule 2. A revision that was seen does not go back, and does not change.
Rule 3. What was seen finished, or whose cancel was acknowledged, is asked of the model no more, unless it is retried.
Rule 4. A deleted task stays deleted.
Rule 5. Attempts are numbered 1, 2, 3, all but the last are closed, and retry_count counts the failed ones since the
        last retry by hand: kills and interrupted attempts do not count.
Rule 6. Nothing starts before it is due, and a due time does not move: that of a submit, and that of a retry.
Rule 7. Every attempt that the store calls succeeded or failed was seen by the model server in that life; what the
        model server saw and the store does not know can only be what a kill tore away from its commit.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from oq.wire.scalars import parse_time
from tests.chaos.model import Asked

FINISHED = ("completed", "failed", "cancelled")
EARLY_SECONDS = 0.05  # two clocks of one machine: a server takes its offset to the wall clock once
RETRY_FIRST, RETRY_MOST, JITTER = 1.0, 3.0, 0.1  # seconds, and a share of them: the settings in `life`
TORN = 3  # attempts of one task that a kill may tear away: those of the last, uncommitted instants of a life

LISTED = (
    "id",
    "status",
    "priority",
    "run_at",
    "retry_count",
    "error",
    "completed_at",
)  # what a list tells of a task

Json = dict[str, Any]


class Broken(AssertionError):
    """A promise was broken."""


@dataclass
class Known:
    """What is known of one task. Only its own client and, while no client runs, the campaign change it."""

    marker: str
    key: str
    body: Json
    due: float | None = None
    id: str | None = None
    seen: Json | None = None
    finished: Json | None = None  # as it was seen finished; None again once it is retried
    cancelled: bool = False  # acknowledged, and not retried since
    settled_life: int | None = None  # the life in which it was seen finished, or its cancel acknowledged
    retrying: bool = False  # a retry was asked for and not seen yet
    retried_life: int | None = None  # the life in which a retry was last asked for
    deleting: bool = False
    deleted: bool = False
    priorities: set[int] = field(default_factory=set)  # more than one: a change was not answered
    base: int = 0  # attempts before the last retry by hand

    def may_run(self, life: int) -> bool:
        """Return whether the model server may see it in *life*: unless it was settled before, and not retried."""
        if self.retrying or self.retried_life == life:  # asked for, and how it came out was not seen yet
            return True
        return self.settled_life is None or self.settled_life >= life

    def look(self, task: Json, life: int) -> None:
        """Hold *task*, as the server told it just now, to what was known before."""
        try:
            self._look(task, life)
        except Broken as broken:
            raise Broken(
                f"{self.marker} ({task['id']}): {broken}\n  before: {self.seen}\n  now: {task}"
            ) from None
        self.seen = task

    def _look(self, task: Json, life: int) -> None:
        if self.id is None:
            self.id = task["id"]
        expect(self.id == task["id"], "another id for the same idempotency key")
        expect(not self.deleted, "deleted, and there again")
        before, again = self.seen, self.retrying
        if before is not None:
            expect(task["revision"] >= before["revision"], "an older revision than was seen")
            if task["revision"] == before["revision"]:
                for name in (*LISTED, "attempts", "result", "payload"):
                    expect(task.get(name) == before.get(name), f"{name} differs in the same revision")
        if self.finished is not None and task["revision"] > self.finished["revision"]:
            expect(self.retrying, "changed though it was finished")
            self.base = len(self.finished.get("attempts", ()))
            self.finished, self.retrying, self.cancelled, self.settled_life = None, False, False, None
        if self.cancelled:
            expect(task["status"] == "cancelled", "its cancel was acknowledged")
        if self.priorities:
            expect(task["priority"] in self.priorities, f"its priority must be one of {self.priorities}")
            self.priorities = {task["priority"]}
        if task["status"] in FINISHED and self.finished is None:
            self.finished = task
            self.settled_life = life if self.settled_life is None else self.settled_life
        self._check_attempts(task)
        self._check_due(task)
        if before is not None and before["status"] == "scheduled" and not again:
            self._check_start(before, task)

    def _check_attempts(self, task: Json) -> None:
        attempts = task.get("attempts", [])
        expect([a["number"] for a in attempts] == list(range(1, len(attempts) + 1)), "attempts are missing")
        expect(all("outcome" in a for a in attempts[:-1]), "an attempt that is over has no outcome")
        running = bool(attempts) and "outcome" not in attempts[-1]
        expect(running == (task["status"] == "running"), "its last attempt says otherwise")
        counted = attempts[self.base :]
        self._check_pauses(counted)
        outcomes = Counter(a.get("outcome") for a in counted)
        expect(
            outcomes["succeeded"] == (task["status"] == "completed"),
            "succeeded attempts do not fit its status",
        )
        expect(
            task["retry_count"] == outcomes["failed"] - (task["status"] == "failed"),
            f"retry_count does not fit {dict(outcomes)}",
        )
        if task["status"] == "completed":
            expect(attempts[-1]["outcome"] == "succeeded", "something ran after it had succeeded")

    def _check_pauses(self, counted: list[Json]) -> None:
        """Hold the attempts after failed ones to the due times of retries, which hold from life to life."""
        failures = 0
        for attempt, following in pairwise(counted):
            if attempt["outcome"] == "failed":
                least = min(RETRY_FIRST * 2**failures, RETRY_MOST) * (1 - JITTER) - EARLY_SECONDS
                failures += 1
                pause = time_of(following["started_at"]) - time_of(attempt["finished_at"])
                expect(pause >= least, f"attempt {following['number']} came {pause:.3f} s after a failed one")

    def _check_due(self, task: Json) -> None:
        if self.due is not None and task["status"] == "scheduled" and not task.get("attempts"):
            expect(abs(time_of(task["run_at"]) - self.due) < 0.002, "its due time has moved")

    def _check_start(self, before: Json, task: Json) -> None:
        """Hold the attempt that follows *before*, which was scheduled, to its due time."""
        done = len(before.get("attempts", ()))
        if len(task.get("attempts", ())) > done:
            early = time_of(before["run_at"]) - time_of(task["attempts"][done]["started_at"])
            expect(early < EARLY_SECONDS, f"attempt {done + 1} started {early:.3f} s before it was due")


class Ledger:
    """All tasks of a campaign, and the switch."""

    def __init__(self) -> None:
        self.known: dict[str, Known] = {}
        self.paused: bool | None = False  # None: not known
        self.resumed_life = 0  # the life in which a resume was last asked for
        self.torn = 0  # attempts that a kill tore away
        self._lock = threading.Lock()

    def add(self, known: Known) -> Known:
        with self._lock:
            self.known[known.marker] = known
        return known

    def audit(self, listed: Sequence[Json], whole: Callable[[str], Json], life: int) -> None:
        """Hold the list of all tasks to the ledger, and each changed one as *whole* gives it. No client may run."""
        found: Counter[str] = Counter()
        for task in listed:
            known = self.known.get(marker_of(task))
            expect(known is not None, f"a task nobody submitted: {task}")
            assert known is not None
            found[known.marker] += 1
            if known.seen is None or known.seen["revision"] != task["revision"]:
                task = whole(task["id"])
                known.look(task, life)
            else:
                for name in LISTED:
                    expect(
                        task.get(name) == known.seen.get(name),
                        f"{name} of {known.marker} differs in the same revision: {known.seen}, now {task}",
                    )
            known.deleting = known.retrying = False
        for marker, known in self.known.items():
            if known.deleting and not found[marker]:
                known.deleted = True
            needed = known.id is not None and not known.deleted
            expect(
                found[marker] == 1 or (found[marker] == 0 and not needed),
                f"{marker} is there {found[marker]} times; acknowledged as {known.id}, last seen {known.seen}",
            )

    def check_life(self, asked: Sequence[Asked], life: int) -> None:
        """After the end of *life*: nothing settled in an earlier one was run in it, nothing too early."""
        for one in asked:
            known = self.known[one.marker]
            expect(
                known.may_run(life),
                f"{one.marker} ran in life {life}, though settled in life {known.settled_life} "
                f"(last retry asked for in life {known.retried_life}): {known.seen}",
            )
            expect(
                known.due is None or one.at >= known.due - EARLY_SECONDS,
                f"{one.marker} ran {(known.due or 0) - one.at:.3f} s before it was due",
            )

    def check_attempts(
        self, asked: Iterable[Asked], life: int, began_at: float, ended_at: float, killed: bool
    ) -> None:
        """Once *life* is over and its tasks were read again: attempts on record against requests seen."""
        seen = Counter(one.marker for one in asked)
        for marker, known in self.known.items():
            if known.seen is None or known.deleted:
                continue
            mine = [
                a for a in known.seen.get("attempts", ()) if began_at <= time_of(a["started_at"]) < ended_at
            ]
            ended = sum(a.get("outcome") in ("succeeded", "failed") for a in mine)
            expect(
                ended <= seen[marker],
                f"{marker}: {ended} attempts of life {life} came to an end, the model saw {seen[marker]}",
            )
            torn = max(0, seen[marker] - len(mine))
            allowed = TORN if killed and (known.settled_life != life or known.retried_life == life) else 0
            expect(
                torn <= allowed,
                f"{marker}: the model saw {seen[marker]} attempts in life {life}, on record are {len(mine)}: {known.seen}",
            )
            self.torn += torn


def expect(holds: bool, otherwise: str) -> None:
    if not holds:
        raise Broken(otherwise)


def marker_of(task: Json) -> str:
    """Return the marker in a task of a list or a whole one."""
    text: str = task["prompt"] if "prompt" in task else task["payload"]["prompt"]
    return text.split()[0]


def time_of(text: str) -> float:
    """Return the Unix seconds of a time in an answer."""
    return parse_time(text, "time")
