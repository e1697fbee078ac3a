"""Every row of the decision table, over a real connection."""

from __future__ import annotations

import gzip
import socket
from typing import NoReturn

import pytest
import trio.testing

from oq.backends import OllamaBackend
from oq.core.model import TaskType
from tests.backends.attempts import MakeBackend, attempt, failed_attempt, spec, text
from tests.fake_ollama import (
    FakeOllama,
    Reply,
    error_line,
    falls_silent,
    hangs_up,
    lines,
    open_fake_ollama,
    resets,
    sends,
    status,
    stops_without_done,
    unused_port,
)

STOPPED = (
    "model runner has unexpectedly stopped, this may be due to resource limitations or an internal error"
)
DEEP = b"[" * 20_000 + b"]" * 20_000


def answers(body: bytes, code: int = 200) -> Reply:
    return sends(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (code, len(body), body))


ROWS: list[tuple[str, Reply, str, bool, int | None]] = [
    # what, reply, code, retryable, at most so many retries
    ("reset before any byte", resets(), "connection_lost", True, None),
    ("closed before any byte", hangs_up(), "connection_lost", True, None),
    ("reset in the middle", resets("Hel"), "connection_lost", True, 3),
    ("closed in the middle", hangs_up("Hel"), "connection_lost", True, 3),
    ("503", status(503, "server busy, please try again.  maximum pending requests exceeded"), "busy", True, None),
    ("429", status(429, "too many requests"), "busy", True, None),
    ("502", status(502, "bad gateway", plain=True), "bad_gateway", True, None),
    ("504", status(504, "gateway timeout", plain=True), "bad_gateway", True, None),
    ("499", status(499, "request closed"), "closed", True, None),
    ("500 runner stopped", status(500, STOPPED), "runner_failed", True, 3),
    ("500 runner error", status(500, "an error was encountered while running the model: boom"), "runner_failed", True, 3),
    ("500 unexpected EOF", status(500, 'Post "http://127.0.0.1:1/completion": unexpected EOF'), "runner_failed", True, 3),
    ("500 slow load", status(500, "timed out waiting for llama-server to start: "), "load_failed", True, 2),
    ("500 dead load", status(500, "llama-server process has terminated: exit status 1"), "load_failed", True, 2),
    ("500 memory", status(500, "model requires more system memory (9 GiB) than is available (2 GiB)"),
     "out_of_memory", True, 2),
    ("500 cuda memory", status(500, "cudaMalloc failed: out of memory"), "out_of_memory", True, 2),
    ("500 option", status(500, 'option "temperature" must be of type float32'), "invalid_request", False, None),
    ("500 format", status(500, 'invalid format: "xml"; expected "json" or a valid JSON Schema object'),
     "invalid_request", False, None),
    ("500 template", status(500, "template: :1: unexpected EOF"), "invalid_request", False, None),
    ("500 tensor", status(500, "tensor 'blk.0' data 12 exceeds file size 4"), "model_damaged", False, None),
    ("any other 500", status(500, "something new"), "server_failed", True, 3),
    ("another 5xx", status(507, "no room"), "server_failed", True, 3),
    ("404 model", status(404, 'model "llama3.2" not found, try pulling it first'), "model_not_found", False, None),
    ("404 model, short", status(404, "model 'llama3.2' not found"), "model_not_found", False, None),
    ("404 page", status(404, "404 page not found", plain=True), "not_found", False, None),
    ("400", status(400, '"llama3.2" does not support tools'), "invalid_request", False, None),
    ("400 with a text that a 500 would be forgiven", status(400, "out of memory"), "invalid_request", False, None),
    ("401", status(401, "unauthorized"), "unauthorized", False, None),
    ("403 empty", status(403, "", plain=True), "forbidden", False, None),
    ("405", status(405, "405 method not allowed", plain=True), "unsupported", False, None),
    ("501", status(501, "This server does not support embeddings."), "unsupported", False, None),
    ("301", status(301, "", plain=True, Location="https://elsewhere/"), "unexpected_status", False, None),
    ("line: runner stopped", error_line(STOPPED, "Hel"), "runner_failed", True, 3),
    ("line: EOF", error_line("an error was encountered while running the model: unexpected EOF", "Hel"),
     "runner_failed", True, 3),
    ("line: option", error_line('option "seed" must be of type integer'), "invalid_request", False, None),
    ("line: anything else", error_line("boom", "Hel"), "server_failed", True, 3),
    ("never done", stops_without_done("Hel"), "incomplete", True, 2),
    ("never done, nothing said", lines(), "incomplete", True, 2),
    ("a line cut in two", sends(b'HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n{"respo'), "incomplete", True, 2),
    ("not Ollama", sends(b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n<html>\n"), "bad_answer", True, 2),
    ("a web page in one line", answers(b"<html></html>"), "bad_answer", True, 2),
    ("text that is not UTF-8", answers(b'{"response":"a\xff"}\n'), "bad_answer", True, 2),
    ("a field nobody reads that is not UTF-8", answers(b'{"model":"\xff","response":"a","done":true}\n'), "bad_answer", True, 2),
    ("JSON nested too deep", answers(b'{"x":' + DEEP + b',"done":true}\n'), "bad_answer", True, 2),
    ("an error nested too deep", answers(b'{"error":' + DEEP + b"}\n"), "bad_answer", True, 2),
    ("500 nested too deep", answers(DEEP, 500), "server_failed", True, 3),
    ("not HTTP", sends(b"220 mail.example ESMTP\r\n\r\n"), "connection_lost", True, 3),
]  # fmt: skip


@pytest.mark.parametrize(
    ("reply", "code", "retryable", "limit"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS]
)
async def test_each_cause_has_its_verdict(
    fake: FakeOllama, backend: OllamaBackend, reply: Reply, code: str, retryable: bool, limit: int | None
) -> None:
    fake.script(reply)
    _, error = await failed_attempt(backend, spec())
    assert (error.code, error.retryable, error.retry_limit) == (code, retryable, limit), error.message
    assert not error.unreachable
    assert len(fake.requests) == 1


@pytest.mark.parametrize("task_type", ["chat", "generate"])
async def test_text_delivered_before_a_fault_was_delivered(
    fake: FakeOllama, backend: OllamaBackend, task_type: TaskType
) -> None:
    fake.script(resets("Hel", "lo"))
    pieces, _ = await failed_attempt(backend, spec(task_type))
    # A reset may overtake what was sent, but nothing is made up.
    assert "Hello".startswith(text(pieces))


async def test_an_error_line_comes_after_the_text_before_it(fake: FakeOllama, backend: OllamaBackend) -> None:
    fake.script(error_line(STOPPED, "Hel", "lo"))
    pieces, error = await failed_attempt(backend, spec())
    assert text(pieces) == "Hello"
    assert "model runner has unexpectedly stopped" in error.message


async def test_a_refused_connection_means_unreachable(make_backend: MakeBackend) -> None:
    port = unused_port()
    _, error = await failed_attempt(make_backend(f"http://127.0.0.1:{port}"), spec())
    assert (error.code, error.retryable, error.unreachable) == ("unreachable", True, True)
    assert f"http://127.0.0.1:{port}" in error.message
    assert "connection refused" in error.message


async def test_an_unknown_host_name_means_unreachable(make_backend: MakeBackend) -> None:
    class NoNames(trio.abc.HostnameResolver):
        async def getaddrinfo(self, *args: object) -> NoReturn:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        async def getnameinfo(self, *args: object) -> NoReturn:
            raise NotImplementedError

    trio.socket.set_custom_hostname_resolver(NoNames())
    _, error = await failed_attempt(make_backend("http://gpu9.invalid"), spec())
    assert (error.code, error.unreachable) == ("unreachable", True)
    assert "gpu9.invalid is unknown" in error.message


async def test_a_connection_that_takes_too_long_means_unreachable(
    make_backend: MakeBackend, clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*args: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(trio, "open_tcp_stream", never)
    began = trio.current_time()
    _, error = await failed_attempt(make_backend(connect_timeout=5.0), spec())
    assert (error.code, error.unreachable) == ("unreachable", True)
    assert trio.current_time() - began == pytest.approx(5.0)
    assert "within 5 s" in error.message


@pytest.mark.parametrize("words", [(), ("Hel", "lo")], ids=["before the head", "in the middle"])
async def test_silence_ends_the_attempt_after_the_idle_timeout(
    fake: FakeOllama, make_backend: MakeBackend, clock: trio.testing.MockClock, words: tuple[str, ...]
) -> None:
    fake.script(falls_silent(*words))
    began = trio.current_time()
    pieces, error = await failed_attempt(make_backend(idle_timeout=30.0), spec())
    assert (error.code, error.retryable, error.unreachable) == ("idle_timeout", True, False)
    assert error.message.startswith("timeout")
    assert "ollama.idle_timeout" in error.message
    assert trio.current_time() - began == pytest.approx(30.0)
    assert text(pieces) == "".join(words)
    await fake.wait_until(lambda: fake.requests[0].hung_up_at is not None)


async def test_the_message_of_a_missing_model_says_how_to_get_it(
    fake: FakeOllama, backend: OllamaBackend
) -> None:
    fake.script(status(404, 'model "qwen3:4b" not found, try pulling it first'))
    _, error = await failed_attempt(backend, spec(model="qwen3:4b"))
    assert "ollama pull qwen3:4b" in error.message
    assert error.status == 404


async def test_a_redirect_says_where_to(fake: FakeOllama, backend: OllamaBackend) -> None:
    fake.script(status(308, "", plain=True, Location="https://elsewhere/"))
    _, error = await failed_attempt(backend, spec())
    assert "https://elsewhere/" in error.message


async def test_a_redirect_is_not_followed(fake: FakeOllama, backend: OllamaBackend) -> None:
    async with open_fake_ollama() as elsewhere:
        for code in (301, 302, 303, 307, 308):
            fake.script(status(code, "", plain=True, Location=f"{elsewhere.url}/api/chat"))
            _, error = await failed_attempt(backend, spec())
            assert "moved to" in error.message
        assert elsewhere.requests == []


@pytest.mark.parametrize(("code", "verdict"), [(200, "bad_answer"), (500, "server_failed")])
async def test_an_answer_that_is_packed_is_said_to_be(
    fake: FakeOllama, backend: OllamaBackend, code: int, verdict: str
) -> None:
    packed = gzip.compress(b'{"error":"boom"}\n')
    head = b"HTTP/1.1 %d X\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % (code, len(packed))
    fake.script(sends(head + packed))
    _, error = await failed_attempt(backend, spec())
    assert (error.code, error.body) == (verdict, b"")
    assert "unasked" in error.message
    assert "gzip" in error.message


async def test_an_answer_that_says_it_is_not_packed_is_taken(
    fake: FakeOllama, backend: OllamaBackend
) -> None:
    body = b'{"response":"Hi","done":true}\n'
    head = b"HTTP/1.1 200 X\r\nContent-Encoding: Identity\r\nContent-Length: %d\r\n\r\n" % len(body)
    fake.script(sends(head + body))
    pieces, _ = await attempt(backend, spec())
    assert text(pieces) == "Hi"


async def test_a_long_error_is_shortened(fake: FakeOllama, backend: OllamaBackend) -> None:
    fake.script(status(500, "x" * 10_000))
    _, error = await failed_attempt(backend, spec())
    assert len(error.message) < 1000


async def test_an_embedding_without_embeddings_is_a_failure(fake: FakeOllama, backend: OllamaBackend) -> None:
    fake.script(sends(b'HTTP/1.1 200 OK\r\nContent-Length: 13\r\n\r\n{"model":"m"}'))
    _, error = await failed_attempt(backend, spec("embed"))
    assert error.code == "bad_answer"


@pytest.mark.parametrize(
    "body",
    [b'{"embeddings":null}', b'{"embeddings":[[NaN]]}', b'{"embeddings":[[1]],"model":"\xff"}', b"<html></html>",
     b'{"embeddings":' + DEEP + b"}"],
    ids=["null", "NaN", "not UTF-8", "a web page", "too deep"],
)  # fmt: skip
async def test_nonsense_in_place_of_an_embedding_is_a_bad_answer(
    fake: FakeOllama, backend: OllamaBackend, body: bytes
) -> None:
    fake.script(answers(body))
    _, error = await failed_attempt(backend, spec("embed"))
    assert (error.code, error.retryable, error.retry_limit) == ("bad_answer", True, 2)


async def test_an_embedding_cut_in_two_is_a_failure(fake: FakeOllama, backend: OllamaBackend) -> None:
    fake.script(sends(b'HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n{"embeddings":[[0.1'))
    _, error = await failed_attempt(backend, spec("embed"))
    assert (error.code, error.retryable) == ("connection_lost", True)
