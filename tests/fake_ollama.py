"""A scriptable model server on real sockets, for faults and timing that no real one produces on demand.

::

    async with open_fake_ollama() as fake:
        fake.script(status(503, "server busy"), says("Hello", " world"))
        ... talk to fake.url ...
        assert fake.requests[1].json()["prompt"] == "Hi"

Each request for chat, generate or embed takes the next reply of the script; when the script is over,
`FakeOllama.default` answers. Other paths answer like Ollama. A reply is an async function of an
`Exchange`; the functions at the end of this file make the usual ones.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import h11
import trio

TYPES = {"/api/chat": "chat", "/api/generate": "generate", "/api/embed": "embed"}
FIGURES = {
    "total_duration": 5_000_000, "load_duration": 1_000_000, "prompt_eval_count": 3,
    "prompt_eval_duration": 1_000_000, "eval_count": 2, "eval_duration": 3_000_000,
}  # fmt: skip
CREATED_AT = "2026-01-01T00:00:00.000000000Z"


class HungUp(Exception):
    """The client closed the connection."""


class Request:
    """One request as it arrived; times are Trio's. Its path may begin with a number (``/7/api/chat``): *prefix*."""

    def __init__(self, method: str, path: str, headers: dict[str, str], body: bytes, connection: int) -> None:
        self.method = method
        self.path = path
        numbered = re.match(r"/\d+(?=/api/)", path)
        self.prefix = numbered[0] if numbered else ""
        self.headers = headers
        self.body = body
        self.connection = connection
        self.arrived_at = trio.current_time()
        self.answered_at: float | None = None
        self.hung_up_at: float | None = None

    def json(self) -> Any:
        return json.loads(self.body)


class Exchange:
    """One request and the means to answer it well or badly."""

    def __init__(self, stream: trio.SocketStream, protocol: h11.Connection, request: Request) -> None:
        self.stream = stream
        self.protocol = protocol
        self.request = request
        self.type = TYPES.get(request.path.removeprefix(request.prefix), "")
        body = _object(request.body) if self.type else {}
        self.broken = body is None
        body = body or {}
        self.model: str = body.get("model", "")
        self.streams: bool = self.type != "embed" and body.get("stream") is not False

    async def send(self, event: h11.Event) -> None:
        try:
            await self.stream.send_all(self.protocol.send(event) or b"")
        except trio.BrokenResourceError:
            raise HungUp from None

    async def begin(
        self, code: int = 200, content_type: str = "application/x-ndjson", **headers: str
    ) -> None:
        pairs = [(name.replace("_", "-"), value) for name, value in headers.items()]
        if "content-length" not in {name.lower() for name, _ in pairs}:
            pairs.append(("Transfer-Encoding", "chunked"))
        await self.send(h11.Response(status_code=code, headers=[("Content-Type", content_type), *pairs]))

    async def data(self, data: bytes) -> None:
        await self.send(h11.Data(data))

    async def line(self, value: object) -> None:
        await self.data(json.dumps(value).encode() + b"\n")

    async def end(self) -> None:
        await self.send(h11.EndOfMessage())

    async def whole(
        self, code: int, body: bytes, content_type: str = "application/json; charset=utf-8"
    ) -> None:
        await self.begin(code, content_type, Content_Length=str(len(body)))
        if self.request.method != "HEAD":
            await self.data(body)
        await self.end()

    def text_line(self, text: str = "", thinking: str = "", **more: object) -> dict[str, object]:
        head: dict[str, object] = {"model": self.model, "created_at": CREATED_AT}
        if self.type == "chat":
            message = {"role": "assistant", "content": text, **({"thinking": thinking} if thinking else {})}
            return {**head, "message": message, "done": False, **more}
        return {
            **head,
            "response": text,
            **({"thinking": thinking} if thinking else {}),
            "done": False,
            **more,
        }

    def last_line(self, text: str = "", **more: object) -> dict[str, object]:
        return self.text_line(text, **{"done": True, "done_reason": "stop", **FIGURES, **more})  # type: ignore[arg-type]

    def hang_up(self) -> None:
        """Close the connection properly, at once."""
        self.stream.socket.close()

    def reset(self) -> None:
        """Make the client see "connection reset by peer"."""
        self.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.stream.socket.close()

    async def pause(self, seconds: float) -> None:
        """Wait, and notice at once when the client closes the connection meanwhile."""
        if seconds:
            with trio.move_on_after(seconds):
                await self.wait_hung_up()

    async def wait_hung_up(self) -> None:
        """Wait until the client closes the connection."""
        with contextlib.suppress(trio.BrokenResourceError):
            while await self.stream.receive_some(4096):
                pass
        raise HungUp


