"""Hypercorn on Trio, with its own listeners, and a stop that ends.

Hypercorn shields its `send_all` from cancellation, so one client that stops reading would keep the server from
stopping for as long as it likes. Each connection's stream is wrapped: every send has a deadline of its own
(`server.send_timeout`; one second once the server stops), and a client that misses it is cut off.
"""

from __future__ import annotations

import errno
import logging
import ssl
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState

from oq.errors import ConfigError, TooMany
from oq.web.connection import Connection
from oq.web.exposure import check_certificate, check_exposed
from oq.web.patience import Patience, raw_answer
from oq.web.places import Places, connections_at_most
from oq.web.unread import CUT

if TYPE_CHECKING:
    from oq.config import Settings
    from oq.web.app import OqApp

logger = logging.getLogger(__name__)

KEEP_ALIVE_REQUESTS = 2**31  # Hypercorn would close each connection after 1000 requests
FRAME_MAX = (
    2**17
)  # bytes of one WebSocket message from a client: two thousand ids take a quarter; some 20 may wait
HANDSHAKE_SECONDS = 10.0  # of TLS: a client that says nothing keeps a connection no longer
LAST_SEND_SECONDS = 1.0  # for a client to take what is being sent when the server stops
BACKLOG = 1024
FULL = TooMany("the server has as many busy connections as it takes (server.max_connections); try again")


class BoundedStream(trio.abc.HalfCloseableStream):
    """A socket stream whose sends end in time; see the module."""

    def __init__(
        self,
        stream: trio.SocketStream | trio.SSLStream[trio.SocketStream],
        timeout: float,
        open_streams: set[BoundedStream],
    ) -> None:
        self._stream = stream
        self._timeout = timeout
        self._scope: trio.CancelScope | None = None
        self._open = open_streams
        # Hypercorn asks it for the addresses.
        self.socket = (stream.transport_stream if isinstance(stream, trio.SSLStream) else stream).socket
        open_streams.add(self)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        with trio.move_on_after(self._timeout) as self._scope:
            await self._stream.send_all(data)
            return
        await trio.aclose_forcefully(self._stream)
        raise trio.BrokenResourceError("the client did not read in time")

    def stop(self) -> None:
        """The server takes no more requests."""

    def hurry(self) -> None:
        """The server stops: what is being sent, and what is sent from now on, has a second."""
        self._timeout = min(self._timeout, LAST_SEND_SECONDS)
        if self._scope is not None:
            self._scope.deadline = min(self._scope.deadline, trio.current_time() + LAST_SEND_SECONDS)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def send_eof(self) -> None:
        if not isinstance(self._stream, trio.SSLStream):  # TLS cannot be half closed
            await self._stream.send_eof()

    async def aclose(self) -> None:
        self._open.discard(self)
        await self._stream.aclose()


class SecureStream(BoundedStream):
    """One with TLS: Hypercorn does the handshake of what has these methods, and says https then."""

    def __init__(
        self, stream: trio.SSLStream[trio.SocketStream], timeout: float, open_streams: set[BoundedStream]
    ) -> None:
        super().__init__(stream, timeout, open_streams)
        self._secure = stream
        self._greeting = trio.CancelScope()

    @property
    def transport_stream(self) -> trio.SocketStream:
        return self._secure.transport_stream

    async def do_handshake(self) -> None:
        with self._greeting:
            await self._secure.do_handshake()
            return
        raise trio.BrokenResourceError("the server stops")

    def stop(self) -> None:
        self._greeting.cancel()  # who has not come so far has asked for nothing

    def selected_alpn_protocol(self) -> str | None:
        return self._secure.selected_alpn_protocol() or "http/1.1"


async def open_listeners(host: str, port: int) -> list[trio.SocketListener]:
    """Listen; a `ConfigError` says what stands in the way."""
    try:
        return await trio.open_tcp_listeners(port, host=host, backlog=BACKLOG)
    except OSError as exc:
        place = f"{host}:{port}"
        if exc.errno == errno.EADDRINUSE:
            why = f"{place} is in use already: another oq or another program listens there; stop it, or use --port"
        elif exc.errno in (errno.EACCES, errno.EPERM):
            why = f"{place} may not be used by this user; choose a port above 1023 with --port"
        else:
            why = f"the server cannot listen on {place}: {exc.strerror or exc}"
        raise ConfigError(why, key="server.port") from exc
    except OverflowError as exc:
        raise ConfigError(f"{port} is not a port: it must be 0 to 65535", key="server.port") from exc


async def open_checked(settings: Settings) -> list[trio.SocketListener]:
    """Listen where *settings* say, unless strangers could come in there; see `check_exposed`."""
    listeners = await open_listeners(settings.server.host, settings.server.port)
    try:
        check_exposed(settings, addresses_of(listeners))
    except ConfigError:
        for listener in listeners:
            listener.socket.close()
        raise
    return listeners


