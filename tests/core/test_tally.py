from __future__ import annotations

import pytest

from oq.core.messages import Step, Write
from oq.core.model import Attempt, Status, TaskState
from oq.core.tally import Tally

from .world import spec


def ended(status: Status, seconds: float = 1.0) -> Step:
    attempt = Attempt(1, "h", 100.0, 100.0 + seconds, "succeeded")
    return Step((Write(1, TaskState(status, 5, attempts=(attempt,))),))


def test_it_counts_submissions_ends_and_retries() -> None:
    tally = Tally()
    tally.apply(
        Step(
            (Write(1, TaskState(Status.PENDING, 5), spec()), Write(2, TaskState(Status.SCHEDULED, 5), spec()))
        )
    )
    tally.apply(Step((Write(1, TaskState(Status.SCHEDULED, 5, error="busy")),)))
    for status in (Status.COMPLETED, Status.COMPLETED, Status.FAILED, Status.CANCELLED):
        tally.apply(ended(status))
    assert (tally.submitted, tally.retries) == (2, 1)
    assert tally.ended == {Status.COMPLETED: 2, Status.FAILED: 1, Status.CANCELLED: 1}


def test_the_time_of_an_attempt_is_a_moving_average_of_the_successful_ones() -> None:
    tally = Tally()
    assert tally.run_seconds is None
    tally.apply(ended(Status.COMPLETED, 10.0))
    assert tally.run_seconds == 10.0
    tally.apply(ended(Status.FAILED, 1000.0))
    tally.apply(ended(Status.COMPLETED, 20.0))
    assert tally.run_seconds == pytest.approx(11.0)
