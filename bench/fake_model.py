"""A fake Ollama that costs next to no CPU, so that a benchmark measures the queue and not its model server.

    python bench/fake_model.py --port 18300 --latency-ms 50 --tokens 8

Every request gets the same prepared bytes after the latency, in one write, or token by token with
`--token-ms`. One thread, one epoll loop, prepared answers; it understands only as much HTTP as the queue
sends: Content-Length bodies on kept connections, one request at a time.

GET /stats tells what it saw: requests, connections, how many at once, and with ?slots=N the gaps in ms
between an answer's end and the next request on N slots. GET /reset forgets it. SIGTERM or Ctrl-C ends it.
"""

from __future__ import annotations

import argparse
import gc
import heapq
import itertools
import json
import random
import select
import signal
import socket
import time
from array import array

NAME = "fake"


def chunk(line: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(line), line)


def lines(kind: str, tokens: int, padding: int = 0) -> list[bytes]:
    """Return the answer's lines as Ollama streams them."""
    head = {"model": NAME, "created_at": "2026-01-01T00:00:00Z"}
    end = {
        "done": True, "done_reason": "stop", "total_duration": 1_000_000, "load_duration": 1000,
        "prompt_eval_count": 5, "prompt_eval_duration": 1000, "eval_count": tokens, "eval_duration": 1000,
    }  # fmt: skip

    def text(word: str) -> dict[str, object]:
        return {"message": {"role": "assistant", "content": word}} if kind == "chat" else {"response": word}

    found = [{**head, **text(f" word{n}" + "." * padding), "done": False} for n in range(tokens)] + [
        {**head, **text(""), **end}
    ]
    return [json.dumps(line, separators=(",", ":")).encode() + b"\n" for line in found]


def whole(body: object, status: bytes = b"200 OK") -> bytes:
    data = json.dumps(body, separators=(",", ":")).encode()
    return b"HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (
        status,
        len(data),
        data,
    )


