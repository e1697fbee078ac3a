from __future__ import annotations

import msgspec
import pytest

from oq.core.embedding import entry_of
from oq.core.ids import EPOCH, IdSource, format_id
from oq.core.model import PRIORITIES, Entry, Status, TaskSpec, TaskState, affinity
from oq.core.output import output_text
from oq.core.task import Task

SPEC = TaskSpec(
    "chat", "m", b'{"messages": []}', tags=("t",), max_retries=2, timeout=9.0, idempotency_key="k"
)


@pytest.mark.parametrize("value", [SPEC, TaskState(Status.PENDING, 5)])
def test_values_do_not_change(value: msgspec.Struct) -> None:
    with pytest.raises(AttributeError):
        value.priority = 1  # type: ignore[attr-defined]


def test_a_status_is_its_name() -> None:
    assert Status.COMPLETED == "completed"
    assert f"{Status.COMPLETED}" == "completed"
    assert Status.COMPLETED.finished
    assert not Status.SCHEDULED.finished


def test_named_priorities_are_the_originals() -> None:
    assert PRIORITIES == {"low": 1, "normal": 5, "high": 10, "critical": 15}


def test_an_entry_keeps_what_scheduling_needs_and_no_payload() -> None:
    state = TaskState(Status.PENDING, 5)
    assert entry_of(7, SPEC, state) == Entry(7, "chat", "m", "m", 2, 9.0, ("t",), state, "k")
    assert not any(value == b"messages" for value in msgspec.structs.astuple(entry_of(7, SPEC, state)))


@pytest.mark.parametrize(
    "name",
    [
        "num_ctx",
        "num_batch",
        "num_gpu",
        "main_gpu",
        "use_mmap",
        "num_thread",
        "draft_num_predict",
        "adapters",
    ],
)
def test_an_option_that_reloads_the_model_is_another_affinity(name: str) -> None:
    options = msgspec.json.encode({name: 1, "temperature": 0.5})
    assert affinity(msgspec.structs.replace(SPEC, options=options)) == f"m {name}=1"


@pytest.mark.parametrize("options", [None, b"{}", b'{"seed": 1, "temperature": 2}', b"[1]", b"not json"])
def test_any_other_option_is_not(options: bytes | None) -> None:
    assert affinity(msgspec.structs.replace(SPEC, options=options)) == "m"


def test_the_order_of_options_does_not_matter() -> None:
    one = msgspec.structs.replace(SPEC, options=b'{"num_gpu": 1, "num_ctx": 2}')
    other = msgspec.structs.replace(SPEC, options=b'{"num_ctx": 2, "num_gpu": 1}')
    assert affinity(one) == affinity(other)


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (None, ""),
        (b'{"message": {"content": "Hi"}}', "Hi"),
        (b'{"response": "Ho"}', "Ho"),
        (b'{"message": {"content": null}}', ""),
        (b'{"embeddings": [[1.0]]}', ""),
        (b"nonsense", ""),
        (b'{"response": 5}', ""),
    ],
)
def test_the_output_is_the_text_in_the_result(result: bytes | None, text: str) -> None:
    assert output_text(result) == text


def test_a_task_knows_its_id_and_its_age() -> None:
    (key,) = IdSource(1).take(1, EPOCH + 5.0)
    task = Task(key, SPEC, TaskState(Status.COMPLETED, 5), b'{"message": {"content": "Hi"}}')
    assert (task.id, task.status, task.created_at, task.output) == (
        format_id(key),
        Status.COMPLETED,
        EPOCH + 5.0,
        "Hi",
    )
