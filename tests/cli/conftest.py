from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from fake_ollama import FakeOllama, says

from oq.cli import cli
from oq.client import Client
from tests.cli.live import Served, fake_model_server

Oq = Callable[..., Result]


@pytest.fixture(scope="session")
def model_server() -> Iterator[FakeOllama]:
    with fake_model_server() as fake:
        yield fake


@pytest.fixture(scope="session")
def served(model_server: FakeOllama, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    served = Served(tmp_path_factory.mktemp("served") / "data", "--ollama-host", model_server.url)
    yield served
    served.stop()


@pytest.fixture
def client(served: Served) -> Iterator[Client]:
    with Client(served.url) as client:
        yield client


@pytest.fixture
def queue(served: Served, client: Client, model_server: FakeOllama) -> Iterator[Client]:
    """The queue of the running server, empty and open, with a model server that says "Hello world"."""
    model_server.default = says("Hello", " world")
    client.resume()
    yield client
    model_server.default = says("Hello", " world")
    client.resume()
    client.bulk("cancel", filter={"status": ["pending", "scheduled", "running"]})
    for task in client.list(status=["pending", "scheduled", "running"], limit=1000):
        client.wait(task.id, 10)
    client.bulk("delete", filter={"status": ["completed", "failed", "cancelled"]})


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Oq:
    """Run the command line in this process, with no server to talk to."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("OQ_URL", "OQ_TOKEN", "OLLAMA_HOST"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str, input: str | bytes | None = None) -> Result:
        return CliRunner().invoke(cli, list(arguments), input=input, prog_name="oq")

    return run


@pytest.fixture
def oq(bare: Oq, queue: Client, served: Served, monkeypatch: pytest.MonkeyPatch) -> Oq:
    """Run the command line in this process, against the running server."""
    monkeypatch.setenv("OQ_URL", served.url)
    return bare
