"""`oq batch --results`: in the order of the file, and gone on with after the client or the server was killed."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_ollama import FakeOllama, says, status, unused_port

from oq.client import Client
from tests.cli.conftest import Oq
from tests.cli.live import Served, environment

LINES = 40


def task(number: int, **more: object) -> dict[str, object]:
    return {"type": "generate", "model": "m", "payload": {"prompt": f"p{number}"}, **more}


def request(number: int) -> dict[str, object]:
    body = {"model": "m", "messages": [{"role": "user", "content": f"p{number}"}]}
    return {"custom_id": f"c{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}


def write(path: Path, lines: list[Any]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def read(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def start(url: str, *arguments: str, **more: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "oq", "--server", url, "batch", *arguments]
    return subprocess.Popen(command, env=environment(), **{"stderr": subprocess.PIPE, **more})


def asked(model_server: FakeOllama, since: int) -> Counter[str]:
    """Return how often each prompt was asked for."""
    bodies = [request.json() for request in model_server.requests[since:] if request.method == "POST"]
    return Counter(body.get("prompt") or body["messages"][0]["content"] for body in bodies)


def until(condition: Any) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def slow(model_server: FakeOllama) -> Iterator[FakeOllama]:
    model_server.default = says("Hel", "lo", first_after=0.05)
    yield model_server
    model_server.default = says("Hello", " world")


def test_results_stand_in_the_order_of_the_file_with_their_names(
    oq: Oq, model_server: FakeOllama, tmp_path: Path
):
    lines = [task(0, priority="low", custom_id="first"), task(1, priority="high"), {"type": "generate"}]
    write(tmp_path / "in", lines)
    model_server.script(says("a"), status(404, "no such model"))
    found = oq("batch", "in", "--results", "out")
    assert found.exit_code == 1, found.stderr
    first, second, third = read(tmp_path / "out")
    assert (first["line"], first["custom_id"], second["line"]) == (1, "first", 2)
    assert sorted([first["status"], second["status"]]) == ["completed", "failed"]
    assert (third["line"], third["status"], third["error"]["code"]) == (3, "refused", "invalid_task")
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["in", "out"]


def test_the_exit_code_is_4_when_a_line_failed(oq: Oq, model_server: FakeOllama, tmp_path: Path):
    write(tmp_path / "in", [task(0)])
    model_server.script(status(404, "no such model"))
    assert oq("batch", "in", "--results", "out").exit_code == 4
    assert read(tmp_path / "out")[0]["error"]["code"] == "not_found"


def test_requests_of_openai_come_back_in_order_and_leave_no_file(oq: Oq, queue: Client, tmp_path: Path):
    write(tmp_path / "in", [request(number) for number in range(5)])
    found = oq("batch", "in", "--results", "out")
    assert found.exit_code == 0, found.stderr
    lines = read(tmp_path / "out")
    assert [line["custom_id"] for line in lines] == [f"c{number}" for number in range(5)]
    assert {line["response"]["body"]["choices"][0]["message"]["content"] for line in lines} == {"Hello world"}
    assert json.loads(queue.request("GET", "/v1/files").body)["data"] == []


def test_a_batch_that_the_server_refuses_says_which_line(oq: Oq, tmp_path: Path):
    write(tmp_path / "in", [request(0), {**request(1), "url": "/v1/embeddings"}])
    found = oq("batch", "in", "--results", "out")
    assert found.exit_code == 4
    assert "error: line 2: url must be" in found.stderr
    assert not (tmp_path / "out.run").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--resume",), "--resume needs --results"),
        (("--results", "out", "--atomic"), "--atomic"),
        (("--results", "there"), "--resume"),
        (("--results", "begun"), "not finished"),
        (("--results", "begun", "--resume"), "has changed"),
        (("--results", "none/out"), "cannot write"),
    ],
)
def test_what_cannot_be_begun_is_said(oq: Oq, tmp_path: Path, arguments: tuple[str, ...], said: str):
    write(tmp_path / "in", [task(0)])
    (tmp_path / "there").write_text("precious")
    (tmp_path / "begun.run").write_text('{"run": "x", "sha256": "another"}')
    found = oq("batch", "in", *arguments)
    assert (found.exit_code, said in found.stderr) == (2, True), found.stderr
    assert (tmp_path / "there").read_text() == "precious"


def test_requests_of_openai_need_a_place_for_their_results(oq: Oq, queue: Client, tmp_path: Path):
    write(tmp_path / "in", [request(0)])
    found = oq("batch", "in")
    assert (found.exit_code, "--results" in found.stderr) == (2, True)
    assert queue.status().total_tasks == 0


def test_a_finished_run_is_not_run_again(oq: Oq, model_server: FakeOllama, tmp_path: Path):
    write(tmp_path / "in", [task(0)])
    oq("batch", "in", "--results", "out")
    since = len(model_server.requests)
    assert oq("batch", "in", "--results", "out", "--resume").exit_code == 0
    assert not asked(model_server, since)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_tasks_of_a_client_that_ended_are_gone_on_with_and_none_runs_twice(
    served: Served, queue: Client, slow: FakeOllama, tmp_path: Path, number: int
):
    source, out, part = tmp_path / "in", tmp_path / "out", tmp_path / "out.part"
    write(source, [task(number, custom_id=f"c{number}") for number in range(LINES)])
    since = len(slow.requests)
    with start(served.url, str(source), "--results", str(out)) as process:
        until(lambda: part.exists() and part.read_bytes().count(b"\n") >= 3)
        process.send_signal(number)
        _, said = process.communicate(timeout=20)
    if number == signal.SIGINT:
        assert (process.returncode, b"--resume" in said) == (130, True), said
    with part.open("ab") as file:
        file.write(b'{"line": 9')  # a line that was cut short
    with start(served.url, str(source), "--results", str(out), "--resume") as process:
        assert process.wait(60) == 0
    assert [line["custom_id"] for line in read(out)] == [f"c{number}" for number in range(LINES)]
    assert {line["result"]["response"] for line in read(out)} == {"Hello"}
    assert asked(slow, since) == {f"p{number}": 1 for number in range(LINES)}


@pytest.mark.slow
def test_a_batch_of_a_client_that_was_killed_is_found_again(
    served: Served, queue: Client, slow: FakeOllama, tmp_path: Path
):
    source, out, run = tmp_path / "in", tmp_path / "out", tmp_path / "out.run"
    write(source, [request(number) for number in range(LINES)])
    since = len(slow.requests)
    with start(served.url, str(source), "--results", str(out)) as process:
        until(lambda: len(slow.requests) > since + 3)
        process.kill()
    kept = json.loads(run.read_bytes())
    run.write_text(json.dumps({**kept, "batch": None}))  # as if killed before the answer came
    with start(served.url, str(source), "--results", str(out), "--resume") as process:
        assert process.wait(60) == 0
    assert [line["custom_id"] for line in read(out)] == [f"c{number}" for number in range(LINES)]
    assert asked(slow, since) == {f"p{number}": 1 for number in range(LINES)}


@pytest.mark.slow
@pytest.mark.parametrize("make", [task, request])
def test_a_client_outlives_a_kill_of_the_server(slow: FakeOllama, tmp_path: Path, make: Any):
    source, out = tmp_path / "in", tmp_path / "out"
    write(source, [make(number) for number in range(LINES)])
    arguments = ("--port", str(unused_port()), "--ollama-host", slow.url)
    served = Served(tmp_path / "data", *arguments)
    since = len(slow.requests)
    with start(served.url, str(source), "--results", str(out)) as process:
        until(lambda: len(slow.requests) > since + 5)
        served.stop(signal.SIGKILL)
        served = Served(tmp_path / "data", *arguments)
        try:
            assert process.wait(60) == 0
            with Client(served.url) as client:
                assert client.status().total_tasks == LINES
        finally:
            process.kill()
            served.stop()
    assert len(read(out)) == LINES


def test_a_terminal_sees_a_bar(served: Served, queue: Client, tmp_path: Path):
    write(tmp_path / "in", [task(number) for number in range(3)])
    ours, theirs = pty.openpty()
    with start(
        served.url, str(tmp_path / "in"), "--results", str(tmp_path / "out"), stderr=theirs
    ) as process:
        os.close(theirs)
        seen = b""
        while True:
            try:
                data = os.read(ours, 4096)
            except OSError:  # the terminal's other end is closed
                break
            seen += data
        assert process.wait(20) == 0
    os.close(ours)
    assert b"batch" in seen
    assert b"/3" in seen
