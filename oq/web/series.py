"""Samples of the queue for charts: five minutes, an hour and a day, in rings of bounded size."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from oq.core.events import Change, EventType
from oq.core.ids import created_at

WINDOWS = {"5m": (1, 300), "1h": (15, 240), "24h": (300, 288)}  # seconds a step, steps
FIELDS = (
    "now", "waiting", "running", "finished", "failed", "tokens", "wait_p50", "wait_p95", "run_p50", "run_p95",
)  # fmt: skip
RECENT_SECONDS = 10  # the latencies of a second are those of the tasks that ended in so many
ENDS_KEPT = 1000  # ended tasks of one step whose latencies count: the newest
Sample = dict[str, float | None]


class Latencies:
    """How long the tasks that ended waited and ran, in seconds."""

    def __init__(self) -> None:
        self._ends: deque[tuple[float, float, float]] = deque(maxlen=ENDS_KEPT)

    def note(self, change: Change) -> None:
        """Take in a change; only the end of an attempt that counts matters."""
        state = change.state
        if change.type not in _ENDS or state is None or not state.attempts:
            return
        last = state.attempts[-1]
        if last.finished_at is None:
            return
        since = created_at(change.key)
        if len(state.attempts) > 1:
            since = state.attempts[-2].finished_at or since
        waited, ran = max(0.0, last.started_at - since), last.finished_at - last.started_at
        self._ends.append((last.finished_at, waited, ran))

    def since(self, at: float) -> Sample:
        """Return the quantiles of those that ended after *at*."""
        while self._ends and self._ends[0][0] <= at:
            self._ends.popleft()
        waits = sorted(wait for _, wait, _ in self._ends)
        runs = sorted(run for _, _, run in self._ends)
        return {
            "wait_p50": _quantile(waits, 0.5),
            "wait_p95": _quantile(waits, 0.95),
            "run_p50": _quantile(runs, 0.5),
            "run_p95": _quantile(runs, 0.95),
        }


_ENDS = {EventType.TASK_COMPLETED, EventType.TASK_FAILED}


def _quantile(values: Sequence[float], part: float) -> float | None:
    return round(values[min(len(values) - 1, int(part * len(values)))], 3) if values else None


class Ring:
    """The samples of one window, a column a field."""

    def __init__(self, window: str) -> None:
        self.window = window
        self.step, length = WINDOWS[window]
        self.seconds = RECENT_SECONDS if self.step == 1 else self.step
        self.latencies = Latencies()
        self._columns: dict[str, deque[float | None]] = {name: deque(maxlen=length) for name in FIELDS}
        self._next = 0.0

    def add(self, now: float, sample: Sample) -> Sample | None:
        """Take in a sample if its time has come, and return it with its latencies."""
        if self.step > 1 and now < self._next:
            return None
        self._next = now + self.step - 0.5  # samples come once a second, not quite
        whole = sample | self.latencies.since(now - self.seconds)
        for name, column in self._columns.items():
            column.append(whole[name])
        return whole

    def columns(self) -> dict[str, Any]:
        """Return the window as `GET /api/series` does."""
        return {"window": self.window, "step": self.step, **{n: list(c) for n, c in self._columns.items()}}


class Series:
    """All windows."""

    def __init__(self) -> None:
        self.rings = {window: Ring(window) for window in WINDOWS}

    def note(self, change: Change) -> None:
        for ring in self.rings.values():
            ring.latencies.note(change)

    def add(self, sample: Sample) -> Sample:
        """Take in the sample of this second; return it with the latencies of the last seconds."""
        now = sample["now"]
        assert now is not None
        seconds, *longer = self.rings.values()
        for ring in longer:
            ring.add(now, sample)
        whole = seconds.add(now, sample)
        assert whole is not None
        return whole
