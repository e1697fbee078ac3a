from __future__ import annotations

import socket
from collections.abc import Callable, Iterator

import pytest

from oq.demo import RunningServer, start_model_server
from oq.demo.caller import Caller

Serve = Callable[..., RunningServer]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start model servers with Ollama's knobs, written without OLLAMA_: ``serve(MAX_QUEUE=1)``."""
    running: list[RunningServer] = []

    def start(**knobs: object) -> RunningServer:
        server = start_model_server({f"OLLAMA_{name}": str(value) for name, value in knobs.items()})
        running.append(server)
        return server

    yield start
    for server in running:
        server.stop()


@pytest.fixture(scope="session")
def narrow() -> Iterator[RunningServer]:
    """A server with one place per model, room for one model, and no line for those who wait for a load."""
    server = start_model_server(
        {"OLLAMA_NUM_PARALLEL": "1", "OLLAMA_MAX_LOADED_MODELS": "1", "OLLAMA_MAX_QUEUE": "0"}
    )
    yield server
    server.stop()


@pytest.fixture
def connection() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The two ends of a connection: the client's and the server's."""
    client, server = socket.socketpair()
    with client, server:
        yield client, server


@pytest.fixture
def client(connection: tuple[socket.socket, socket.socket]) -> socket.socket:
    return connection[0]


@pytest.fixture
def caller(connection: tuple[socket.socket, socket.socket]) -> Caller:
    """The server's view of `client`."""
    return Caller(connection[1])
