"""What can come between an OpenAI batch and its end: a cancel at a bad moment, a lost file, a window that is over."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing
from fake_ollama import FakeOllama, says, status

from oq.dropin.batches import KeptBatch, check_lines
from oq.web.openai import feeding, running
from oq.web.openai.shelf import Results

from .conftest import Place, open_place
from .test_openai_batches import ENDPOINT, begin, ended, lines_of, request, text, upload

PATIENCE = 30.0  # seconds that a thread of the server waits at most for the test


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Until it is set, the lines of new batches are being looked at."""
    go = threading.Event()

    def check(*args: Any) -> Any:
        assert go.wait(PATIENCE)
        return check_lines(*args)

    monkeypatch.setattr(running, "check_lines", check)
    return go


async def begin_text(place: Place, content: bytes) -> Any:
    file = (await upload(place, content)).json()
    body = {"input_file_id": file["id"], "endpoint": ENDPOINT, "completion_window": "24h"}
    return (await place.client.post("/v1/batches", json=body)).json()


async def test_a_cancel_that_was_acknowledged_holds_at_whatever_moment_it_came(place: Place) -> None:
    content = text(*(request(str(number)) for number in range(100)))
    for _ in range(20):
        batch = await begin_text(place, content)
        answer = await place.client.post(f"/v1/batches/{batch['id']}/cancel")
        assert answer.json()["status"] == "cancelling"
        batch = await ended(place, batch["id"])
        assert batch["status"] == "cancelled"
        assert sum(batch["request_counts"].values()) == 200


async def test_a_batch_that_is_cancelled_before_its_wrong_line_is_found_ends(
    place: Place, looked_at: threading.Event
) -> None:
    batch = await begin_text(place, text(request("a")) + b"not a request\n")
    assert (await place.client.post(f"/v1/batches/{batch['id']}/cancel")).json()["status"] == "cancelling"
    looked_at.set()
    batch = await ended(place, batch["id"])
    assert batch["status"] == "cancelled"
    assert batch["request_counts"]["total"] == 0
    assert batch["errors"]["data"][0]["line"] == 2
    assert batch["error_file_id"] is None


async def test_a_batch_whose_input_is_gone_fails_and_says_so(
    place: Place, looked_at: threading.Event, tmp_path: Path
) -> None:
    batch = await begin_text(place, text(request("a")))
    (tmp_path / "files" / batch["input_file_id"]).unlink()
    looked_at.set()
    batch = await ended(place, batch["id"])
    assert batch["status"] == "failed"
    assert batch["errors"]["data"][0]["code"] == "file_not_found"


@pytest.mark.parametrize(("cancel", "ends"), [(False, "failed"), (True, "cancelled")])
async def test_a_batch_restored_without_its_input_ends_with_what_it_has(
    fake: FakeOllama, tmp_path: Path, cancel: bool, ends: str
) -> None:
    async with open_place(tmp_path, fake.url) as place:
        await place.queue.pause()
        batch = await begin(place, request("a"), request("b"))
        await place.until(lambda: place.queue.stats().pending == 2)
    (part,) = (tmp_path / "files").glob("file-out*.part")
    part.write_text(json.dumps({"custom_id": "a", "response": {}}) + "\n")
    if not cancel:
        (tmp_path / "files" / batch["input_file_id"]).unlink()
    async with open_place(tmp_path, fake.url) as place:
        if cancel:
            (tmp_path / "files" / batch["input_file_id"]).unlink()
            await place.client.post(f"/v1/batches/{batch['id']}/cancel")
        batch = await ended(place, batch["id"])
        assert batch["status"] == ends
        assert batch["errors"]["data"][0]["code"] == "file_not_found"
        assert [line["custom_id"] for line in await lines_of(place, batch["output_file_id"])] == ["a"]
        assert not [task for task in await place.tasks() if not task.status.finished]


async def test_a_file_that_is_deleted_while_a_batch_of_it_begins_is_either_kept_or_refused(
    place: Place,
) -> None:
    for _ in range(20):
        file = (await upload(place, text(request("a")))).json()["id"]
        body = {"input_file_id": file, "endpoint": ENDPOINT, "completion_window": "24h"}
        answers: dict[str, Any] = {}

        async def ask(name: str, call: Callable[[], Any], answers: dict[str, Any] = answers) -> None:
            answers[name] = await call()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, "batch", lambda body=body: place.client.post("/v1/batches", json=body))
            nursery.start_soon(ask, "file", lambda file=file: place.client.delete(f"/v1/files/{file}"))
        if answers["batch"].status_code == 200:
            assert (await ended(place, answers["batch"].json()["id"]))["status"] == "completed"
        else:
            assert (answers["batch"].status_code, answers["file"].status_code) == (400, 200)


