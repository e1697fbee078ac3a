"""HTTP/1.1 to one model server: h11 on a Trio stream, connections kept and reused.

Why not httpx: docs/decisions/http-to-the-model-server.md. What this adds to h11 is little, and sans-io h11
(which httpx stands on) keeps the protocol.

Rule 1: a connection carries one request at a time and goes back to the idle ones only after its answer was
read to the end; otherwise it is closed, at once and without waiting, which is how a model server learns that
a request was cancelled. Rule 2: a request goes to a fresh connection a second time only if the first was a
reused one and it broke at once, without one byte of an answer: the server had closed it while it was idle. What
breaks later broke at work, perhaps by this very request; so did one after which nobody can be reached.
"""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import AsyncIterator

import h11
import trio

from oq.backends.address import Address
from oq.backends.pipes import Encrypted, Plain

IDLE_MAX = 64  # connections kept for reuse; more than the slots of one host seldom are
IDLE_SECONDS = 60.0  # routers forget a silent connection after a few minutes; stay well below
RESEND_SECONDS = 1.0  # a connection that was closed before the request came tells so within a round trip
RECEIVE_BYTES = 65_536
SEND_BYTES = 1 << 20  # a large body goes out in such parts, each with its own limit on silence


Headers = list[tuple[bytes, bytes]]

# What a connection raises when the other side does not keep to the protocol, or is gone.
BROKEN = (OSError, trio.BrokenResourceError, h11.RemoteProtocolError)


class ConnectFailed(Exception):
    """The server cannot be reached: refused, unknown name, no answer in time, or no TLS."""


class Silence(Exception):
    """Nothing came for longer than the limit."""


class ConnectionLost(Exception):
    """The connection ended too early. *begun*: some of the answer had come."""

    def __init__(self, message: str, begun: bool) -> None:
        super().__init__(message)
        self.begun = begun


class Connection:
    """One connection; `close` is synchronous, so cancelled code can call it."""

    __slots__ = ("close", "idle_since", "pipe", "protocol")

    def __init__(self, pipe: Plain | Encrypted) -> None:
        self.pipe = pipe
        self.close = pipe.close
        self.protocol = h11.Connection(h11.CLIENT)
        self.idle_since = 0.0

    def has_input(self) -> bool:
        """Return whether the server said something. On an idle connection that is its end, or out of turn."""
        poller = select.poll()
        poller.register(self.pipe.socket.fileno(), select.POLLIN)
        return bool(poller.poll(0))

    async def send(self, data: bytes, idle_timeout: float) -> None:
        """Send all of *data*. `Silence` if the server takes nothing of it for too long."""
        sent = self.pipe.send_nowait(data)
        while sent < len(data):
            with trio.move_on_after(idle_timeout) as scope:
                await self.pipe.send_all(memoryview(data)[sent : sent + SEND_BYTES])
            if scope.cancelled_caught:
                raise Silence
            sent += SEND_BYTES

    async def fill(self, idle_timeout: float) -> int:
        """Give the protocol what the server sends next; return how many bytes, 0 at the end."""
        with trio.move_on_after(idle_timeout) as scope:
            data = await self.pipe.receive_some(RECEIVE_BYTES)
        if scope.cancelled_caught:
            raise Silence
        self.protocol.receive_data(data)
        return len(data)


class Answer:
    """The answer to one request. Who got it calls `release` when done with it, read to the end or not."""

    __slots__ = ("_connection", "_idle_timeout", "_server", "ended", "headers", "location", "status")

    def __init__(
        self, server: Server, connection: Connection, head: h11.Response, idle_timeout: float
    ) -> None:
        self._server = server
        self._connection = connection
        self._idle_timeout = idle_timeout
        self.status = head.status_code
        self.headers: list[tuple[bytes, bytes]] = list(head.headers)
        self.ended = False
        self.location = ""
        if 300 <= self.status < 400:
            self.location = next((v.decode("latin-1") for k, v in head.headers if k == b"location"), "")

    async def receive(self) -> bytes:
        """Return what came since the last call, at least one byte; b"" at the end of the answer."""
        parts: list[bytes] = []
        protocol = self._connection.protocol
        try:
            while not self.ended:
                event = protocol.next_event()
                if event is h11.NEED_DATA:
                    if parts:
                        break
                    await self._connection.fill(self._idle_timeout)
                elif type(event) is h11.Data:
                    parts.append(event.data)
                else:
                    self.ended = True
        except BROKEN as exc:
            if not parts:  # what came before is delivered first; the next call meets the fault again
                raise ConnectionLost("the connection was lost in the middle of the answer", True) from exc
        return b"".join(parts)

    def release(self) -> None:
        self._server._give_back(self._connection, self.ended)


