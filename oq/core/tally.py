"""Running figures since the start: how many attempts ended how, and how long they take."""

from __future__ import annotations

from oq.core.messages import Step
from oq.core.model import Status

_SMOOTHING = 0.1  # weight of the newest attempt in the moving average


class Tally:
    """Follows committed steps.

    Attributes:
        ended: tasks that ended since the start, by status.
        retries: attempts that failed and were scheduled again.
        run_seconds: exponential moving average of the time of a successful attempt; None before the first.
    """

    def __init__(self) -> None:
        self.submitted = 0
        self.ended: dict[Status, int] = {Status.COMPLETED: 0, Status.FAILED: 0, Status.CANCELLED: 0}
        self.retries = 0
        self.run_seconds: float | None = None

    def apply(self, step: Step) -> None:
        for write in step.writes:
            state = write.state
            if write.spec is not None:
                self.submitted += 1
            if state.status in self.ended:
                self.ended[state.status] += 1
            elif state.status is Status.SCHEDULED and state.error is not None and write.spec is None:
                self.retries += 1
            if state.status is Status.COMPLETED and state.attempts:
                last = state.attempts[-1]
                self._took((last.finished_at or last.started_at) - last.started_at)

    def _took(self, seconds: float) -> None:
        if self.run_seconds is None:
            self.run_seconds = seconds
        else:
            self.run_seconds += _SMOOTHING * (seconds - self.run_seconds)
