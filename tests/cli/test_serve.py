"""`oq serve` as a process: what it says, how it stops, how it refuses."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_ollama import FakeOllama, says

from oq.builders import generate
from oq.client import Client
from tests.cli.live import Served, environment, refused

SLOW = says("x", first_after=600.0)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def quick_model_server(model_server: FakeOllama) -> Iterator[None]:
    model_server.default = says("Hello")
    yield
    model_server.default = says("Hello")


def test_the_start_tells_address_folder_and_model_server(data: Path, model_server: FakeOllama):
    served = Served(data, "--ollama-host", model_server.url)
    assert served.wait_said(re.compile(r"data folder: .*data \(0 unfinished"))
    assert served.wait_said(
        re.compile(r"model server default at http://127.* up, version 0\.32\.15, 1 models")
    )
    assert served.stop() == 0


def test_a_model_server_that_is_not_there_is_said_and_tasks_wait(data: Path):
    served = Served(data, "--ollama-host", "http://127.0.0.1:9")
    assert served.wait_said(
        re.compile(
            r"^model server default at http://127.0.0.1:9: not reachable: connection refused\. Is the model server "
            r"running\? Start it with: ollama serve\. Tasks wait until it is$"
        )
    )
    with Client(served.url) as client:
        handle = client.submit(generate("m", "x"))
        assert handle.task().status in ("pending", "running")
    assert served.stop() == 0


def test_sigterm_lets_a_running_task_end(data: Path, model_server: FakeOllama):
    model_server.default = says("x", first_after=0.5)
    served = Served(data, "--ollama-host", model_server.url)
    with Client(served.url) as client:
        id = started(client)
        assert served.stop(signal.SIGTERM) == 0
    served = Served(data, "--ollama-host", model_server.url)
    with Client(served.url) as client:
        task = client.get(id)
        assert (task.status, len(task.attempts)) == ("completed", 1)
    served.stop()


def test_what_does_not_end_in_the_grace_goes_back_to_pending(data: Path, model_server: FakeOllama):
    model_server.default = SLOW
    served = Served(data, "--ollama-host", model_server.url, OQ_SERVER__SHUTDOWN_GRACE="200ms")
    with Client(served.url) as client:
        id = started(client)
        assert served.stop(signal.SIGINT, timeout=5.0) == 0
    served = Served(data, "--ollama-host", model_server.url, OQ_SERVER__SHUTDOWN_GRACE="200ms")
    with Client(served.url) as client:
        assert client.get(id).retry_count == 0
        assert not client.get(id).finished
    served.stop()


def test_a_second_signal_stops_at_once(data: Path, model_server: FakeOllama):
    model_server.default = SLOW
    served = Served(data, "--ollama-host", model_server.url, OQ_SERVER__SHUTDOWN_GRACE="10m")
    with Client(served.url) as client:
        started(client)
        served.process.send_signal(signal.SIGTERM)
        assert served.wait_said(re.compile("SIGTERM: stopping"))
        assert served.stop(signal.SIGTERM, timeout=6.0) == 0


def test_open_streams_do_not_hold_up_the_stop(data: Path, model_server: FakeOllama):
    served = Served(data, "--ollama-host", model_server.url)
    with Client(served.url) as client, client.subscribe():
        assert served.stop(timeout=5.0) == 0


def test_paused_starts_nothing(data: Path, model_server: FakeOllama):
    served = Served(data, "--ollama-host", model_server.url, "--paused")
    with Client(served.url) as client:
        assert client.status().paused
    served.stop()


def test_several_model_servers_have_slots_of_their_own(data: Path, model_server: FakeOllama):
    served = Served(
        data, "--ollama-host", model_server.url, "--ollama-host", "http://127.0.0.1:9", "--workers", "3"
    )
    with Client(served.url) as client:
        assert {host.url for host in client.hosts()} == {model_server.url, "http://127.0.0.1:9"}
    served.stop()


def test_json_logs_are_json_from_the_first_line_on(data: Path, model_server: FakeOllama):
    served = Served(data, "--ollama-host", model_server.url, "--log-format", "json")
    assert json.loads(served.said[0])["level"] == "info"
    served.stop()


def test_a_log_in_a_file_leaves_the_terminal_its_address(data: Path, model_server: FakeOllama):
    log = data.parent / "oq.log"
    served = Served(data, "--ollama-host", model_server.url, "--log-format", "json", LOG_FILE=str(log))
    assert served.wait_said(re.compile("model server default"))
    assert served.stop() == 0
    said = [json.loads(line)["message"] for line in log.read_text().splitlines()]
    assert any(served.url in line for line in said)


def test_a_folder_in_use_is_refused(data: Path, model_server: FakeOllama):
    served = Served(data, "--ollama-host", model_server.url)
    assert "in use" in refused("--port", "0", "--data-dir", str(data))
    served.stop()


def test_a_port_in_use_is_refused(data: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert "--port" in refused("--port", port, "--data-dir", str(data))


def test_a_wrong_setting_is_named(data: Path):
    assert "queue.max_workers" in refused("--data-dir", str(data), QUEUE_MAX_WORKERS="many")


def test_an_open_address_without_a_token_is_refused(data: Path):
    assert "--insecure" in refused("--host", "0.0.0.0", "--data-dir", str(data))


def test_a_missing_store_is_not_replaced_by_an_empty_one(data: Path):
    data.mkdir(mode=0o700)
    (data / "Data.fs.old").write_bytes(b"FS30")
    line = refused("--data-dir", str(data), "--port", "0")
    assert line.startswith("error: ")
    assert "Data.fs" in line


def test_a_log_file_that_cannot_be_written_is_said(data: Path):
    assert "log" in refused("--data-dir", str(data), "--port", "0", LOG_FILE="/proc/nothing/oq.log")


def started(client: Client) -> str:
    """Submit a task and return its id when it runs."""
    with client.subscribe(["task_started"]) as events:
        id = client.submit(generate("m", "x")).id
        next(event for event in events if event.task_id == id)
    return id


@pytest.mark.parametrize("request_head", [
    "GET /api/events HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n",
])  # fmt: skip
def test_a_client_that_stopped_reading_does_not_hold_up_the_stop(
    data: Path, model_server: FakeOllama, request_head: str
):
    served = Served(data, "--ollama-host", model_server.url, OQ_SERVER__SHUTDOWN_GRACE="500ms")
    host, port = served.url.removeprefix("http://").split(":")
    with socket.socket() as stuck, Client(served.url) as client:
        stuck.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stuck.connect((host, int(port)))
        stuck.sendall(request_head.encode())
        assert stuck.recv(12).split()[1] in (b"200", b"101")
        client.pause()
        for _ in range(2):
            client.submit_many([generate("m" * 400, "x")] * 5000)
        assert served.stop(timeout=5.5) == 0


def test_a_server_does_not_queue_in_front_of_itself(bare):
    found = bare("serve", "--port", "7199", "--ollama-host", "localhost:7199")
    assert found.exit_code == 1
    assert "where this server itself listens" in found.stderr


def test_a_server_started_for_a_program_ends_with_it(data: Path, model_server: FakeOllama):
    command = [sys.executable, "-m", "oq", "serve", "--port", "0", "--data-dir", str(data), "--while-stdin"]
    held = subprocess.Popen(
        command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    )
    assert held.stdin is not None
    assert held.stderr is not None
    with held.stdin, held.stderr:
        assert "listens on" in held.stderr.readline()
        held.stdin.close()  # as when the program is killed
        assert held.wait(20) == 0


def test_a_server_whose_program_is_gone_already_stops_cleanly(data: Path, model_server: FakeOllama):
    command = [sys.executable, "-m", "oq", "serve", "--port", "0", "--data-dir", str(data), "--while-stdin"]
    found = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=environment(), timeout=30
    )
    assert found.returncode == 0, found.stderr
    assert "stopped" in found.stderr
