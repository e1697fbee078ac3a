from __future__ import annotations

from oq.core.messages import Step, Write
from oq.core.model import Status, TaskSpec, TaskState
from oq.payloads import OVERHEAD_BYTES, Payloads

PENDING, DONE = TaskState(Status.PENDING, 5), TaskState(Status.COMPLETED, 5)


def new(key: int, size: int = 100) -> Write:
    return Write(key, PENDING, TaskSpec("generate", "m", b"x" * size))


def test_what_is_not_on_disk_yet_is_always_held() -> None:
    payloads = Payloads(budget_bytes=0)
    payloads.hold([new(1)])
    assert payloads.get(1) is not None


def test_what_is_on_disk_stays_as_far_as_the_budget_goes() -> None:
    payloads = Payloads(budget_bytes=2 * (OVERHEAD_BYTES + 100))
    writes = (new(1), new(2), new(3))
    payloads.hold(writes)
    payloads.committed(Step(writes))
    assert [payloads.get(key) is not None for key in (1, 2, 3)] == [True, True, False]


def test_the_end_of_a_task_makes_room() -> None:
    payloads = Payloads(budget_bytes=OVERHEAD_BYTES + 100)
    for key in (1, 2, 3):
        payloads.hold([new(key)])
        payloads.committed(Step((new(key),)))
        assert payloads.get(key) is not None
        payloads.committed(Step((Write(key, DONE),)))
        assert payloads.get(key) is None


def test_a_task_that_is_deleted_without_an_end_on_disk_makes_room_too() -> None:
    payloads = Payloads(budget_bytes=OVERHEAD_BYTES + 100)
    for key in (1, 2):
        payloads.hold([new(key)])
        payloads.committed(Step((new(key),)))
        assert payloads.get(key) is not None
        payloads.committed(Step(deletes=(key,)))
        assert payloads.get(key) is None


def test_the_room_is_counted_with_the_options() -> None:
    spec = TaskSpec("generate", "m", b"x" * 50, options=b"y" * 50)
    payloads = Payloads(budget_bytes=OVERHEAD_BYTES + 99)
    payloads.hold([Write(1, PENDING, spec)])
    payloads.committed(Step((Write(1, PENDING, spec),)))
    assert payloads.get(1) is None
