from __future__ import annotations

from collections.abc import Callable

import pytest

from oq.core.messages import Admit, Drain, Finished, Pause, Probed, Run
from oq.core.model import Failed, TaskSpec
from oq.core.rules import Host
from oq.core.schedule import Schedule
from oq.core.waiting import TEXTS, Waiting, why_waiting

FIRST = 1 << 60
NOW = 1_700_000_000.0


class Nobody:
    def send_nowait(self, value: object) -> None: ...


REPLY = Nobody()


def admit(schedule: Schedule, key: int, model: str = "m", run_at: float | None = None) -> int:
    spec = TaskSpec("generate", model, b"{}", run_at=run_at)
    schedule.handle(Admit((key,), (spec,), REPLY), NOW)
    return key


def paused(schedule: Schedule) -> int:
    schedule.handle(Pause(REPLY), NOW)
    return admit(schedule, FIRST)


def draining(schedule: Schedule) -> int:
    key = paused(schedule)
    schedule.handle(Drain(10, REPLY), NOW)
    return key


def busy(schedule: Schedule) -> int:
    admit(schedule, FIRST)
    admit(schedule, FIRST + 1)
    return admit(schedule, FIRST + 2)


def models(schedule: Schedule) -> int:
    schedule.hosts["gpu"].max_loaded_models = 1
    admit(schedule, FIRST)
    return admit(schedule, FIRST + 1, "other")


def unreachable(schedule: Schedule) -> int:
    admit(schedule, FIRST)
    schedule.handle(Finished(FIRST, 1, Failed("connection refused", unreachable=True)), NOW)
    return FIRST


def retry(schedule: Schedule) -> int:
    admit(schedule, FIRST)
    schedule.handle(Finished(FIRST, 1, Failed("answered 503", retryable=True)), NOW)
    return FIRST


@pytest.mark.parametrize(
    ("make", "wanted"),
    [
        (paused, Waiting("paused")),
        (draining, Waiting("draining")),
        (busy, Waiting("slots_busy")),
        (models, Waiting("models", hosts=("gpu",))),
        (unreachable, Waiting("hosts_down", error="connection refused", hosts=("gpu",))),
        (retry, Waiting("retry", until=NOW + 1, error="answered 503")),
        (lambda s: admit(s, FIRST, run_at=NOW + 60), Waiting("scheduled", until=NOW + 60)),
    ],
)
def test_the_reason_to_wait_is_told(make: Callable[[Schedule], int], wanted: Waiting) -> None:
    schedule = Schedule([Host("gpu", 2)])
    assert why_waiting(schedule, make(schedule)) == wanted
    assert wanted.text in TEXTS.values()


def test_a_running_task_and_an_unknown_one_do_not_wait() -> None:
    schedule = Schedule([Host("gpu", 1)])
    admit(schedule, FIRST)
    assert why_waiting(schedule, FIRST) is None
    assert why_waiting(schedule, FIRST + 1) is None


def test_a_disk_that_refuses_comes_before_a_pause() -> None:
    schedule = Schedule([Host("gpu", 1)])
    assert why_waiting(schedule, paused(schedule), "no space") == Waiting("storage", error="no space")


def test_a_task_that_nothing_holds_back_is_next() -> None:
    schedule = Schedule([Host("gpu", 1)])
    key = paused(schedule)
    schedule.paused = False
    assert why_waiting(schedule, key) == Waiting("next")


def test_a_host_forgets_its_error_when_it_is_back() -> None:
    schedule = Schedule([Host("gpu", 1)])
    unreachable(schedule)
    step = schedule.handle(Probed("gpu", True), NOW)
    assert schedule.hosts["gpu"].error is None
    assert any(isinstance(start, Run) for start in step.starts)
