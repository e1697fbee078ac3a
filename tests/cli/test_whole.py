"""`oq export --whole` and `oq import --whole`: a round trip loses nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from fake_ollama import FakeOllama
from hypothesis import given
from hypothesis import strategies as st

from oq.client import Client
from oq.core.ids import format_id
from oq.core.messages import Step, Write
from oq.core.model import Attempt, Status, TaskSpec, TaskState
from oq.core.task import Task
from oq.errors import InvalidTask
from oq.store import open_journal
from oq.store.exchange import stored_tasks
from oq.store.lock import FolderLock
from oq.wire.whole import parse_whole, whole_line
from tests.cli.conftest import Oq
from tests.cli.live import Served

FIRST = 1 << 60
# Bytes that a JSON library would not give back: line ends, spaces, a number past a double, an escape.
PAYLOAD = b'{\n  "prompt" : "caf\\u00e9",\r\n "n": 1.10, "big": 1234567890123456789012345 }'
ATTEMPT = Attempt(1, "gpu", 1769846400.1234567, 1769846401.7654321, "failed", "it broke", "busy")
TASKS = (
    Task(FIRST, TaskSpec("generate", "m", PAYLOAD, idempotency_key="k", fingerprint=b"\0\xff"), TaskState(Status.PENDING, 5)),
    Task(FIRST + 1, TaskSpec("chat", "m", b'{"messages":[]}', b'{"seed": 1}', b'"5m"', tags=("a",), timeout=0.0),
         TaskState(Status.SCHEDULED, 10, 3, 1, run_at=1e10 + 0.1, attempts=(ATTEMPT,), error="it broke", error_code="busy")),
    Task(FIRST + 2, TaskSpec("generate", "m", b'{"prompt":"x"}'),
         TaskState(Status.COMPLETED, 5, 4, started_at=1.1, finished_at=2.2, host="gpu", tokens=3, output_start="Hi",
                   attempts=(Attempt(1, "gpu", 1.1, 2.2, "succeeded"),)), b'{"response": "Hi",  "done":true}'),
    Task(FIRST + 3, TaskSpec("embed", "m", b'{"input":"x"}'),
         TaskState(Status.FAILED, 5, 2, finished_at=2.5, error="no", error_code="invalid_request")),
)  # fmt: skip


def fill(folder: Path, tasks: tuple[Task, ...] = TASKS) -> None:
    journal = open_journal(folder)
    journal.commit([Step(tuple(Write(t.key, t.state, t.spec, t.result_json) for t in tasks))])
    journal.close()


@pytest.fixture
def file(bare: Oq, tmp_path: Path) -> str:
    """An export of `TASKS`."""
    fill(tmp_path / "data")
    assert bare("export", "--whole", "--data-dir", "data", "--file", "all.jsonl").exit_code == 0
    return "all.jsonl"


def test_a_round_trip_loses_nothing(bare: Oq, tmp_path: Path, file: str) -> None:
    found = bare("import", "--whole", file, "--data-dir", "new")
    assert (found.exit_code, found.stderr.strip()) == (0, "4 tasks imported into new")
    assert tuple(stored_tasks(tmp_path / "new")) == TASKS
    assert bare("export", "--whole", "--data-dir", "new").stdout_bytes == (tmp_path / file).read_bytes()


def test_it_is_said_which_folder_was_exported(bare: Oq, tmp_path: Path) -> None:
    fill(tmp_path / "data")
    said = "4 tasks exported from data\n"
    assert bare("export", "--whole", "--data-dir", "data", "--file", "all.jsonl").stderr == said
    assert bare("--data-dir", "data", "export", "--whole", "--file", "all.jsonl").stderr == said


@pytest.mark.parametrize("damage", ["missing", "no data file", "a record", "newer"])
def test_an_export_that_fails_says_why_and_leaves_the_one_before(
    bare: Oq, tmp_path: Path, file: str, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (tmp_path / file).read_bytes()
    data = tmp_path / "other" / "Data.fs"
    fill(data.parent)
    if damage == "missing":
        data.unlink()
    elif damage == "no data file":
        data.write_bytes(b"nonsense")
    elif damage == "a record":
        data.write_bytes(data.read_bytes().replace(TASKS[2].spec.payload[:8], bytes(8)))
    else:
        monkeypatch.setattr("oq.store.migrations.SCHEMA", 1)
    found = bare("export", "--whole", "--file", file, "--data-dir", "other")
    assert found.exit_code == 1
    assert found.stderr.startswith("error: ")
    assert "Traceback" not in found.stderr
    assert (tmp_path / file).read_bytes() == before
    assert not (tmp_path / (file + ".part")).exists()


def test_what_is_there_already_is_left_alone(bare: Oq, tmp_path: Path, file: str) -> None:
    fill(tmp_path / "new", TASKS[:2])
    found = bare("import", "--whole", file, "--data-dir", "new")
    assert found.stderr.strip() == "2 tasks imported into new, 2 were there already"
    assert tuple(stored_tasks(tmp_path / "new")) == TASKS


def test_another_task_with_that_id_is_a_conflict(bare: Oq, tmp_path: Path, file: str) -> None:
    other = Task(FIRST + 3, TASKS[3].spec, TaskState(Status.CANCELLED, 5, 2, finished_at=2.5))
    fill(tmp_path / "new", (other,))
    found = bare("import", "--whole", file, "--data-dir", "new")
    assert (found.exit_code, format_id(FIRST + 3) in found.stderr) == (6, True)
    assert tuple(stored_tasks(tmp_path / "new")) == (other,)


def test_an_idempotency_key_that_stands_for_another_task_is_a_conflict(
    bare: Oq, tmp_path: Path, file: str
) -> None:
    other = Task(FIRST + 9, TASKS[0].spec, TASKS[0].state)
    fill(tmp_path / "new", (other,))
    assert bare("import", "--whole", file, "--data-dir", "new").exit_code == 6
    assert tuple(stored_tasks(tmp_path / "new")) == (other,)


def test_a_folder_that_a_server_has_takes_nothing(bare: Oq, tmp_path: Path, file: str) -> None:
    (tmp_path / "new").mkdir()
    lock = FolderLock(tmp_path / "new")
    try:
        found = bare("import", "--whole", file, "--data-dir", "new")
    finally:
        lock.release()
    assert (found.exit_code, "in use by another" in found.stderr) == (1, True)


LINE = json.loads(whole_line(TASKS[2]))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"id": "nonsense"}, "id"),
        ({"id": "7zzzzzzzzzzzz"}, "id"),
        ({"whole_task": 2}, "whole_task"),
        ({"result": None}, "state.result"),
        ({"result": "bm8="}, "result"),
        ({"spec": LINE["spec"] | {"payload": "W10="}}, "spec.payload"),
        ({"spec": LINE["spec"] | {"model": ""}}, "spec"),
        ({"state": LINE["state"] | {"priority": -1}}, "state.priority"),
        ({"state": LINE["state"] | {"finished_at": None}}, "state.finished_at"),
        ({"state": LINE["state"] | {"status": "scheduled"}}, "state.run_at"),
        ({"state": LINE["state"] | {"status": "running", "attempts": []}}, "state.attempts"),
        ({"state": LINE["state"] | {"status": "lost"}}, None),
        ({"more": 1}, None),
    ],
)  # fmt: skip
def test_a_wrong_line_is_refused_and_nothing_imported(
    bare: Oq, tmp_path: Path, file: str, change: dict[str, object], field: str | None
) -> None:
    line = json.dumps(LINE | change).encode()
    with pytest.raises(InvalidTask) as caught:
        parse_whole(line)
    assert caught.value.field == field
    with (tmp_path / file).open("ab") as out:
        out.write(line + b"\n")
    found = bare("import", "--whole", file, "--data-dir", "new")
    assert (found.exit_code, f"line 5 of {file}" in found.stderr) == (1, True)
    assert not (tmp_path / "new" / "Data.fs").exists()


@given(
    st.binary()
    | st.text().map(str.encode)
    | st.recursive(st.none() | st.integers() | st.text(), st.lists).map(json.dumps).map(str.encode)
)
def test_any_other_line_is_refused_with_a_word(line: bytes) -> None:
    with pytest.raises(InvalidTask):
        parse_whole(line)


def test_an_export_of_the_usual_kind_is_told_apart(bare: Oq, tmp_path: Path) -> None:
    (tmp_path / "usual.jsonl").write_text('{"type":"generate","model":"m","payload":{"prompt":"x"}}\n')
    found = bare("import", "--whole", "usual.jsonl", "--data-dir", "new")
    assert (found.exit_code, "oq export --whole" in found.stderr) == (1, True)


def test_a_whole_export_is_told_apart_by_a_usual_import(bare: Oq, tmp_path: Path, file: str) -> None:
    found = bare("import", file)
    assert (found.exit_code, found.stdout) == (2, "")
    assert "add --whole" in found.stderr


@pytest.mark.slow
def test_a_server_goes_on_with_what_was_imported(bare: Oq, tmp_path: Path, model_server: FakeOllama) -> None:
    """Exported beside a server at work; the importing one has finished tasks as finished, and runs the others."""
    served = Served(tmp_path / "data", "--ollama-host", model_server.url)
    try:
        with Client(served.url) as client:
            done = client.submit({"type": "generate", "model": "m", "payload": {"prompt": "one"}})
            before = client.wait(done.id, 30)
            client.pause()
            waits = client.submit({"type": "generate", "model": "m", "payload": {"prompt": "two"}})
            assert bare("export", "--whole", "--data-dir", "data", "--file", "all.jsonl").exit_code == 0
    finally:
        served.stop()
    assert bare("import", "--whole", "all.jsonl", "--data-dir", "new").exit_code == 0
    asked = len(model_server.requests)
    served = Served(tmp_path / "new", "--ollama-host", model_server.url)
    try:
        with Client(served.url) as client:
            assert client.get(done.id) == before
            assert client.wait(waits.id, 30).status == "completed"
    finally:
        served.stop()
    assert len([r for r in model_server.requests[asked:] if r.path == "/api/generate"]) == 1
