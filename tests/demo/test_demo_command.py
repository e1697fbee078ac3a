"""`oq demo` with the real model."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from queue import Queue

import pytest
from waiting import DEADLINE, wait_until

from tests.demo.asking import children, is_alive

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "oq", "demo"]
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}


def descendants(pid: int) -> list[int]:
    return [found for child in children(pid) for found in (child, *descendants(child))]


def test_all_tasks_are_answered_by_the_model(tmp_path: Path):
    done = subprocess.run(
        [*COMMAND, "--once"],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        cwd=tmp_path,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "7 of 7 tasks completed" in done.stderr
    assert "(embed, priority 10): 2 vectors of 576 dimensions" in done.stdout
    assert "Paris" in done.stdout


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_nothing_is_left_when_it_is_ended(tmp_path: Path, sign: signal.Signals):
    demo = subprocess.Popen(
        COMMAND, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT, cwd=tmp_path
    )
    lines: Queue[str] = Queue()

    def read() -> None:
        assert demo.stderr is not None
        with demo.stderr:
            for line in demo.stderr:
                lines.put(line)

    reader = threading.Thread(target=read)
    reader.start()
    while "running" not in lines.get(timeout=DEADLINE):
        pass
    # The queue's server, the model server and the engine that loads.
    wait_until(lambda: len(descendants(demo.pid)) >= 3, "a model loads")
    processes = descendants(demo.pid)
    demo.send_signal(sign)
    assert demo.wait(DEADLINE) == 0
    reader.join(DEADLINE)
    wait_until(lambda: not any(map(is_alive, processes)), "all processes are gone")