class Book:
    """What the fake saw. Times are monotonic seconds."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.begun = array("d")
        self.ended = array("d")
        self.connections = self.now = self.most = self.given_up = 0

    def report(self, slots: int) -> dict[str, object]:
        begun, ended = self.begun, self.ended
        # With all slots busy, the n-th end frees the slot of the (n + slots)-th start.
        gaps = sorted((b - e) * 1000 for e, b in zip(ended, begun[slots:], strict=False)) if slots else []
        return {
            "requests": len(begun), "answered": len(ended), "given_up": self.given_up,
            "connections": self.connections,
            "in_flight": self.now, "max_in_flight": self.most,
            "seconds": round(ended[-1] - begun[0], 6) if ended else 0.0,
            "gap_ms": {p: round(gaps[len(gaps) * p // 100], 4) for p in (50, 90, 99)} if gaps else {},
        }  # fmt: skip


class Connection:
    """One connection. `parts` is the answer being given, `left` what the socket would not take yet."""

    __slots__ = ("at", "buffer", "left", "parts", "sock")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.buffer = b""
        self.left = b""
        self.parts: list[bytes] | None = None
        self.at = 0


class Fake:
    """The whole server."""

    def __init__(self, listener: socket.socket, options: argparse.Namespace) -> None:
        self.listener = listener
        self.latency = options.latency_ms / 1000
        self.spread = options.spread
        self.random = random.Random(1)
        self.token_seconds = options.token_ms / 1000
        self.answers = prepared(options.tokens, options.token_ms, options.padding)
        self.book = Book()
        self.epoll = select.epoll()
        self.epoll.register(listener.fileno(), select.EPOLLIN)
        self.connections: dict[int, Connection] = {}
        self.timers: list[tuple[float, int, Connection]] = []
        self.order = itertools.count()

    def run(self) -> None:
        epoll, timers, connections = self.epoll, self.timers, self.connections
        listening = self.listener.fileno()
        while True:
            if timers:
                # epoll counts whole milliseconds, select microseconds; a late answer would look like
                # a slow queue.
                select.select([epoll], [], [], max(0.0, timers[0][0] - time.monotonic()))
            for number, event in epoll.poll(0 if timers else -1):
                if number == listening:
                    self.accept()
                elif event & select.EPOLLOUT:
                    self.write(connections[number], b"")
                else:
                    self.read(connections[number])
            now = time.monotonic()
            while timers and timers[0][0] <= now:
                self.answer(heapq.heappop(timers)[2])

    def accept(self) -> None:
        sock, _ = self.listener.accept()
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connections[sock.fileno()] = Connection(sock)
        self.epoll.register(sock.fileno(), select.EPOLLIN)
        self.book.connections += 1

    def close(self, connection: Connection) -> None:
        self.epoll.unregister(connection.sock.fileno())
        del self.connections[connection.sock.fileno()]
        connection.sock.close()
        if connection.parts is not None:
            connection.parts = None
            self.book.now -= 1
            self.book.given_up += 1

    def read(self, connection: Connection) -> None:
        try:
            data = connection.sock.recv(262_144)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close(connection)
            return
        data = connection.buffer = connection.buffer + data if connection.buffer else data
        head_end = data.find(b"\r\n\r\n")
        if head_end < 0:
            return
        head = data[:head_end]
        target = head.split(b" ", 2)[1]
        parts = self.answers.get(target)
        if parts is None:
            connection.buffer = b""
            self.write(connection, self.other(target.decode()))
            return
        at = head.lower().find(b"\r\ncontent-length:")
        length = int(head[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(data) < head_end + 4 + length:
            return
        connection.buffer = data[head_end + 4 + length :]
        now = time.monotonic()
        book = self.book
        book.begun.append(now)
        book.now += 1
        book.most = max(book.most, book.now)
        connection.parts = parts
        connection.at = 0
        if self.latency:
            latency = self.latency * self.random.uniform(1 - self.spread, 1 + self.spread)
            heapq.heappush(self.timers, (now + latency, next(self.order), connection))
        else:
            self.answer(connection)

    def answer(self, connection: Connection) -> None:
        parts = connection.parts
        if parts is None:
            return  # given up meanwhile
        part = parts[connection.at]
        connection.at += 1
        if connection.at < len(parts):
            heapq.heappush(self.timers, (time.monotonic() + self.token_seconds, next(self.order), connection))
        else:
            connection.parts = None
            self.book.now -= 1
            self.book.ended.append(time.monotonic())
        self.write(connection, part)

    def write(self, connection: Connection, data: bytes) -> None:
        waited = bool(connection.left)
        data = connection.left + data
        try:
            sent = connection.sock.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close(connection)
            return
        connection.left = data[sent:]
        if waited or connection.left:
            events = select.EPOLLIN | select.EPOLLOUT if connection.left else select.EPOLLIN
            self.epoll.modify(connection.sock.fileno(), events)

    def other(self, target: str) -> bytes:
        path, _, query = target.partition("?")
        if path == "/stats":
            return whole(self.book.report(int(query.partition("=")[2] or 0)))
        if path == "/reset":
            self.book.reset()
            return whole({})
        if path == "/api/version":
            return whole({"version": "0.32.15"})
        if path in ("/api/tags", "/api/ps"):
            return whole({"models": [{"name": NAME, "model": NAME}]})
        return whole({"error": "not found"}, b"404 Not Found")


def prepared(tokens: int, token_ms: float, padding: int = 0) -> dict[bytes, list[bytes]]:
    """Return per path what to write, in order."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
    answers: dict[bytes, list[bytes]] = {}
    for kind in ("chat", "generate"):
        parts = [chunk(line) for line in lines(kind, tokens, padding)]
        parts[0] = head + parts[0]
        parts[-1] += b"0\r\n\r\n"
        answers[b"/api/" + kind.encode()] = parts if token_ms else [b"".join(parts)]
    embedding = {"model": NAME, "embeddings": [[0.1] * 16], "total_duration": 1000, "prompt_eval_count": 5}
    answers[b"/api/embed"] = [whole(embedding)]
    return answers


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=18300, help="0 takes a free one, printed at the start")
    parser.add_argument("--latency-ms", type=float, default=0.0, help="from the request to the first byte")
    parser.add_argument(
        "--spread", type=float, default=0.0, help="the latency varies by this share of it, 0 to 1"
    )
    parser.add_argument("--tokens", type=int, default=4, help="lines of text in an answer")
    parser.add_argument(
        "--token-ms", type=float, default=0.0, help="pause between lines; 0: all in one write"
    )
    parser.add_argument("--padding", type=int, default=0, help="characters more in each line of text")
    options = parser.parse_args()
    with socket.create_server((options.host, options.port), backlog=1024) as listener:
        listener.setblocking(False)
        fake = Fake(listener, options)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        gc.disable()  # a few objects a request, none of them in a cycle
        print(f"fake model on http://{options.host}:{listener.getsockname()[1]}", flush=True)
        try:
            fake.run()
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