Reply = Callable[[Exchange], Awaitable[None]]


class FakeOllama:
    """What the fake has seen, and what it will answer."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.requests: list[Request] = []
        self.connections = 0
        self.open_connections = 0
        self.in_flight = 0
        self.max_in_flight = 0
        self.models = ["llama3.2"]
        self.loaded: list[str] = []
        self.default: Reply = says("Hello", " world")
        self.other: dict[str, Reply] = {}  # replies for further paths
        self.rest: Reply = self._other  # for all that is no work: version, tags, ps
        self.changed = trio.Event()  # set and replaced at each request, answer and closed connection
        self._script: deque[Reply] = deque()

    def script(self, *replies: Reply) -> None:
        """Answer the next requests with these, in order; then go on with `default`."""
        self._script.extend(replies)

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        """Wait until *condition* holds; it is tried when something happened here."""
        while not condition():
            await self.changed.wait()

    def _note(self) -> None:
        self.changed.set()
        self.changed = trio.Event()

    async def serve_connection(self, stream: trio.SocketStream) -> None:
        self.connections += 1
        self.open_connections += 1
        number = self.connections
        protocol = h11.Connection(h11.SERVER)
        try:
            while (request := await _read_request(stream, protocol, number)) is not None:
                await self._answer(Exchange(stream, protocol, request))
                if protocol.our_state is not h11.DONE or protocol.their_state is not h11.DONE:
                    break
                protocol.start_next_cycle()
        except (trio.BrokenResourceError, trio.ClosedResourceError, h11.RemoteProtocolError, HungUp):
            pass
        finally:
            stream.socket.close()
            self.open_connections -= 1
            self._note()

    async def _answer(self, exchange: Exchange) -> None:
        request = exchange.request
        self.requests.append(request)
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        self._note()
        try:
            if exchange.broken:
                reply = status(400, "invalid JSON in the body")
            elif exchange.type:
                reply = self._script.popleft() if self._script else self.default
            else:
                reply = self.other.get(request.path, self.rest)
            await reply(exchange)
            request.answered_at = trio.current_time()
        except HungUp:
            request.hung_up_at = trio.current_time()
            raise
        finally:
            self.in_flight -= 1
            self._note()

    async def _other(self, exchange: Exchange) -> None:
        bodies: dict[str, object] = {
            "/api/version": {"version": "0.32.15"},
            "/api/tags": {"models": [{"name": name, "model": name} for name in self.models]},
            "/api/ps": {"models": [{"name": name, "model": name} for name in self.loaded]},
        }
        path = exchange.request.path.removeprefix(exchange.request.prefix)
        if path in bodies:
            await exchange.whole(200, json.dumps(bodies[path]).encode())
        else:
            await exchange.whole(404, b"404 page not found", "text/plain")


def _object(body: bytes) -> dict[str, Any] | None:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


async def _read_request(
    stream: trio.SocketStream, protocol: h11.Connection, connection: int
) -> Request | None:
    head: h11.Request | None = None
    body = bytearray()
    while True:
        event = protocol.next_event()
        if event is h11.NEED_DATA:
            protocol.receive_data(bytes(await stream.receive_some(65_536)))
        elif isinstance(event, h11.Request):
            head = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage) and head is not None:
            headers = {name.decode(): value.decode() for name, value in head.headers}
            return Request(head.method.decode(), head.target.decode(), headers, bytes(body), connection)
        elif isinstance(event, h11.ConnectionClosed):
            return None


@contextlib.asynccontextmanager
async def open_fake_ollama(port: int = 0) -> AsyncIterator[FakeOllama]:
    """Run a fake on *port* of 127.0.0.1, 0 for a free one."""
    listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
    fake = FakeOllama(listeners[0].socket.getsockname()[1])
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, fake.serve_connection, listeners)
        try:
            yield fake
        finally:
            nursery.cancel_scope.cancel()


def unused_port() -> int:
    """Return a port of 127.0.0.1 where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


