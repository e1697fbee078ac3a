"""The model server as a process: it starts, says where, and leaves nothing behind, however it or its parent ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator

import httpx
import pytest
from waiting import DEADLINE, wait_until

import oq
from oq.demo import process as process_module
from oq.demo import start_model_server
from oq.errors import ServerError
from tests.demo.asking import children, endless, generate, is_alive
from tests.demo.conftest import Serve

pytestmark = pytest.mark.slow

PARENT = """
from oq.demo import start_model_server
server = start_model_server()
print(server.pid, server.url, flush=True)
input()
"""
ENVIRONMENT = os.environ | {"PYTHONPATH": os.path.dirname(os.path.dirname(oq.__file__))}
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    """Start a Python with these arguments; it is killed in the end."""
    started: list[subprocess.Popen[str]] = []

    def run(*arguments: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT,
        )  # fmt: skip
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def parent_of_a_server(start: Start) -> tuple[subprocess.Popen[str], int, str]:
    """Return a process that started a model server, the server's pid, and its URL."""
    parent = start("-c", PARENT)
    assert parent.stdout is not None
    pid, url = parent.stdout.readline().split()
    return parent, int(pid), url


def test_it_answers_and_stop_ends_it_with_its_engines(serve: Serve):
    server = serve()
    assert generate(server.url).status_code == 200
    processes = [server.pid, *children(server.pid)]
    assert len(processes) == 2
    server.stop()
    wait_until(lambda: not any(map(is_alive, processes)), "all processes are gone")
    server.stop()


def test_it_is_not_set_up_by_the_environment_but_by_its_knobs(serve: Serve, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OLLAMA_CONTEXT_LENGTH", "many")
    server = serve(CONTEXT_LENGTH=256)
    generate(server.url)
    (model,) = httpx.get(f"{server.url}/api/ps").json()["models"]
    assert model["context_length"] == 256


def test_one_that_cannot_start_says_why():
    with pytest.raises(ServerError, match="did not start: error: OLLAMA_NUM_PARALLEL is 'many'"):
        start_model_server({"OLLAMA_NUM_PARALLEL": "many"})


def test_one_that_ignores_the_sign_to_end_is_killed(serve: Serve, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(process_module, "STOP_SECONDS", 0.1)
    server = serve()
    os.kill(server.pid, signal.SIGSTOP)
    server.stop()
    assert not is_alive(server.pid)


def test_no_process_outlives_a_kill_of_the_parent_in_the_middle_of_an_answer(start: Start):
    parent, server, url = parent_of_a_server(start)
    with endless(url) as lines:
        processes = [server, *children(server)]
        assert len(processes) == 2
        parent.kill()
        wait_until(lambda: not any(map(is_alive, processes)), "all processes are gone")
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            list(lines)


def test_no_process_outlives_a_kill_of_the_parent_in_the_middle_of_a_load(start: Start):
    parent, server, url = parent_of_a_server(start)

    def load() -> None:
        with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
            generate(url)

    client = threading.Thread(target=load)
    client.start()
    wait_until(lambda: children(server), "it begins to load")
    processes = [server, *children(server)]
    parent.kill()
    wait_until(lambda: not any(map(is_alive, processes)), "all processes are gone")
    client.join(DEADLINE)


def test_no_engine_outlives_a_kill_of_the_server(start: Start):
    _, server, url = parent_of_a_server(start)
    generate(url)
    (engine,) = children(server)
    os.kill(server, signal.SIGKILL)
    wait_until(lambda: not is_alive(engine), "the engine is gone")


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_alone_it_ends_well_on_a_signal_and_leaves_nothing(start: Start, sign: signal.Signals):
    server = start("-m", "oq.demo", "--port", "0")
    assert server.stdout is not None
    url = server.stdout.readline().removeprefix("listening on ").strip()
    generate(url)
    (engine,) = children(server.pid)
    server.send_signal(sign)
    assert server.wait(DEADLINE) == 0
    assert not is_alive(engine)


def test_alone_it_says_that_there_are_no_such_weights() -> None:
    command = [sys.executable, "-m", "oq.demo", "--weights", "none.gguf"]
    found = subprocess.run(command, capture_output=True, text=True)
    assert (found.returncode, "there is no file none.gguf" in found.stderr) == (2, True)


def test_alone_it_says_that_its_port_is_taken(start: Start, model_server: str):
    port = str(httpx.URL(model_server).port)
    _, said = start("-m", "oq.demo", "--port", port).communicate(timeout=DEADLINE)
    assert said.startswith(f"error: cannot serve on 127.0.0.1:{port}: ")
    assert "Address already in use" in said