class Server:
    """One model server and the idle connections to it. `close` when done."""

    def __init__(self, url: str, *, connect_timeout: float, idle_timeout: float) -> None:
        self.address = Address(url)
        self._connect_timeout = connect_timeout
        self._idle_timeout = idle_timeout
        self._idle: list[Connection] = []  # newest last, and used first
        self._closed = False
        self._tls: ssl.SSLContext | None = None

    async def send_parts(
        self, method: str, path: str, headers: Headers, parts: AsyncIterator[bytes], *, idle_timeout: float
    ) -> Answer:
        """As `request`, for a body that is passed on as it comes; *headers* say its length or that it is chunked.

        It goes over a connection of its own, once: what has been read from *parts* cannot be sent again.
        """
        connection = await self._connect()
        protocol = connection.protocol
        try:
            head = h11.Request(
                method=method, target=self.address.prefix + path, headers=[*self.address.headers, *headers]
            )
            try:
                await connection.send(protocol.send(head) or b"", idle_timeout)
                async for part in parts:
                    await connection.send(protocol.send(h11.Data(part)) or b"", idle_timeout)
                await connection.send(protocol.send(h11.EndOfMessage()) or b"", idle_timeout)
            except (OSError, trio.BrokenResourceError):
                pass  # it may have answered before it hung up; reading tells
            return await self._read_head(connection, idle_timeout)
        except BROKEN as exc:
            connection.close()
            raise ConnectionLost("the connection was lost before an answer came", True) from exc
        except BaseException:
            connection.close()
            raise

    async def request(
        self, method: str, path: str, body: bytes = b"", *, idle_timeout: float | None = None
    ) -> Answer:
        """Send a request and return its answer, of which only the head has come.

        Raises `ConnectFailed`, `ConnectionLost`, `Silence`.
        """
        if idle_timeout is None:
            idle_timeout = self._idle_timeout
        connection = self._take_idle()
        lost: ConnectionLost | None = None
        if connection is not None:
            began = trio.current_time()
            try:
                return await self._exchange(connection, method, path, body, idle_timeout)
            except ConnectionLost as exc:
                if exc.begun or trio.current_time() - began > RESEND_SECONDS:
                    raise
                lost = exc
        try:
            connection = await self._connect()
        except ConnectFailed:
            if lost is not None:
                raise lost from None  # the server is gone with this request in its hands, which may be why
            raise
        return await self._exchange(connection, method, path, body, idle_timeout)

    def close(self) -> None:
        """Close the idle connections; those at work are closed when they are released."""
        self._closed = True
        while self._idle:
            self._idle.pop().close()

    async def _exchange(
        self, connection: Connection, method: str, path: str, body: bytes, idle_timeout: float
    ) -> Answer:
        protocol = connection.protocol
        headers = self.address.headers.copy()
        if body:
            headers += ((b"Content-Type", b"application/json"), (b"Content-Length", b"%d" % len(body)))
        # send() returns None only for ConnectionClosed.
        request = h11.Request(method=method, target=self.address.prefix + path, headers=headers)
        data = protocol.send(request) or b""
        if body:
            data += protocol.send(h11.Data(body)) or b""
        data += protocol.send(h11.EndOfMessage()) or b""
        begun = False
        try:
            try:
                await connection.send(data, idle_timeout)
            except (OSError, trio.BrokenResourceError):
                pass  # it may have answered before it hung up; reading tells
            except Silence:
                if not connection.has_input():
                    raise
                protocol.send_failed()  # it has answered and takes no more of the request: not to be used again
            while True:
                event = protocol.next_event()
                if type(event) is h11.Response:
                    return Answer(self, connection, event, idle_timeout)
                if event is h11.NEED_DATA:
                    begun |= await connection.fill(idle_timeout) > 0
        except BROKEN as exc:
            connection.close()
            raise ConnectionLost("the connection was lost before an answer came", begun) from exc
        except BaseException:
            connection.close()
            raise

    async def _read_head(self, connection: Connection, idle_timeout: float) -> Answer:
        while True:
            event = connection.protocol.next_event()
            if type(event) is h11.Response:
                return Answer(self, connection, event, idle_timeout)
            if event is h11.NEED_DATA:
                await connection.fill(idle_timeout)

    def _take_idle(self) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if trio.current_time() - connection.idle_since < IDLE_SECONDS and not connection.has_input():
                return connection
            connection.close()
        return None

    def _give_back(self, connection: Connection, ended: bool) -> None:
        protocol = connection.protocol
        reusable = ended and protocol.our_state is h11.DONE and protocol.their_state is h11.DONE
        if not reusable or self._closed or len(self._idle) >= IDLE_MAX or protocol.trailing_data[0]:
            connection.close()
            return
        protocol.start_next_cycle()
        connection.idle_since = trio.current_time()
        self._idle.append(connection)

    async def _connect(self) -> Connection:
        address = self.address
        stream: trio.SocketStream | None = None
        pipe: Plain | Encrypted | None = None
        try:
            with trio.move_on_after(self._connect_timeout):
                stream = await trio.open_tcp_stream(address.host, address.port)
                if address.tls:
                    pipe = Encrypted(await self._handshake(stream))
                else:
                    pipe = Plain(_unwrapped(stream))
                return Connection(pipe)
        except (socket.gaierror, UnicodeError) as exc:  # the latter of what can be no name, such as "a..b"
            raise ConnectFailed(f"the host name {address.host} is unknown") from exc
        except OSError as exc:
            raise ConnectFailed(_reason(exc)) from exc
        except trio.BrokenResourceError as exc:
            raise ConnectFailed(f"no TLS connection: {_reason(exc.__cause__ or exc)}") from exc
        finally:
            if stream is not None and pipe is None:
                stream.socket.close()
        raise ConnectFailed(f"no connection within {self._connect_timeout:g} s")

    async def _handshake(self, stream: trio.SocketStream) -> trio.SSLStream[trio.SocketStream]:
        if self._tls is None:
            self._tls = ssl.create_default_context()
        secure = trio.SSLStream(stream, self._tls, server_hostname=self.address.host, https_compatible=True)
        await secure.do_handshake()
        return secure


def _unwrapped(stream: trio.SocketStream) -> socket.socket:
    """Return the plain non-blocking socket of *stream*, which cannot be used any more."""
    raw = socket.socket(fileno=stream.socket.detach())
    raw.setblocking(False)
    return raw


def _reason(error: BaseException) -> str:
    """Return the plainest words for a failed connect; Trio wraps one error per address it tried."""
    cause = error.__cause__ if error.__cause__ is not None else error
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[-1]
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({cause.verify_message})"
    if isinstance(cause, ConnectionRefusedError):
        return "connection refused"
    return getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
