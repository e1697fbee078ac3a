from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.live import Served, fake_model_server
from tests.fuzz.account import Account


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A real server that runs what it is given, against a fake model server."""
    folder: Path = tmp_path_factory.mktemp("fuzz")
    with fake_model_server() as model:
        served = Served(folder / "data", "--ollama-host", model.url, OQ_QUEUE__MAX_COMPLETED_TASKS="0")
        yield served
        served.stop(signal.SIGKILL)


@pytest.fixture(scope="module")
def account() -> Account:
    return Account()
