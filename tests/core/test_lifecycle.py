from __future__ import annotations

import itertools

import pytest

from oq.core.lifecycle import TRANSITIONS, may_follow
from oq.core.model import FINISHED, Status

STATES = [None, *Status]


def test_every_state_has_its_row() -> None:
    assert set(TRANSITIONS) == set(STATES)


def test_only_a_pending_task_starts() -> None:
    assert [before for before in STATES if may_follow(before, Status.RUNNING)] == [Status.PENDING]


def test_only_a_running_task_completes_or_fails() -> None:
    for end in (Status.COMPLETED, Status.FAILED):
        assert [before for before in STATES if may_follow(before, end)] == [Status.RUNNING]


def test_whatever_is_not_finished_can_be_cancelled() -> None:
    found = {before for before in STATES if may_follow(before, Status.CANCELLED)}
    assert found == set(Status) - FINISHED


@pytest.mark.parametrize("end", sorted(FINISHED))
def test_a_finished_task_can_only_be_queued_anew(end: Status) -> None:
    assert TRANSITIONS[end] == {Status.PENDING}
    assert end.finished


def test_every_state_can_be_reached_and_every_task_can_end() -> None:
    def closure(start: Status | None) -> set[Status]:
        found: set[Status] = set()
        todo = [start]
        while todo:
            new = TRANSITIONS[todo.pop()] - found
            found |= new
            todo += new
        return found

    assert closure(None) == set(Status)
    for one, end in itertools.product(Status, FINISHED):
        assert end in closure(one)
