"""The real server with TLS: the WebSocket, streams, slow clients, and what a revoked token leaves open."""

from __future__ import annotations

import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_client_stream

from oq.tokens import Scope, TokenFile
from oq.web.serve import HANDSHAKE_SECONDS

from .test_serve import Server, running

UPGRADE = (
    "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    "Sec-WebSocket-Version: 13\r\n"
)


class Secured:
    """A server with a certificate and tokens, and what a client of it needs."""

    def __init__(self, server: Server, context: ssl.SSLContext, tokens: TokenFile) -> None:
        self.server, self.context, self.tokens = server, context, tokens
        self.secret = tokens.create("eye", Scope.READ, 0.0)

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[trio.SSLStream[trio.SocketStream]]:
        raw = await trio.open_tcp_stream("127.0.0.1", self.server.port)
        async with raw:
            yield trio.SSLStream(raw, self.context, server_hostname="localhost", https_compatible=True)

    def head(self, path: str, token: str | None = None, more: str = "") -> bytes:
        said = f"Authorization: Bearer {token}\r\n" if token else ""
        return f"GET {path} HTTP/1.1\r\nHost: localhost\r\n{said}{more}\r\n".encode()


@asynccontextmanager
async def secured(tmp_path: Path, **changes: Any) -> AsyncIterator[Secured]:
    authority = trustme.CA()
    leaf = authority.issue_cert("localhost")
    leaf.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    leaf.private_key_pem.write_to_path(tmp_path / "key.pem")
    context = ssl.create_default_context()
    authority.configure_trust(context)
    tokens = TokenFile(tmp_path / "data")
    files = {
        "tls_cert": tmp_path / "cert.pem",
        "tls_key": tmp_path / "key.pem",
        "storage_path": tokens.folder,
    }
    tokens.create("other", Scope.READ, 0.0)
    async with running(**files, **changes) as server:
        yield Secured(server, context, tokens)


async def test_an_answer_comes_over_tls_and_tells_its_scheme(tmp_path: Path) -> None:
    async with secured(tmp_path) as house, house.connect() as stream:
        assert house.server.url == f"https://127.0.0.1:{house.server.port}"
        for token, status in ((None, b"401"), (house.secret, b"200")):
            await stream.send_all(house.head("/api/status", token))
            text = b""
            while not text.endswith(b"}"):
                text += await stream.receive_some()
            assert text.startswith(b"HTTP/1.1 " + status)


async def test_the_websocket_ends_when_its_token_is_revoked(tmp_path: Path) -> None:
    async with secured(tmp_path) as house:
        async with house.connect() as stream, trio.open_nursery() as nursery:
            offered = ["oq", f"oq.token.{house.secret}"]
            connection = await wrap_client_stream(nursery, stream, "localhost", "/ws", subprotocols=offered)
            assert connection.subprotocol == "oq"
            assert json.loads(await connection.get_message())["type"] == "hello"
            house.tokens.revoke("eye")
            with pytest.raises(ConnectionClosed):
                await read_on(connection)
            nursery.cancel_scope.cancel()
        async with house.connect() as stream:
            await stream.send_all(house.head("/ws", house.secret, UPGRADE))
            assert (await stream.receive_some()).startswith(b"HTTP/1.1 401")


async def read_on(connection: WebSocketConnection) -> None:
    while True:
        await connection.get_message()


async def test_a_stream_of_events_ends_when_its_token_is_revoked(tmp_path: Path) -> None:
    async with secured(tmp_path) as house, house.connect() as stream:
        await stream.send_all(house.head("/api/events", house.secret))
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")
        house.tokens.revoke("eye")
        try:
            while await stream.receive_some():
                pass
        except trio.BrokenResourceError:
            pass  # cut off is as good as ended
        assert "eye" not in [token.name for token in house.tokens.read()]
        async with house.connect() as again:
            await again.send_all(house.head("/api/events", house.secret))
            assert (await again.receive_some()).startswith(b"HTTP/1.1 401")


async def test_a_client_that_does_not_speak_tls_harms_nobody(tmp_path: Path) -> None:
    async with secured(tmp_path) as house:
        plain, silent = await house.server.connect(), await house.server.connect()
        async with plain, silent:
            await plain.send_all(b"GET /api/status HTTP/1.1\r\nHost: localhost\r\n\r\n")
            try:
                while data := await plain.receive_some():
                    assert not data.startswith(b"HTTP")
            except trio.BrokenResourceError:
                pass  # reset
            async with house.connect() as stream:
                await stream.send_all(house.head("/health"))
                assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")
            house.server.shutdown.set()
            with trio.fail_after(HANDSHAKE_SECONDS / 2):  # the silent one holds up nothing
                await house.server.ended.wait()