async def test_two_batches_of_one_file_are_two(place: Place) -> None:
    first = await begin(place, *(request(str(number)) for number in range(20)))
    body = {"input_file_id": first["input_file_id"], "endpoint": ENDPOINT, "completion_window": "24h"}
    second = (await place.client.post("/v1/batches", json=body)).json()
    for batch in (first, second):
        found = await lines_of(place, (await ended(place, batch["id"]))["output_file_id"])
        assert Counter(line["custom_id"] for line in found) == {str(number): 1 for number in range(20)}
    assert len(await place.tasks()) == 40


async def test_a_cancel_while_results_are_written_gives_no_line_twice(
    fake: FakeOllama, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing, go = [trio.Event(), trio.Event()], [threading.Event(), threading.Event()]
    all_made = trio.Event()
    made: list[feeding.LineResult] = []
    calls: list[str] = []
    add, make = Results.add, feeding.LineResult

    def make_result(*args: Any) -> feeding.LineResult:
        made.append(make(*args))
        if len(made) == 3:
            all_made.set()
        return made[-1]

    def slow_add(self: Results, lines: Any) -> None:
        number = len(calls)
        calls.append("add")
        if number < 2:
            trio.from_thread.run_sync(writing[number].set)
            assert go[number].wait(PATIENCE)
        add(self, lines)

    fake.script(says("1"), says("2"), status(400, "no"))
    monkeypatch.setattr(Results, "add", slow_add)
    monkeypatch.setattr(feeding, "LineResult", make_result)
    async with open_place(tmp_path, fake.url, max_workers=1) as place:
        await place.queue.pause()
        batch = await begin(place, request("a"), request("b"), request("c"))
        await place.until(lambda: place.queue.stats().pending == 3)
        await place.queue.resume()
        await writing[0].wait()
        await all_made.wait()
        await trio.testing.wait_all_tasks_blocked()  # sent, they wait for the first to be written
        go[0].set()
        await writing[1].wait()  # the other two together, first the output
        await place.client.post(f"/v1/batches/{batch['id']}/cancel")
        go[1].set()
        batch = await ended(place, batch["id"])
        assert batch["status"] == "cancelled"
        found = [json.loads(line)["custom_id"] for line in _all_lines(tmp_path, batch)]
        assert sorted(found) == ["a", "b", "c"]
        assert batch["request_counts"] == {"total": 3, "completed": 2, "failed": 1}


async def test_a_finished_batch_leaves_no_empty_file(place: Place, tmp_path: Path) -> None:
    batch = await ended(place, (await begin(place, request("a")))["id"])
    kept = {path.name for path in (tmp_path / "files").iterdir()}
    assert kept == {batch["input_file_id"], batch["output_file_id"]}


@pytest.mark.parametrize(("results", "ends"), [(["a"], "expired"), (["a", "b"], "completed")])
async def test_a_window_that_ended_while_the_server_was_down_counts_for_what_was_not_done(
    fake: FakeOllama, tmp_path: Path, results: list[str], ends: str
) -> None:
    async with open_place(tmp_path, fake.url) as place:
        await place.queue.pause()
        id = (await begin(place, request("a"), request("b")))["id"]
        await place.until(lambda: place.queue.stats().pending == 2)
        ((name, value),) = await place.queue.documents("batch/")
        kept = msgspec.json.decode(value, type=KeptBatch)
        over = msgspec.structs.replace(kept.record, expires_at=kept.record.created_at - 1)
        await place.queue.keep_documents(
            {name: msgspec.json.encode(msgspec.structs.replace(kept, record=over))}
        )
    (part,) = (tmp_path / "files").glob("file-out*.part")
    part.write_text("".join(json.dumps({"custom_id": name, "response": {}}) + "\n" for name in results))
    async with open_place(tmp_path, fake.url) as place:
        batch = await ended(place, id)
        assert batch["status"] == ends
        counts = {"total": 2, "completed": len(results), "failed": 2 - len(results)}
        assert batch["request_counts"] == counts
        found = [json.loads(line) for line in _all_lines(tmp_path, batch)]
        assert [line["custom_id"] for line in found] == ["a", "b"]
        missed = [line["error"]["code"] for line in found if line.get("error")]
        assert missed == ["batch_expired"] * (2 - len(results))
        assert not fake.requests


def _all_lines(folder: Path, batch: Any) -> list[str]:
    """Return the lines of a batch's output and error file."""
    ids = [id for id in (batch["output_file_id"], batch["error_file_id"]) if id]
    return [line for id in ids for line in (folder / "files" / id).read_text().splitlines()]
