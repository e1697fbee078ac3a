"""What the server writes, and what a client reads of it."""

from __future__ import annotations

import json

import msgspec

from oq.core.events import Change, Event, EventType, Notice
from oq.core.ids import format_id
from oq.core.model import Attempt, Status, TaskSpec, TaskState
from oq.core.task import Task
from oq.errors import InvalidTask
from oq.wire import (
    decode_event,
    decode_task,
    error_json,
    event_json,
    parse_time,
    rfc3339,
    task_json,
    tasks_json,
)
from oq.wire.answers import _TaskOut
from oq.wire.remote import RemoteTask

SPEC = TaskSpec(
    type="generate", model="m", payload=b'{"prompt":"Why?","seed":10000000000000000000000001}', tags=("t",)
)
KEY = 1_000_000_000_000 << 22
DONE = TaskState(
    Status.COMPLETED, 10, revision=3, started_at=1_700_000_000.25, finished_at=1_700_000_001.0, host="a",
    attempts=(Attempt(1, "a", 1_700_000_000.25, 1_700_000_001.0, "succeeded"),),
)  # fmt: skip
TASK = Task(KEY, SPEC, DONE, b'{"response":"Because.","done":true,"started_at":"mine"}')


def test_a_task_has_the_originals_fields_and_what_is_empty_is_left_out() -> None:
    said = json.loads(task_json(Task(KEY, SPEC, TaskState(Status.PENDING, 5))))
    assert set(said) == {
        "id", "type", "priority", "status", "model", "payload", "tags", "created_at", "retry_count", "max_retries",
        "revision",
    }  # fmt: skip
    assert (said["id"], said["priority"], said["retry_count"]) == (format_id(KEY), 5, 0)


def test_a_finished_task_carries_the_models_json_whole_and_its_text() -> None:
    said = json.loads(task_json(TASK))
    assert said["result"] == json.loads(TASK.result_json or b"")
    assert (said["output"], said["completed_at"]) == ("Because.", "2023-11-14T22:13:21.000000Z")
    assert said["attempts"][0]["outcome"] == "succeeded"


def test_numbers_beyond_64_bits_survive() -> None:
    assert b"10000000000000000000000001" in task_json(TASK)


def test_more_fields_can_be_added_and_none_ones_are_left_out() -> None:
    said = json.loads(task_json(TASK, queue_position=4, expected_start_at=None))
    assert said["queue_position"] == 4
    assert "expected_start_at" not in said


def test_a_list_shows_the_beginning_of_the_prompt_instead_of_payload_and_result() -> None:
    (said,) = json.loads(tasks_json([TASK]))
    assert said["prompt"] == "Why?"
    assert not {"payload", "result", "output", "attempts"} & set(said)


def test_a_client_reads_times_as_numbers_and_leaves_the_models_json_alone() -> None:
    task = decode_task(task_json(TASK))
    assert (task.started_at, task.status, task.output) == (1_700_000_000.25, Status.COMPLETED, "Because.")
    assert task.result == {"response": "Because.", "done": True, "started_at": "mine"}
    assert task.attempts[0].finished_at == 1_700_000_001.0


def test_a_client_reads_every_field_that_a_task_has() -> None:
    assert set(_TaskOut.__struct_fields__) <= set(RemoteTask.__struct_fields__)


def test_how_fast_a_model_was_is_the_same_here_and_there() -> None:
    ours = msgspec.structs.replace(
        TASK, state=msgspec.structs.replace(DONE, tokens=30, output_start="Because.")
    )
    theirs = decode_task(task_json(ours))
    assert (theirs.tokens, theirs.tokens_per_second, theirs.output_start) == (30, 40.0, "Because.")
    assert (ours.tokens, ours.tokens_per_second, ours.output_start) == (30, 40.0, "Because.")


def test_an_event_has_the_originals_names_and_the_task_as_it_stands() -> None:
    event = Event(7, 1_700_000_000.0, Change(EventType.TASK_COMPLETED, KEY, "generate", "m", ("t",), DONE))
    said = json.loads(event_json(event))
    assert (said["seq"], said["type"], said["task_id"], said["status"]) == (
        7, "task_completed", format_id(KEY), "completed",
    )  # fmt: skip
    read = decode_event(event_json(event))
    assert read.task is not None
    assert (read.task.revision, read.timestamp) == (3, 1_700_000_000.0)


def test_an_event_of_the_queue_has_no_task() -> None:
    said = json.loads(event_json(Event(1, 0.0, Notice(EventType.HOST_DOWN, "a", "refused"))))
    assert said == {
        "seq": 1, "type": "host_down", "timestamp": "1970-01-01T00:00:00.000000Z", "subject": "a", "detail": "refused",
    }  # fmt: skip


def test_an_error_says_where() -> None:
    assert json.loads(error_json(InvalidTask("no", "payload.prompt"))) == {
        "error": "no", "code": "invalid_task", "field": "payload.prompt",
    }  # fmt: skip


def test_times_go_to_text_and_back() -> None:
    assert parse_time(rfc3339(1_700_000_000.123456)) == 1_700_000_000.123456
