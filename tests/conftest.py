from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

# Under nohup or behind `&` these are ignored, and so they would be in all that the tests start and mean to end by them. A
# handler, unlike an ignored signal, is not inherited; this one lets the tests themselves go on as before.
for number in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, lambda *_: None)


@pytest.fixture(scope="session")
def model_server() -> Iterator[str]:
    """The URL of a server with a small real model, which answers several requests at once.

    Started by the first test that asks for it. Its models: oq/demo/__init__.py.
    """
    from oq.demo import start_model_server

    server = start_model_server({"OLLAMA_NUM_PARALLEL": "4"})
    yield server.url
    server.stop()
