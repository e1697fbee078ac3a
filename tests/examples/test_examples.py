"""Each example is started as its docstring says and does what it promises, with a real model."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from oq.client import Client
from tests.cli.live import ROOT, Served, environment

pytestmark = pytest.mark.slow  # a model of 135 million parameters takes its time

LISTENS = re.compile(r"Running on (http://\S+)")
MODEL = "smollm2"
ANSWER_SECONDS = 120.0

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Run an example with these arguments in the test's folder; what still runs at the end is killed."""
    running: list[subprocess.Popen[str]] = []

    def run(name: str, *arguments: str) -> subprocess.Popen[str]:
        command = [sys.executable, str(ROOT / "examples" / name), *arguments]
        process = subprocess.Popen(
            command, cwd=tmp_path, env=environment(), stderr=subprocess.PIPE, text=True
        )
        running.append(process)
        return process

    yield run
    for process in running:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


@pytest.fixture
def served(model_server: str, tmp_path: Path) -> Iterator[Served]:
    served = Served(tmp_path / "data", "--ollama-host", model_server)
    yield served
    served.stop()


def url_of(process: subprocess.Popen[str]) -> str:
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if found := LISTENS.search(line):
            return found[1]
    raise AssertionError(f"it ended without listening: {''.join(said)}")


def ask(url: str, question: str) -> tuple[str, str]:
    """Return the task's id and the whole streamed answer."""
    with httpx.stream("POST", f"{url}/ask", data={"question": question}, timeout=ANSWER_SECONDS) as response:
        assert response.status_code == 200
        return response.headers["X-Task-Id"], "".join(response.iter_text())


def test_the_app_with_a_queue_inside_streams_an_answer_and_keeps_it(start: Start, model_server: str):
    url = url_of(
        start("embedded_quart.py", "--model", MODEL, "--ollama-host", model_server, "--bind", "127.0.0.1:0")
    )
    id, answer = ask(url, "What is the capital of France?")
    assert answer.strip()
    kept = httpx.get(f"{url}/tasks/{id}").json()
    assert kept == {"id": id, "status": "completed", "answer": answer, "error": None}


def test_the_app_with_a_queue_inside_answers_after_a_kill(start: Start, model_server: str):
    arguments = ("--model", MODEL, "--ollama-host", model_server, "--bind", "127.0.0.1:0")
    first = start("embedded_quart.py", *arguments)
    with httpx.stream(
        "POST", f"{url_of(first)}/ask", data={"question": "Count to ten."}, timeout=ANSWER_SECONDS
    ) as response:
        id = response.headers["X-Task-Id"]
        first.kill()
    url = url_of(start("embedded_quart.py", *arguments))
    answer = httpx.get(f"{url}/tasks/{id}/text", timeout=ANSWER_SECONDS).text
    assert answer.strip()
    kept = httpx.get(f"{url}/tasks/{id}").json()
    assert kept == {"id": id, "status": "completed", "answer": answer, "error": None}


def test_the_app_with_a_queue_inside_says_what_is_wrong(start: Start, model_server: str):
    url = url_of(start("embedded_quart.py", "--ollama-host", model_server, "--bind", "127.0.0.1:0"))
    unknown = httpx.get(f"{url}/tasks/0000000000000")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")
    assert httpx.post(f"{url}/ask").status_code == 400


def test_the_web_app_streams_through_an_oq_server(start: Start, served: Served):
    url = url_of(start("web_app.py", "--model", MODEL, "--server", served.url, "--bind", "127.0.0.1:0"))
    assert "<form>" in httpx.get(url).text
    id, answer = ask(url, "What is the capital of France?")
    assert answer.strip()
    assert httpx.get(f"{url}/tasks/{id}").json()["answer"] == answer
    assert httpx.get(f"{url}/queue").json() == {"waiting": 0, "running": 0}
    unknown = httpx.get(f"{url}/tasks/0000000000000")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "not_found")
    with Client(served.url) as client:
        assert [(task.id, task.tags, task.priority) for task in client.list()] == [(id, ("web",), 10)]


@pytest.mark.parametrize(("name", "said"), [("missing", "No such file"), ("binary", "is not UTF-8 text")])
def test_the_batch_says_what_is_wrong_with_its_file(start: Start, tmp_path: Path, name: str, said: str):
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    process = start("batch.py", name, "answers.jsonl")
    assert process.stderr is not None
    line = process.stderr.read()
    assert (process.wait(10), line.count("\n"), line.startswith(f"error: {name}")) == (1, 1, True)
    assert said in line


def test_the_batch_goes_on_after_a_kill(start: Start, served: Served, tmp_path: Path):
    prompts = [f"Name {number} fruits." for number in range(2, 8)]
    (tmp_path / "prompts.txt").write_text("\n".join(prompts) + "\n", encoding="utf-8")
    arguments = ("prompts.txt", "answers.jsonl", "--model", MODEL, "--server", served.url)
    first = start("batch.py", *arguments)
    assert first.stderr is not None
    said = ""
    while "2 of 6" not in said:
        said += first.stderr.read(1) or pytest.fail(f"it ended: {said}")
    first.kill()
    second = start("batch.py", *arguments)
    assert second.stderr is not None
    assert "6 of 6 done, 0 failed" in second.stderr.read()
    assert second.wait(10) == 0
    lines = (tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    answers = [json.loads(line) for line in lines]
    assert [answer["prompt"] for answer in answers] == prompts
    assert all(answer["answer"] for answer in answers)
    with Client(served.url) as client:
        assert client.page(tag="prompts.txt").total == 6


def test_the_batch_tells_what_failed_and_goes_on(start: Start, served: Served, tmp_path: Path):
    (tmp_path / "prompts.txt").write_text("Name a fruit.\n", encoding="utf-8")
    process = start(
        "batch.py", "prompts.txt", "answers.jsonl", "--model", "no-such-model", "--server", served.url
    )
    assert process.stderr is not None
    assert "1 of 1 done, 1 failed" in process.stderr.read()
    assert process.wait(10) == 1
    assert "not found" in json.loads((tmp_path / "answers.jsonl").read_text(encoding="utf-8"))["error"]


def test_the_batch_says_that_no_server_answers(start: Start, tmp_path: Path):
    (tmp_path / "prompts.txt").write_text("Name a fruit.\n", encoding="utf-8")
    process = start("batch.py", "prompts.txt", "answers.jsonl", "--server", "http://127.0.0.1:9")
    assert process.stderr is not None
    said = process.stderr.read()
    assert (process.wait(10), "no oq server answers at http://127.0.0.1:9" in said) == (1, True)
    assert "Traceback" not in said
