"""A real server among clients that cost it something: it answers, its memory is bounded, it stops in time.

`bench/rude.py` has the larger crowd and the figures.
"""

from __future__ import annotations

import http.client
import json
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rude_clients import TASK, crowd, leave_at_every_stage

from tests.cli.live import Served

GRACE, MORE = 1.0, 5.0
MEGABYTES_MOST = 200.0  # about twice what a server among this crowd was seen to have

pytestmark = pytest.mark.slow


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    served = Served(
        tmp_path / "data", "--ollama-host", "http://127.0.0.1:9", "--paused",
        OQ_SERVER__SHUTDOWN_GRACE=str(GRACE), OQ_SERVER__SEND_TIMEOUT="2",
    )  # fmt: skip
    yield served
    served.stop(signal.SIGKILL)


def port_of(served: Served) -> int:
    return int(served.url.rpartition(":")[2])


def submit(port: int, count: int) -> None:
    """Submit over one connection; raises unless each is acknowledged."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for _ in range(count):
        connection.request("POST", "/api/tasks", json.dumps(TASK), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        assert answer.status == 201, answer.read()
        answer.read()
    connection.close()


def tasks(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/api/status")
    status = json.loads(connection.getresponse().read())
    connection.close()
    return int(status["pending_tasks"])


def memory(served: Served) -> float:
    """Return the server's resident set in MB."""
    text = Path(f"/proc/{served.process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", text)
    assert found is not None
    return int(found[1]) / 1000


def assert_stops(served: Served) -> None:
    began = time.monotonic()
    assert served.stop(timeout=60) == 0
    assert time.monotonic() - began < GRACE + MORE + 1
    log = "\n".join(list(served._lines.queue)[:-1])
    assert " ERROR " not in log, log
    assert "Traceback" not in log, log


def test_a_server_in_a_crowd_answers_and_its_memory_is_bounded_and_it_stops_in_time(served: Served) -> None:
    port = port_of(served)
    with crowd(port) as rude:
        rude.monitors(100)
        rude.stalled(50)
        rude.slow(100)
        rude.idle(500)
        submit(port, 100)
        assert tasks(port) == 100
        assert memory(served) < MEGABYTES_MOST
        assert rude.received > 0
        assert_stops(served)


def test_clients_that_leave_at_every_stage_leave_nothing_behind(served: Served) -> None:
    port = port_of(served)
    leave_at_every_stage(port, 25)  # what is made once, such as the page's files, is there now
    submit(port, 1)
    files, before = open_files(served), memory(served)

    for _ in range(2):
        leave_at_every_stage(port, 7)

    submit(port, 10)
    deadline = time.monotonic() + 30
    while open_files(served) > files + 2 and time.monotonic() < deadline:
        submit(port, 1)
    assert open_files(served) <= files + 2
    assert memory(served) < before + 40
    assert_stops(served)


def open_files(served: Served) -> int:
    return len(list(Path(f"/proc/{served.process.pid}/fd").iterdir()))


def test_the_server_raises_its_limit_of_open_files_and_says_so(tmp_path: Path) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (700, before[1]))  # the server inherits it
    try:
        served = Served(tmp_path / "data", "--ollama-host", "http://127.0.0.1:9")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    try:
        limits = Path(f"/proc/{served.process.pid}/limits").read_text()
        said = re.compile(rf"the limit of open files was 700 and is {before[1]} now")
        assert re.search(rf"Max open files\s+{before[1]}\s", limits)
        assert any(said.search(line) for line in served.said), served.said
    finally:
        served.stop(signal.SIGKILL)
