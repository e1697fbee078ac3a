"""The main job, seen from outside: tasks go in by every door, a real model answers, everybody reads the same text."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from trio_websocket import open_websocket_url

import oq as library
from oq.client import Client
from oq.demo import start_model_server
from tests.acceptance.conftest import EMBEDDER, ENDLESS, ENDLESS_OPTIONS, FEW, MODEL, Oq, Serve
from tests.cli.live import Served, environment

pytestmark = pytest.mark.slow
ASK = "Say hello."
PATIENCE = 300  # seconds for a dozen tokens, on a machine that does other things, too


def ask() -> library.TaskSpec:
    return library.chat(MODEL, [library.user(ASK)], options=FEW)


# --- submit by every door
def test_the_command_line_asks_and_prints_the_answer(oq: Oq):
    found = oq("submit", "chat", "--model", MODEL, "--messages", f"user:{ASK}", "--priority", "high",
               "--option", "num_predict=12", "--option", "temperature=0", "--wait", "-o", "json")  # fmt: skip
    assert found.returncode == 0, found.stderr
    task = json.loads(found.stdout)
    assert (task["status"], task["priority"]) == ("completed", 10)
    assert task["output"] == task["result"]["message"]["content"] != ""


def test_a_prompt_comes_through_a_pipe(oq: Oq):
    found = oq("submit", "generate", "-m", MODEL, "--option", "num_predict=4", "--wait", input="One, two,")
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip()


def test_rest_answers_after_a_long_poll(served: Served):
    body = {"type": "generate", "model": MODEL, "payload": {"prompt": ASK}, "options": FEW}
    submitted = httpx.post(f"{served.url}/api/tasks", json=body)
    assert submitted.status_code == 201
    answer = httpx.get(served.url + submitted.headers["Location"] + "/result?wait=300", timeout=PATIENCE)
    task = answer.json()
    assert (answer.status_code, task["status"]) == (200, "completed")
    assert task["result"]["done"] is True
    assert task["result"]["eval_count"] <= 8
    assert task["output"] == task["result"]["response"] != ""


def test_the_client_gets_a_result(client: Client):
    result = client.submit(ask()).result(timeout=PATIENCE)
    assert result["message"]["content"]


async def test_the_asynchronous_client_gets_the_same_result(served: Served, client: Client):
    async with library.AsyncClient(served.url) as remote:
        handle = await remote.submit(ask())
        result = await handle.result(timeout=PATIENCE)
    assert result["message"] == client.get(handle.id).result["message"]  # type: ignore[index]


async def test_the_library_runs_a_queue_of_its_own(model_server: str, tmp_path: Path):
    async with library.open_queue(tmp_path / "own", ollama_host=model_server) as queue:
        handle = await queue.submit(ask())
        pieces = [text async for text in handle.stream()]
        result = await handle.result()
    assert "".join(pieces) == result["message"]["content"] != ""


def test_texts_become_vectors_of_the_model(client: Client):
    one, two, other = client.run_batch([
        library.embed(EMBEDDER, "a small dog"),
        library.embed(EMBEDDER, ["a small dog", "the stock exchange"]),
        library.generate(MODEL, ASK, options=FEW),
    ], timeout=PATIENCE)  # fmt: skip
    assert isinstance(one, dict)
    assert isinstance(two, dict)
    assert isinstance(other, dict)
    assert [len(vector) for vector in two["embeddings"]] == [576, 576]
    assert two["embeddings"][0] == pytest.approx(one["embeddings"][0], abs=1e-3)
    assert other["response"]


def test_a_model_that_is_not_there_fails_at_once_and_says_so(oq: Oq):
    found = oq("submit", "chat", "-m", "no-such-model", "--wait", "hello")
    assert found.returncode == 4
    assert "no-such-model" in found.stderr
    assert "Traceback" not in found.stderr


# --- the same text by every way of reading
def ndjson(url: str, id: str) -> str:
    lines = []
    with httpx.stream("GET", f"{url}/api/tasks/{id}/stream", timeout=PATIENCE) as answer:
        assert answer.headers["content-type"] == "application/x-ndjson"
        lines += [json.loads(line) for line in answer.iter_lines() if line]
    assert lines[-1]["type"] == "end"
    return "".join(line["text"] for line in lines[:-1])


def events(url: str, id: str) -> str:
    headers = {"Accept": "text/event-stream"}
    with httpx.stream("GET", f"{url}/api/tasks/{id}/stream", timeout=PATIENCE, headers=headers) as answer:
        assert answer.headers["content-type"] == "text/event-stream"
        data = [json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: ")]
    assert data[-1]["type"] == "end"
    return "".join(line["text"] for line in data[:-1])


def websocket(url: str, id: str) -> str:
    async def read() -> str:
        text = ""
        with trio.fail_after(PATIENCE):
            async with open_websocket_url(url.replace("http", "ws") + "/ws") as socket:
                assert json.loads(await socket.get_message())["type"] == "hello"
                await socket.send_message(json.dumps({"type": "watch", "ids": [id], "task": id}))
                ended, beats = False, 0
                while True:
                    message = json.loads(await socket.get_message())
                    if message["type"] == "tok":
                        assert message["off"] == len(text)
                        text += message["text"]
                    elif message["type"] == "delta" and id in message["tasks"]:
                        ended = ended or message["tasks"][id].get("status") == "completed"
                    elif ended and message["type"] == "stat":
                        beats += 1
                        if beats == 2:  # a second after the end: all is told
                            return text

    return trio.run(read)


def by_client(url: str, id: str) -> str:
    with Client(url) as client:
        return "".join(client.stream(id))


def by_command(url: str, id: str) -> str:
    found = subprocess.run(
        [sys.executable, "-m", "oq", "attach", id],
        capture_output=True, timeout=PATIENCE, env=environment(OQ_URL=url), check=True,
    )  # fmt: skip
    return found.stdout.decode().removesuffix("\n")


READERS = [ndjson, events, websocket, by_client, by_command]


def test_all_readers_of_a_running_task_read_the_same_text(served: Served, client: Client):
    client.pause()
    handle = client.submit(library.generate(MODEL, ASK, options=FEW | {"num_predict": 16}))
    texts: dict[str, str] = {}
    threads = [
        threading.Thread(target=lambda read=read: texts.update({read.__name__: read(served.url, handle.id)}))
        for read in READERS
    ]
    for thread in threads:
        thread.start()
    client.resume()
    for thread in threads:
        thread.join(PATIENCE)
    whole = handle.wait(PATIENCE).output
    assert len(whole) > 8
    assert texts == {read.__name__: whole for read in READERS}


@pytest.mark.parametrize("read", [read for read in READERS if read is not websocket])
def test_a_reader_who_comes_after_the_end_reads_the_whole_text(served: Served, client: Client, read: Any):
    task = client.submit(library.generate(MODEL, ASK, options=FEW)).wait(PATIENCE)
    assert read(served.url, task.id) == task.output != ""


def test_submit_streams_to_the_terminal(oq: Oq, client: Client):
    found = oq("submit", "chat", "-m", MODEL, "--option", "num_predict=8", "--stream", ASK)
    assert found.returncode == 0, found.stderr
    (task,) = client.list(limit=1)
    assert client.get(task.id).output.strip() == found.stdout.strip() != ""


# --- cancel
def test_cancelling_a_running_task_frees_the_slot_of_the_model_server(serve: Serve):
    model = start_model_server({"OLLAMA_NUM_PARALLEL": "1"})
    try:
        served = serve("--ollama-host", model.url)
        with Client(served.url) as client:
            handle = client.submit(
                {"type": "generate", "model": MODEL, "payload": ENDLESS, "options": ENDLESS_OPTIONS}
            )
            next(handle.stream())  # it talks, and holds the only slot that the model has
            assert client.cancel(handle.id).status == "cancelled"
            probe = {"model": MODEL, "prompt": "Hi", "stream": False, "options": {"num_predict": 1}}
            # Were the endless task still running there, this would wait for minutes.
            assert httpx.post(f"{model.url}/api/generate", json=probe, timeout=60).status_code == 200
            task = client.wait(handle.id, 5)
            assert [attempt.outcome for attempt in task.attempts] == ["cancelled"]
    finally:
        model.stop()


# --- kill -9 and stop
def engines(pid: int) -> list[int]:
    """Return the processes below *pid*: one for each loaded model."""
    found = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        found += [int(child) for child in (thread / "children").read_text().split()]
    return found


def test_a_model_that_is_killed_in_the_middle_of_its_answer_answers_again(serve: Serve):
    model = start_model_server({"OLLAMA_NUM_PARALLEL": "1"})
    try:
        served = serve("--ollama-host", model.url, RETRY_INITIAL_DELAY="100ms")
        with Client(served.url) as client:
            handle = client.submit(library.generate(MODEL, ASK, options=FEW | {"num_predict": 40}))
            lines = handle.follow()
            first = next(lines)
            assert (first.type, first.attempt) == ("text", 1)
            for pid in engines(model.pid):
                os.kill(pid, signal.SIGKILL)
            rest = list(lines)
            task = handle.wait(PATIENCE)
        assert [attempt.outcome for attempt in task.attempts] == ["failed", "succeeded"]
        assert (task.status, task.retry_count) == ("completed", 1)
        again = next(number for number, line in enumerate(rest) if line.type == "restart")
        assert "".join(line.text for line in rest[again:] if line.type == "text") == task.output != ""
    finally:
        model.stop()


def test_after_a_kill_the_model_answers_every_acknowledged_task(model_server: str, serve: Serve):
    arguments = ("--ollama-host", model_server, "--workers", "2")
    served = serve(*arguments)
    with Client(served.url) as client:
        before = client.submit(library.generate(MODEL, "Before", options=FEW)).wait(PATIENCE)
        running = client.submit(library.generate(MODEL, ASK, options=FEW | {"num_predict": 16}))
        waiting = [client.submit(library.embed(EMBEDDER, f"text {n}")) for n in range(5)]
        later = client.submit(library.generate(MODEL, "Later", options=FEW, delay="1h"))
        due = later.task().run_at
        next(running.stream())
        served.stop(signal.SIGKILL)
    served = serve(*arguments)
    with Client(served.url) as client:
        assert client.get(before.id) == before
        for handle in (running, *waiting):
            task = client.wait(handle.id, PATIENCE)
            assert (task.status, task.retry_count) == ("completed", 0)
        assert client.get(running.id).output
        assert [len(client.get(one.id).result["embeddings"][0]) for one in waiting] == [576] * 5  # type: ignore[index]
        task = client.get(later.id)
        assert (task.status, task.run_at) == ("scheduled", due)
        assert client.status().total_tasks == 8
    assert served.stop() == 0


def test_sigterm_lets_the_model_finish_what_it_has_begun(model_server: str, serve: Serve):
    arguments = ("--ollama-host", model_server, "--workers", "1")
    served = serve(*arguments, OQ_SERVER__SHUTDOWN_GRACE="2m")
    with Client(served.url) as client:
        running = client.submit(library.generate(MODEL, ASK, options=FEW))
        waiting = client.submit(library.generate(MODEL, "Wait", options=FEW))
        next(running.stream())
        assert served.stop(timeout=PATIENCE) == 0
    served = serve(*arguments, "--paused")
    with Client(served.url) as client:
        assert client.get(running.id).status == "completed"
        assert client.get(waiting.id).status == "pending"
    assert served.stop() == 0
