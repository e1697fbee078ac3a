"""The real server on real sockets."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from trio_websocket import ConnectionClosed, wrap_client_stream

from oq.config import settings_from
from oq.engine import open_queue_from
from oq.errors import ConfigError
from oq.store import open_journal
from oq.tokens import Scope, TokenFile
from oq.web.app import OqApp
from oq.web.assembly import make_app
from oq.web.serve import serve_app

from .conftest import TASK, FakeBackend


class Server:
    def __init__(
        self, app: OqApp, url: str, backend: FakeBackend, shutdown: trio.Event, scope: trio.CancelScope
    ) -> None:
        self.app, self.url, self.backend, self.shutdown, self.scope = app, url, backend, shutdown, scope
        self.port = int(url.rpartition(":")[2])
        self.ended = trio.Event()

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream("127.0.0.1", self.port)

    async def ask(self, request: bytes) -> bytes:
        stream = await self.connect()
        async with stream:
            await stream.send_all(request)
            return await answer_of(stream)


async def answer_of(stream: trio.SocketStream) -> bytes:
    """Read one answer that has a Content-Length."""
    text = b""
    while b"\r\n\r\n" not in text:
        text += await stream.receive_some() or pytest.fail(f"cut off: {text!r}")
    head, _, body = text.partition(b"\r\n\r\n")
    (length,) = [
        int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
    ]
    while len(body) < length:
        body += await stream.receive_some()
    return head + b"\r\n\r\n" + body


def request(method: str, path: str, body: bytes = b"") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
    return head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body


@asynccontextmanager
async def running(**changes: Any) -> AsyncIterator[Server]:
    settings = settings_from(port=0, **changes)
    backend, shutdown = FakeBackend(), trio.Event()
    backends = {host.name: backend for host in settings.hosts}
    async with open_queue_from(settings, journal=open_journal(), backends=backends) as queue:
        app = make_app(queue, settings)
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()
            server: Server

            async def run(task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED) -> None:
                with scope:
                    await serve_app(app, settings, shutdown=shutdown, task_status=task_status)
                server.ended.set()

            (url,) = await nursery.start(run)
            server = Server(app, url, backend, shutdown, scope)
            with trio.fail_after(30):
                yield server
                server.scope.cancel()
                await server.ended.wait()


@pytest.mark.parametrize("path", ["/health", "/api/tasks", "/api/queue/resume", "/"])
@pytest.mark.parametrize("head", [b"HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close", b"HTTP/1.0"])
async def test_a_client_that_wants_no_more_sees_the_end(path: str, head: bytes) -> None:
    """It may wait for it to know that the answer is whole; and a connection without an end would keep a place."""
    method = b"POST" if path.endswith("resume") else b"GET"
    async with running() as server, await server.connect() as stream:
        await stream.send_all(method + b" " + path.encode() + b" " + head + b"\r\n\r\n")
        text = b""
        with trio.fail_after(10):
            while piece := await stream.receive_some():
                text += piece
        assert text.startswith(b"HTTP/1.1 200")
        assert b"\r\nconnection: close\r\n" in text.lower()


async def test_the_real_port_is_told_and_a_task_goes_through() -> None:
    async with running() as server:
        assert server.url == f"http://127.0.0.1:{server.port}"
        answer = await server.ask(request("POST", "/api/tasks", json.dumps(TASK).encode()))
        assert answer.startswith(b"HTTP/1.1 201")
        id = json.loads(answer.partition(b"\r\n\r\n")[2])["task_id"]
        done = await server.ask(request("GET", f"/api/tasks/{id}/result?wait=10"))
        assert json.loads(done.partition(b"\r\n\r\n")[2])["output"] == "Hello"


async def test_one_connection_carries_many_requests() -> None:
    async with running() as server, await server.connect() as stream:
        for _ in range(50):
            await stream.send_all(request("GET", "/health"))
            assert (await answer_of(stream)).startswith(b"HTTP/1.1 200")


async def test_a_port_in_use_is_a_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match="in use already") as caught:
            await serve_app(object(), settings_from(port=port))  # type: ignore[arg-type]
    assert caught.value.key == "server.port"


# Routes and the guard may know the answer before they have read the body.
EARLY = ["/api/nothing", "/api/tasks/batch?atomic=perhaps", "/api/queue/pause", "/health"]


@pytest.mark.parametrize("path", EARLY)
async def test_a_connection_goes_on_after_an_answer_that_needed_no_body(path: str) -> None:
    async with running() as server, await server.connect() as stream:
        for _ in range(3):
            for piece in (request("POST", path, b"x" * 1_000_000), request("GET", "/health")):
                await stream.send_all(piece)
                assert (await answer_of(stream)).startswith(b"HTTP/1.1 ")


async def test_a_request_refused_at_the_door_does_not_jam_its_connection() -> None:
    async with running() as server, await server.connect() as stream:
        foreign = request("POST", "/api/tasks", b"x" * 1_000_000).replace(b"127.0.0.1", b"evil.example")
        await stream.send_all(foreign + request("GET", "/health"))
        assert (await answer_of(stream)).startswith(b"HTTP/1.1 403")
        assert (await answer_of(stream)).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("path", [*EARLY, "/api/tasks"])
async def test_a_body_that_never_ends_is_answered_and_then_cut(
    monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr("oq.web.unread.READ_ON_SECONDS", 0.1)
    async with running(server__max_body_bytes=1024) as server, await server.connect() as stream:
        await stream.send_all(
            b"POST %b HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n" % path.encode()
        )
        for _ in range(3):
            await stream.send_all(b"400\r\n" + b"x" * 1024 + b"\r\n")
        answer = await answer_of(stream)
        assert b"connection: close" in answer.lower()
        with trio.fail_after(5):
            try:
                while await stream.receive_some():
                    pass
            except trio.BrokenResourceError:
                pass


async def test_a_body_too_large_is_answered_and_not_reset() -> None:
    async with running(server__max_body_bytes=1024) as server:
        answer = await server.ask(request("POST", "/api/tasks", b"x" * 300_000))
        assert answer.startswith(b"HTTP/1.1 413")


async def test_a_false_content_length_beside_chunks_does_not_pass_the_limit() -> None:
    head = (
        b"POST /api/tasks HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    async with running(server__max_body_bytes=1024) as server:
        answer = await server.ask(
            head + b"400\r\n" + b"x" * 1024 + b"\r\n" + b"10\r\n" + b"x" * 16 + b"\r\n0\r\n\r\n"
        )
        assert answer.startswith((b"HTTP/1.1 413", b"HTTP/1.1 400"))


async def test_the_websocket_speaks_and_says_goodbye_when_the_server_stops() -> None:
    async with running() as server:
        async with await server.connect() as stream, trio.open_nursery() as nursery:
            connection = await wrap_client_stream(nursery, stream, f"127.0.0.1:{server.port}", "/ws")
            assert json.loads(await connection.get_message())["type"] == "hello"
            server.shutdown.set()
            kinds = []
            try:
                while True:
                    kinds.append(json.loads(await connection.get_message())["type"])
            except ConnectionClosed:
                pass
            assert kinds[-1] == "bye"
        await server.ended.wait()


async def stuck_websocket(server: Server) -> trio.SocketStream:
    """Open a WebSocket by hand, make the server send much, and never read it."""
    stream = await server.connect()
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    await stream.send_all(
        b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    assert b"101" in await stream.receive_some(20)
    return stream


async def fill_until_stuck(server: Server) -> None:
    """Make every sample huge, so that the greeting fills the socket's buffers."""
    ring = server.app.hub.series.rings["5m"]
    ring._columns["now"].extend("x" * 100_000 for _ in range(200))  # type: ignore[misc]


