"""A real `oq serve` process in front of the real small model, and the command line as a process of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oq.client import Client
from tests.cli.live import Served, environment

MODEL, EMBEDDER = "smollm2", "smollm2-embed"
FEW = {
    "num_predict": 8,
    "temperature": 0,
    "seed": 1,
}  # the machine is slow: a dozen tokens are a second or so
# With these the model counts on and on, for minutes.
ENDLESS = {"prompt": "Count: 1, 2, 3, 4,", "raw": True}
ENDLESS_OPTIONS = {"num_predict": 5000, "temperature": 0}

Oq = Callable[..., "subprocess.CompletedProcess[str]"]
Serve = Callable[..., Served]


@pytest.fixture(scope="session")
def served(model_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = Served(
        tmp_path_factory.mktemp("accept") / "data", "--ollama-host", model_server, "--workers", "2"
    )
    yield served
    assert served.stop(timeout=30) == 0


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start servers on one data folder of the test; what a failing test leaves running is killed."""
    started: list[Served] = []

    def start(*arguments: str, **env: str) -> Served:
        started.append(Served(tmp_path / "data", *arguments, **env))
        return started[-1]

    yield start
    for served in started:
        served.stop(signal.SIGKILL)


@pytest.fixture
def client(served: Served) -> Iterator[Client]:
    with Client(served.url) as client:
        yield client


@pytest.fixture
def oq(served: Served, tmp_path: Path) -> Oq:
    """Run `oq` as a process against the server."""

    def run(
        *arguments: str, input: str | None = None, timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "oq", *arguments],
            capture_output=True, text=True, timeout=timeout, cwd=tmp_path, env=environment(OQ_URL=served.url),
            **({"stdin": subprocess.DEVNULL} if input is None else {"input": input}),
        )  # fmt: skip

    return run
