from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def model_server() -> Iterator[str]:
    """The URL of a server with a small real model, which answers several requests at once.

    Started by the first test that asks for it. Its models: oq/demo/__init__.py.
    """
    from oq.demo import start_model_server

    server = start_model_server({"OLLAMA_NUM_PARALLEL": "4"})
    yield server.url
    server.stop()