# Replies


def says(*words: str, thinking: tuple[str, ...] = (), first_after: float = 0.0, pause: float = 0.0) -> Reply:
    """A good answer, streamed as asked for; embeddings are two numbers per input."""

    async def reply(exchange: Exchange) -> None:
        await exchange.pause(first_after)
        if exchange.type == "embed":
            given = exchange.request.json().get("input", [])
            texts = given if isinstance(given, list) else [given]
            answer = {"model": exchange.model, "embeddings": [[0.5, 0.25] for _ in texts], **FIGURES}
            await exchange.whole(200, json.dumps(answer).encode())
            return
        if not exchange.streams:
            await exchange.whole(200, json.dumps(exchange.last_line("".join(words))).encode())
            return
        await exchange.begin()
        for thought in thinking:
            await exchange.line(exchange.text_line(thinking=thought))
            await exchange.pause(pause)
        for word in words:
            await exchange.line(exchange.text_line(word))
            await exchange.pause(pause)
        await exchange.line(exchange.last_line())
        await exchange.end()

    return reply


def lines(*values: object, end: bool = True) -> Reply:
    """A stream of just these JSON lines; without *end* the connection is closed in the middle."""

    async def reply(exchange: Exchange) -> None:
        await exchange.begin()
        for value in values:
            await exchange.line(value)
        if end:
            await exchange.end()
        else:
            exchange.hang_up()

    return reply


def loads() -> Reply:
    """The answer to a request without prompt or messages: the model is loaded, nothing more."""

    async def reply(exchange: Exchange) -> None:
        answer = exchange.text_line(done=True, done_reason="load")
        await exchange.whole(200, json.dumps(answer).encode())

    return reply


def status(code: int, text: str, *, plain: bool = False, **headers: str) -> Reply:
    """An error before the first byte of an answer: ``{"error": text}``, or the bare text."""

    async def reply(exchange: Exchange) -> None:
        body = text.encode() if plain else json.dumps({"error": text}).encode()
        kind = "text/plain" if plain else "application/json; charset=utf-8"
        await exchange.begin(code, kind, Content_Length=str(len(body)), **headers)
        await exchange.data(body)
        await exchange.end()

    return reply


def error_line(text: str, *words: str) -> Reply:
    """Some text, then an error in the middle of the 200."""

    async def reply(exchange: Exchange) -> None:
        await exchange.begin()
        for word in words:
            await exchange.line(exchange.text_line(word))
        await exchange.line({"error": text})
        await exchange.end()

    return reply


def stops_without_done(*words: str) -> Reply:
    """A 200 that ends properly but was never done."""

    async def reply(exchange: Exchange) -> None:
        await exchange.begin()
        for word in words:
            await exchange.line(exchange.text_line(word))
        await exchange.end()

    return reply


def resets(*words: str) -> Reply:
    """Connection reset, after *words* if there are any, before the first byte if not."""

    async def reply(exchange: Exchange) -> None:
        if words:
            await exchange.begin()
            for word in words:
                await exchange.line(exchange.text_line(word))
        exchange.reset()

    return reply


def hangs_up(*words: str) -> Reply:
    """Connection closed without an answer, or in the middle of one."""

    async def reply(exchange: Exchange) -> None:
        if words:
            await exchange.begin()
            for word in words:
                await exchange.line(exchange.text_line(word))
        exchange.hang_up()

    return reply


def falls_silent(*words: str) -> Reply:
    """Some text, or not even a head, and then nothing until the client gives up."""

    async def reply(exchange: Exchange) -> None:
        if words:
            await exchange.begin()
            for word in words:
                await exchange.line(exchange.text_line(word))
        await exchange.wait_hung_up()

    return reply


def sends(raw: bytes, *, close: bool = True) -> Reply:
    """Just these bytes on the wire, HTTP or not."""

    async def reply(exchange: Exchange) -> None:
        await exchange.stream.send_all(raw)
        if close:
            exchange.hang_up()
        else:
            await exchange.wait_hung_up()

    return reply