@pytest.mark.parametrize("way", ["shutdown", "cancel"])
async def test_a_client_that_stops_reading_does_not_hold_up_the_stop(way: str) -> None:
    async with running(shutdown_grace=0.5, send_timeout=600) as server:
        await fill_until_stuck(server)
        async with await stuck_websocket(server):
            await trio.sleep(0.3)  # until the server's send is blocked; the kernel tells nobody when
            began = trio.current_time()
            if way == "shutdown":
                server.shutdown.set()
            else:
                server.scope.cancel()
            await server.ended.wait()
            assert trio.current_time() - began < 3


async def test_a_client_that_stops_reading_is_cut_off_after_the_send_timeout() -> None:
    async with running(send_timeout=0.2) as server:
        await fill_until_stuck(server)
        async with await stuck_websocket(server) as stream:
            await trio.sleep(0.5)  # not reading for longer than the limit is the point
            received = 0
            with trio.fail_after(5):
                try:
                    while piece := await stream.receive_some():
                        received += len(piece)
                except trio.BrokenResourceError:
                    pass
            assert received < 10_000_000  # of the 20 MB that were to be sent


async def test_a_running_stream_gets_its_end_when_the_server_stops() -> None:
    async with running() as server:
        server.backend.close_gate()
        answer = await server.ask(request("POST", "/api/tasks", json.dumps(TASK).encode()))
        id = json.loads(answer.partition(b"\r\n\r\n")[2])["task_id"]
        async with await server.connect() as stream:
            await stream.send_all(request("GET", f"/api/tasks/{id}/stream"))
            text = b""
            while b"Hel" not in text:
                text += await stream.receive_some()
            server.shutdown.set()
            with trio.fail_after(5):
                while not text.endswith(b"0\r\n\r\n"):
                    text += await stream.receive_some() or pytest.fail("cut off")


