"""A server that sends a byte now and then holds no client for longer than its timeout, whatever it drips."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest
import trio
import trustme

from oq import errors
from oq.builders import generate
from oq.cli.doctor import _model_server
from oq.client import AsyncClient, Client, Patience, transport
from oq.client.deadline import answered_by, heed_deadlines
from oq.config.settings import HostSettings
from tests.client.test_client import END, SUBMITTED, lines, text

TIMEOUT = 0.3
MOST = 20.0  # seconds of a drip: a client without a bound sees its end, and says something else
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n"
LATE = "too slowly|timed out|took too long"
Serve = Callable[[socket.socket, threading.Event], object]
HEADS = {
    "a head": (b"HTTP/1.1 200 OK\r\nX-More: ", b"a"),
    "answers before the answer": (b"", b"HTTP/1.1 102 Processing\r\n\r\n"),
}
BODIES = {
    "a body": (OK + b"\r\n[", b" "),
    "the size of a piece": (OK + b"Transfer-Encoding: chunked\r\n\r\n1;", b"a"),
    "an error": (b"HTTP/1.1 500 Oops\r\n\r\n", b"x"),
}


def drip(first: bytes, then: bytes, pause: float = 0.02) -> Serve:
    def serve(sock: socket.socket, ended: threading.Event) -> None:
        sock.recv(65_536)
        sock.sendall(first)
        for _ in range(int(MOST / pause)):
            sock.sendall(then)
            if ended.wait(pause):
                return

    return serve


@contextmanager
def listening(serve: Serve, path: str | None = None) -> Iterator[str]:
    """Let *serve* have every connection; it ends when the event is set. Give the address, or the *path* of a socket."""
    ended = threading.Event()
    threads = []

    def one(sock: socket.socket) -> None:
        with sock:
            try:
                serve(sock, ended)
            except OSError:
                pass  # the client has gone

    def accept() -> None:
        while True:
            sock, _ = listener.accept()
            if ended.is_set():
                sock.close()
                return
            threads.append(threading.Thread(target=one, args=(sock,)))
            threads[-1].start()

    with socket.socket(socket.AF_UNIX if path else socket.AF_INET) as listener:
        listener.bind(path or ("127.0.0.1", 0))
        listener.listen()
        threads.append(threading.Thread(target=accept))
        threads[0].start()
        try:
            yield path or f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            ended.set()
            with socket.socket(listener.family) as last:
                last.connect(listener.getsockname())
            for thread in threads:
                thread.join(10)


@pytest.fixture
def at() -> Iterator[Callable[[Serve], str]]:
    with ExitStack() as stack:
        yield lambda serve: stack.enter_context(listening(serve))


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "SILENCE_SECONDS", TIMEOUT)


@pytest.fixture(params=["sync", "trio", "asyncio"])
def ask(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Run a verb of a client that tries once; "follow" gives all lines."""

    def ask(url: str, verb: str, *arguments: Any) -> Any:
        more: dict[str, Any] = {"timeout": TIMEOUT, "patience": Patience(retries=0)}
        if request.param == "sync":
            with Client(url, **more) as client:
                found = getattr(client, verb)(*arguments)
                return list(found) if verb == "follow" else found

        async def main() -> Any:
            async with AsyncClient(url, **more) as client:
                found = getattr(client, verb)(*arguments)
                return await found if isinstance(found, Awaitable) else [line async for line in found]

        return trio.run(main) if request.param == "trio" else asyncio.run(main())

    return ask


@pytest.mark.slow
@pytest.mark.parametrize("what", [*HEADS, *BODIES])
def test_an_answer_that_drips_is_given_up(ask, at, what: str):
    url = at(drip(*(HEADS | BODIES)[what]))
    with pytest.raises(errors.ServerUnreachable, match=LATE):
        ask(url, "status")


@pytest.mark.slow
@pytest.mark.parametrize("what", [*HEADS, "an error"])
def test_a_stream_that_does_not_begin_is_given_up(ask, at, what: str):
    with pytest.raises(errors.ServerUnreachable, match=LATE):
        ask(at(drip(*(HEADS | BODIES)[what])), "follow", "abc")


@pytest.mark.slow
def test_a_line_of_a_stream_that_drips_is_given_up(ask, at):
    with pytest.raises(errors.ServerUnreachable, match="a line of its answer arrived too slowly"):
        ask(at(drip(OK + b'\r\n{"type":"', b"a")), "follow", "abc")


def test_sending_ends_at_the_deadline_as_reading_does(at):
    client = heed_deadlines(httpx.Client())
    with client, answered_by(time.monotonic()), pytest.raises(httpx.WriteTimeout, match="too slowly"):
        client.post(at(drip(b"", b"")), content=b"x")


@pytest.mark.slow
def test_a_proxy_that_drips_is_given_up(ask, at, monkeypatch):
    monkeypatch.setenv("http_proxy", at(drip(*HEADS["a head"])))
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    with pytest.raises(errors.ServerUnreachable, match=LATE):
        ask("http://queue.test", "status")