def addresses_of(listeners: list[trio.SocketListener]) -> list[str]:
    return [listener.socket.getsockname()[0] for listener in listeners]


async def serve_app(
    app: OqApp,
    settings: Settings,
    *,
    shutdown: trio.Event | None = None,
    task_status: trio.TaskStatus[list[str]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve *app* until *shutdown* is set or the caller cancels.

    Ready when `task_status.started` gives the URLs, with the real port where the setting is 0. After *shutdown* no
    connection is taken, streams and sockets get their last word, and what is not done after
    `server.shutdown_grace` is cut; on cancellation at once. Either way it returns within about a second more.
    """
    server = settings.server
    config = _config(settings)
    tls = config.create_ssl_context()
    listeners = await open_checked(settings)
    urls = [_url(listener, "https" if tls else "http") for listener in listeners]
    wrapped = ASGIWrapper(cast(Any, app))
    context = WorkerContext(None)
    streams: set[BoundedStream] = set()

    most = connections_at_most(server.max_connections)
    if most < server.max_connections:
        logger.info("%d connections at most: the limit of open files allows no more", most)
    places = Places(most, max(server.max_body_memory, server.max_body_bytes))

    async def handle(stream: trio.SocketStream) -> None:
        if not places.take():
            await _refuse(stream, tls is not None)
            return
        bounded = _bounded(stream, tls, server.send_timeout, streams)
        try:
            with trio.CancelScope() as life:
                state = ConnectionState({CUT: life.cancel})
                connection = Connection(
                    wrapped, config, context, state, cast(Any, bounded),
                    patience=Patience(server), places=places, end=life.cancel,
                )  # fmt: skip
                await connection.run()
        finally:
            places.leave()
            streams.discard(bounded)
            stream.socket.close()  # Hypercorn's own close does not get that far when it is cancelled

    async def hurry_when_cancelled() -> None:
        try:
            await trio.sleep_forever()
        finally:
            for stream in list(streams):
                stream.hurry()

    async with trio.open_nursery() as outer:
        lifespan = Lifespan(wrapped, config, {})
        await outer.start(lifespan.handle_lifespan)
        await lifespan.wait_for_startup()
        async with trio.open_nursery() as connections:
            connections.start_soon(hurry_when_cancelled)
            async with trio.open_nursery() as accepting:
                accepting.start_soon(
                    partial(trio.serve_listeners, handle, listeners, handler_nursery=connections)
                )
                task_status.started(urls)
                if shutdown is None:
                    await trio.sleep_forever()
                else:
                    await shutdown.wait()
                accepting.cancel_scope.cancel()
            app.stopping.set()
            for stream in list(streams):
                stream.stop()
            await context.terminated.set()  # idle connections close, busy ones after their answer
            with trio.move_on_after(server.shutdown_grace):
                while streams:  # noqa: ASYNC110 - once, at the end, and bounded; an event would cost each connection
                    await trio.sleep(0.02)
            connections.cancel_scope.cancel()
        with trio.move_on_after(LAST_SEND_SECONDS):
            await lifespan.wait_for_shutdown()
        outer.cancel_scope.cancel()


async def _refuse(stream: trio.SocketStream, encrypted: bool) -> None:
    """Tell a client for which there is no place; it gets no second thought, and no TLS handshake."""
    with trio.move_on_after(LAST_SEND_SECONDS):
        try:
            if not encrypted:
                await stream.send_all(raw_answer(FULL))
        except trio.BrokenResourceError:
            pass
    await trio.aclose_forcefully(stream)


def _bounded(
    stream: trio.SocketStream, tls: ssl.SSLContext | None, timeout: float, streams: set[BoundedStream]
) -> BoundedStream:
    if tls is None:
        return BoundedStream(stream, timeout, streams)
    secure = trio.SSLStream(stream, tls, server_side=True, https_compatible=True)
    return SecureStream(secure, timeout, streams)


def _url(listener: trio.SocketListener, scheme: str) -> str:
    address = listener.socket.getsockname()
    name = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"{scheme}://{name}:{address[1]}"


def _config(settings: Settings) -> Config:
    config = Config()
    config.keep_alive_timeout = cast(Any, settings.server.keep_alive_timeout)
    config.keep_alive_max_requests = KEEP_ALIVE_REQUESTS
    config.websocket_max_message_size = FRAME_MAX
    config.include_server_header = False
    config.ssl_handshake_timeout = HANDSHAKE_SECONDS
    files = check_certificate(settings)
    if files is not None:
        config.certfile, config.keyfile = files
        config.alpn_protocols = ["http/1.1"]
    config.errorlog = logger
    config.accesslog = logging.getLogger("oq.web.access") if settings.server.access_log else None
    return config