async def test_a_sender_that_leaves_halfway_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    async with running() as server:
        for kind in (b"application/json", b"application/x-ndjson"):
            for path in (b"/api/tasks", b"/api/tasks/batch"):
                head = b"POST " + path + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: " + kind
                async with await server.connect() as stream:
                    await stream.send_all(head + b"\r\nContent-Length: 100\r\n\r\n{")
                    await trio.sleep(0.02)  # so that the server reads the first piece before the end
        assert (await server.ask(request("GET", "/health"))).startswith(b"HTTP/1.1 200")
    assert caplog.text == ""


async def test_a_gone_reader_leaves_nothing_behind() -> None:
    async with running() as server:
        async with await server.connect() as stream:
            await stream.send_all(request("GET", "/api/events"))
            assert b"200" in await stream.receive_some()
        with trio.fail_after(5):
            while server.app.queue.stats().subscribers:
                await trio.sleep(0.01)


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x00\xff\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"POST /api/tasks HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"GET /ws HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /nothing HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
    ],
)
async def test_garbage_on_the_wire_is_a_4xx_or_a_close_and_the_server_lives(garbage: bytes) -> None:
    async with running() as server:
        async with await server.connect() as stream:
            await stream.send_all(garbage)
            with trio.fail_after(5):
                answer = await stream.receive_some()
            assert answer == b"" or answer.startswith(b"HTTP/1.1 4")
        assert (await server.ask(request("GET", "/health"))).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
async def test_an_address_for_other_machines_needs_tokens_or_consent(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigError, match="oq token create") as caught:
        await serve_app(object(), settings_from(port=0, server__host=host, storage_path=tmp_path))  # type: ignore[arg-type]
    assert caught.value.key == "server.host"
    for changes in ({"insecure": True}, {"token": "x"}):
        async with running(server__host=host, storage_path=tmp_path, **changes) as server:
            assert server.port
    TokenFile(tmp_path).create("a", Scope.READ, 0.0)
    async with running(server__host=host, storage_path=tmp_path) as server:
        assert server.port


@pytest.mark.parametrize(
    "target", [b"?x", b"*", b"http://127.0.0.1/health", b"http://evil.example/health", b"http://[evil/health"]
)
async def test_what_is_no_path_is_refused(target: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with running() as server:
        answer = await server.ask(b"GET %b HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n" % target)
    assert answer.startswith(b"HTTP/1.1 400")
    assert b"begins with /" in answer
    assert caplog.text == ""
