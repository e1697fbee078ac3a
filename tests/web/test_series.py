from __future__ import annotations

from itertools import pairwise

import pytest

from oq.core.events import Change, EventType
from oq.core.ids import EPOCH, SHIFT
from oq.core.model import Attempt, Status, TaskState
from oq.web.series import FIELDS, WINDOWS, Latencies, Sample, Series

START = EPOCH + 1_000_000


def sample(now: float, finished: int = 0) -> Sample:
    return {"now": now, "waiting": 1, "running": 2, "finished": finished, "failed": 0, "tokens": 5}


def ended(waited: float, ran: float, at: float, kind: EventType = EventType.TASK_COMPLETED) -> Change:
    """Return the end, at *at*, of a task that waited and ran so many seconds."""
    begun = at - ran
    key = round((begun - waited - EPOCH) * 1000) << SHIFT
    attempt = Attempt(1, "gpu", begun, at, "succeeded")
    return Change(kind, key, state=TaskState(Status.COMPLETED, 5, attempts=(attempt,)))


@pytest.mark.parametrize("window", WINDOWS)
def test_a_window_has_its_step_and_its_length(window: str) -> None:
    series = Series()
    step, length = WINDOWS[window]
    for second in range(step * (length + 2)):
        series.add(sample(START + second))
    columns = series.rings[window].columns()
    assert (columns["window"], columns["step"]) == (window, step)
    assert {len(columns[name]) for name in FIELDS} == {length}
    times = columns["now"]
    assert {round(later - earlier) for earlier, later in pairwise(times)} == {step}
    assert times[-1] >= START + step * (length + 1)


def test_latencies_are_the_quantiles_of_what_ended_lately() -> None:
    latencies = Latencies()
    for number in range(100):
        latencies.note(ended(number, number / 10, START + number / 100))
    found = latencies.since(START - 10)
    assert found == {"wait_p50": 50, "wait_p95": 95, "run_p50": 5.0, "run_p95": 9.5}
    assert latencies.since(START + 100) == dict.fromkeys(found)


def test_the_wait_of_another_attempt_counts_from_the_end_of_the_one_before() -> None:
    latencies = Latencies()
    change = ended(1000, 2, START)
    assert change.state is not None
    (last,) = change.state.attempts
    before = Attempt(1, "gpu", last.started_at - 20, last.started_at - 7, "failed")
    state = TaskState(Status.COMPLETED, 5, attempts=(before, last))
    latencies.note(Change(EventType.TASK_COMPLETED, change.key, state=state))
    assert latencies.since(START - 10)["wait_p50"] == 7


def test_a_cancelled_task_has_no_latency() -> None:
    latencies = Latencies()
    latencies.note(ended(1, 1, START, EventType.TASK_CANCELLED))
    assert latencies.since(0)["wait_p50"] is None
