"""What programs read: the shape of each output format, and nothing else on stdout."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import pytest

from oq.client import Client
from tests.cli.conftest import Oq
from tests.cli.live import Served, environment

TASK = {"type": "generate", "model": "m", "payload": {"prompt": "x"}}
ID = r"\w{13}"


def objects(text: str) -> list[Any]:
    """Return the values of JSON lines."""
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def ids(oq: Oq) -> list[str]:
    """Two tasks that wait for an hour."""
    said = [oq("submit", "generate", "-m", "m", "x", "--delay", "1h", "-o", "id").stdout for _ in range(2)]
    assert all(re.fullmatch(rf"{ID}\n", one) for one in said)
    return [one.strip() for one in said]


@pytest.fixture
def done(oq: Oq) -> list[str]:
    """Two tasks that are finished."""
    found = [oq("submit", "generate", "-m", "m", "x", "-o", "id").stdout.strip() for _ in range(2)]
    assert oq("wait", *found).exit_code == 0
    return found


def test_a_submission_is_one_object_with_the_id(oq: Oq):
    for form in ("json", "jsonl"):
        found = oq("submit", "generate", "-m", "m", "x", "--delay", "1h", "-o", form)
        assert re.fullmatch(ID, json.loads(found.stdout)["task_id"])
        assert (len(found.stdout.splitlines()) == 1) == (form == "jsonl")
        assert found.stderr == ""


def test_a_submission_that_waits_is_the_one_task(oq: Oq):
    for form in ("json", "jsonl"):
        found = oq("submit", "generate", "-m", "m", "x", "--wait", "-o", form)
        assert json.loads(found.stdout)["output"] == "Hello world"
    found = oq("submit", "generate", "-m", "m", "x", "--wait", "-o", "id")
    assert re.fullmatch(rf"{ID}\n", found.stdout)


@pytest.mark.parametrize("command", ["show", "status"])
def test_one_task_is_one_object(oq: Oq, done: list[str], command: str):
    for form in ("json", "jsonl"):
        assert json.loads(oq(command, done[0], "-o", form).stdout)["id"] == done[0]
    assert len(oq(command, done[0], "-o", "jsonl").stdout.splitlines()) == 1
    assert oq(command, done[0], "-o", "id").stdout == f"{done[0]}\n"


def test_a_list_is_a_list_with_nothing_beside_it(oq: Oq, ids: list[str]):
    newest = ids[::-1]
    found = oq("list", "-o", "json", "--limit", "1")
    assert [task["id"] for task in json.loads(found.stdout)] == newest[:1]
    assert found.stderr == "", "that there are more is for people"
    assert [task["id"] for task in objects(oq("list", "-o", "jsonl").stdout)] == newest
    assert oq("list", "-o", "id").stdout.split() == newest
    assert json.loads(oq("list", "-o", "json", "--status", "failed").stdout) == []
    assert oq("list", "-o", "jsonl", "--status", "failed").stdout == ""


def test_the_statistics_are_one_object_and_have_no_id(oq: Oq, ids: list[str]):
    for form in ("json", "jsonl"):
        assert json.loads(oq("status", "-o", form).stdout)["scheduled_tasks"] == 2
    assert len(oq("status", "-o", "jsonl").stdout.splitlines()) == 1
    found = oq("status", "-o", "id")
    assert (found.exit_code, found.stdout) == (2, "")
    assert "use -o json" in found.stderr


@pytest.mark.slow
def test_waiting_gives_the_one_task_or_a_list_of_all(oq: Oq, done: list[str]):
    assert json.loads(oq("wait", done[0], "-o", "json").stdout)["id"] == done[0]
    assert [task["id"] for task in json.loads(oq("wait", *done, "-o", "json").stdout)] == done
    assert [task["id"] for task in objects(oq("wait", *done, "-o", "jsonl").stdout)] == done
    assert oq("wait", *done, "-o", "id").stdout.split() == done


def test_a_batch_tells_of_each_line_its_id_or_its_error(oq: Oq):
    text = "\n".join(json.dumps(task) for task in (TASK, {"type": "generate", "model": "m"}, TASK))
    for form in ("json", "jsonl"):
        found = oq("batch", "-", "-o", form, input=text)
        items = json.loads(found.stdout) if form == "json" else objects(found.stdout)
        assert [item["index"] for item in items] == [0, 1, 2]
        assert [re.fullmatch(ID, item.get("task_id", "")) is not None for item in items] == [
            True,
            False,
            True,
        ]
        assert items[1]["code"] == "invalid_task"
        assert items[1]["error"]
        assert found.exit_code == 1
    assert re.fullmatch(rf"{ID}\n{ID}\n", oq("batch", "-", "-o", "id", input=text).stdout)


def test_a_batch_that_waits_gives_a_list_of_tasks(oq: Oq):
    for form in ("json", "jsonl"):
        found = oq("batch", "-", "--wait", "-o", form, input=json.dumps([TASK]))
        (task,) = json.loads(found.stdout) if form == "json" else objects(found.stdout)
        assert task["status"] == "completed"


def test_an_error_leaves_stdout_empty(oq: Oq):
    for command in ("show", "status", "wait"):
        found = oq(command, "0000000000000", "-o", "json")
        assert (found.exit_code, found.stdout) == (3, ""), command


# --- a pipe


@pytest.mark.slow
def test_a_batch_of_a_file_leaves_a_pipe_alone(oq: Oq, served: Served, queue: Client, tmp_path):
    (tmp_path / "tasks.jsonl").write_text(json.dumps(TASK) + "\n")
    command = [sys.executable, "-m", "oq", "--server", served.url, "batch", "tasks.jsonl", "-o", "id"]
    # Nothing comes through the pipe, and it stays open: a command that read it would wait for ever.
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(), cwd=tmp_path
    ) as process:
        assert process.stdout is not None
        try:
            assert process.wait(30) == 0
        finally:
            process.kill()
        assert re.fullmatch(rf"{ID}\n", process.stdout.read().decode())


def test_a_batch_without_a_file_reads_the_pipe(oq: Oq, queue: Client):
    found = oq("batch", "-o", "id", input=json.dumps(TASK))
    assert (found.exit_code, len(found.stdout.split())) == (0, 1)