@pytest.mark.slow
def test_a_server_that_drips_under_tls_is_given_up(ask, at, monkeypatch, tmp_path):
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))

    def serve(sock: socket.socket, ended: threading.Event) -> None:
        with context.wrap_socket(sock, server_side=True) as secret:
            drip(*HEADS["a head"])(secret, ended)

    with pytest.raises(errors.ServerUnreachable, match=LATE):
        ask(at(serve).replace("http:", "https:"), "status")


@pytest.mark.slow
def test_a_server_at_a_unix_socket_that_drips_is_given_up(tmp_path):
    serve = drip(*HEADS["a head"])
    with listening(serve, str(tmp_path / "socket")) as path:
        over = httpx.HTTPTransport(uds=path)
        with Client(
            "http://oq.test", timeout=TIMEOUT, patience=Patience(retries=0), transport=over
        ) as client:
            with pytest.raises(errors.ServerUnreachable, match=LATE):
                client.status()


@pytest.mark.slow
@pytest.mark.parametrize("what", ["a head", "a body"])
def test_the_doctor_does_not_wait_for_a_model_server_that_drips(at, what: str):
    url = at(drip(*(HEADS | BODIES)[what]))
    state, _, text = _model_server(HostSettings(name="a", url=url), 1.0)
    assert (state, "too slowly" in text or "timed out" in text) == ("fail", True), text


# --- what is slow for a reason


def answer(value: bytes) -> bytes:
    return OK + b"Content-Length: %d\r\n\r\n%s" % (len(value), value)


@pytest.mark.slow
def test_a_stream_whose_lines_end_in_time_may_last(ask, at):
    def serve(sock: socket.socket, ended: threading.Event) -> None:
        sock.recv(65_536)
        sock.sendall(OK + b"\r\n")
        told = lines(*[text("x", place) for place in range(40)], END)
        for begin in range(0, len(told), 70):  # most end in the middle of a line
            sock.sendall(told[begin : begin + 70])
            ended.wait(0.03)  # 1.5 s in all, five times what a line may take

    assert "".join(line.text for line in ask(at(serve), "follow", "abc")) == "x" * 40


@pytest.mark.slow
def test_an_answer_of_many_bytes_may_take_longer_than_the_timeout(ask, at):
    def serve(sock: socket.socket, ended: threading.Event) -> None:
        sock.recv(65_536)
        body = b'{"pending_tasks": 3}' + b" " * 20_000
        sock.sendall(OK + b"Content-Length: %d\r\n\r\n" % len(body))
        for at in range(0, len(body), 500):
            sock.sendall(body[at : at + 500])
            ended.wait(0.02)  # 0.8 s

    assert ask(at(serve), "status").pending_tasks == 3


@pytest.mark.slow
def test_a_long_poll_may_be_held_for_as_long_as_it_asked_for(ask, at):
    def serve(sock: socket.socket, ended: threading.Event) -> None:
        sock.recv(65_536)
        ended.wait(3 * TIMEOUT)
        sock.sendall(answer(b'{"id": "abc", "status": "completed"}'))

    assert ask(at(serve), "wait", "abc", 10.0).status == "completed"


# --- what has no end


ENDLESS = {
    "a head": (b"HTTP/1.1 200 OK\r\n", b"X-More: " + b"x" * 60_000 + b"\r\n"),
    "a body": (OK + b"\r\n[", b"x" * 60_000),
    "an error": (b"HTTP/1.1 500 Oops\r\n\r\n", b"x" * 60_000),
}


@pytest.mark.parametrize("verb", ["status", "follow"])
@pytest.mark.parametrize("what", ENDLESS)
def test_an_endless_answer_is_given_up_at_its_most_bytes(ask, at, monkeypatch, what: str, verb: str):
    monkeypatch.setattr(transport, "ANSWER_MAX", 200_000)
    monkeypatch.setattr(transport, "SILENCE_SECONDS", MOST)
    said = "Receive buffer too long" if what == "a head" else "has more than 200000 bytes"
    with pytest.raises(errors.ServerUnreachable, match=said):
        ask(at(drip(*ENDLESS[what], 0.001)), verb, *(["abc"] if verb == "follow" else []))


def test_a_request_that_lost_its_answer_is_sent_again_under_the_same_key_over_the_network(at):
    asked: list[bytes] = []

    def serve(sock: socket.socket, ended: threading.Event) -> None:
        asked.append(sock.recv(65_536))
        if len(asked) > 1:
            sock.sendall(answer(lines(SUBMITTED)))

    with Client(at(serve), patience=Patience(first=0.0)) as client:
        client.submit(generate("m", "x"))
    keys = [
        line for head in asked for line in head.lower().split(b"\r\n") if line.startswith(b"idempotency-key:")
    ]
    assert len(asked) == len(keys) == 2
    assert len(set(keys)) == 1
