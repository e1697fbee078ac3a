"""Connections: when they are reused, tried again, and closed."""

from __future__ import annotations

import base64
import contextlib
import ssl
from collections.abc import AsyncIterator
from functools import partial

import pytest
import trio
import trio.testing
import trustme

from oq.backends import OllamaBackend
from oq.backends.address import Address
from oq.backends.connections import IDLE_SECONDS
from oq.backends.ollama import TAIL_SECONDS
from oq.core.model import TASK_TYPES
from oq.errors import BackendError
from tests.backends.attempts import MakeBackend, attempt, failed_attempt, spec, text
from tests.fake_ollama import (
    Exchange,
    FakeOllama,
    error_line,
    falls_silent,
    open_fake_ollama,
    resets,
    says,
    sends,
    status,
    unused_port,
)

DEEP = b"[" * 20_000 + b"]" * 20_000


async def test_attempts_one_after_the_other_share_a_connection(
    fake: FakeOllama, backend: OllamaBackend
) -> None:
    for task_type in TASK_TYPES:
        await attempt(backend, spec(task_type))
    assert fake.connections == 1


async def test_attempts_at_once_have_their_own_connections(fake: FakeOllama, backend: OllamaBackend) -> None:
    everybody = trio.Event()

    async def reply(exchange: Exchange) -> None:
        if fake.in_flight == 5:
            everybody.set()
        await everybody.wait()
        await says("Hi")(exchange)

    fake.default = reply
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(attempt, backend, spec())
    assert (fake.max_in_flight, fake.connections) == (5, 5)


@pytest.mark.parametrize("code", [400, 404, 500, 503])
async def test_a_refusal_does_not_cost_the_connection(
    fake: FakeOllama, backend: OllamaBackend, code: int
) -> None:
    fake.script(status(code, "no"))
    await failed_attempt(backend, spec())
    await attempt(backend, spec())
    assert fake.connections == 1


async def test_a_connection_the_server_closed_meanwhile_is_replaced(
    fake: FakeOllama, backend: OllamaBackend
) -> None:
    async def answers_then_closes(exchange: Exchange) -> None:
        await says("one")(exchange)
        exchange.hang_up()

    fake.script(answers_then_closes)
    await attempt(backend, spec())
    await fake.wait_until(lambda: fake.open_connections == 0)
    pieces, _ = await attempt(backend, spec())
    assert text(pieces) == "Hello world"
    assert (fake.connections, len(fake.requests)) == (2, 2)


async def test_what_a_server_says_before_it_closes_an_idle_connection_is_no_answer(
    fake: FakeOllama, backend: OllamaBackend
) -> None:
    async def answers_then_times_out(exchange: Exchange) -> None:
        await says("one")(exchange)
        await exchange.stream.send_all(b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n")
        exchange.hang_up()

    fake.script(answers_then_times_out)
    await attempt(backend, spec())
    await fake.wait_until(lambda: fake.open_connections == 0)
    pieces, _ = await attempt(backend, spec())
    assert text(pieces) == "Hello world"


@pytest.mark.parametrize("fault", [resets(), sends(b"")], ids=["reset", "closed"])
async def test_a_reused_connection_that_breaks_before_any_byte_is_tried_again(
    fake: FakeOllama, backend: OllamaBackend, fault: object
) -> None:
    await attempt(backend, spec())
    fake.script(fault)  # type: ignore[arg-type]
    pieces, _ = await attempt(backend, spec())
    assert text(pieces) == "Hello world"
    assert [request.connection for request in fake.requests] == [1, 1, 2]
    assert fake.requests[1].body == fake.requests[2].body


async def test_a_reused_connection_that_breaks_after_a_byte_is_not_tried_again(
    fake: FakeOllama, backend: OllamaBackend
) -> None:
    await attempt(backend, spec())
    fake.script(sends(b"HTTP/1.1 2"))
    _, error = await failed_attempt(backend, spec())
    assert error.code == "connection_lost"
    assert len(fake.requests) == 2


async def test_a_reused_connection_that_breaks_at_work_is_not_tried_again(
    fake: FakeOllama, backend: OllamaBackend, clock: trio.testing.MockClock
) -> None:
    async def works_then_dies(exchange: Exchange) -> None:
        await exchange.pause(1.5)
        exchange.hang_up()

    await attempt(backend, spec())
    fake.script(works_then_dies)
    _, error = await failed_attempt(backend, spec())
    assert error.code == "connection_lost"
    assert not error.unreachable
    assert len(fake.requests) == 2


async def test_a_server_that_dies_of_a_request_on_a_reused_connection_is_no_outage(
    make_backend: MakeBackend,
) -> None:
    life = trio.CancelScope()

    async def live(task_status: trio.TaskStatus[FakeOllama]) -> None:
        with life:
            async with open_fake_ollama() as fragile:
                task_status.started(fragile)
                await trio.sleep_forever()

    async def dies(exchange: Exchange) -> None:
        life.cancel()
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        fragile: FakeOllama = await nursery.start(live)
        backend = make_backend(fragile.url)
        await attempt(backend, spec())
        fragile.script(dies)
        _, error = await failed_attempt(backend, spec())
        assert (error.code, error.unreachable) == ("connection_lost", False)
        _, error = await failed_attempt(backend, spec())
        assert error.unreachable


async def test_a_fresh_connection_that_breaks_is_not_tried_again(
    fake: FakeOllama, backend: OllamaBackend
) -> None:
    fake.script(resets())
    await failed_attempt(backend, spec())
    assert len(fake.requests) == 1


async def test_a_connection_idle_for_too_long_is_not_used(
    fake: FakeOllama, backend: OllamaBackend, clock: trio.testing.MockClock
) -> None:
    await attempt(backend, spec())
    clock.jump(IDLE_SECONDS + 1)
    await attempt(backend, spec())
    assert fake.connections == 2


@pytest.mark.parametrize("words", [(), ("Hel",)], ids=["before the head", "while streaming"])
async def test_cancelling_closes_the_connection_at_once(
    fake: FakeOllama, backend: OllamaBackend, clock: trio.testing.MockClock, words: tuple[str, ...]
) -> None:
    fake.script(falls_silent(*words))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(failed_attempt, backend, spec())
        await fake.wait_until(lambda: fake.in_flight == 1)
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
        cancelled_at = trio.current_time()
    await fake.wait_until(lambda: fake.open_connections == 0)
    assert fake.requests[0].hung_up_at == pytest.approx(cancelled_at)


async def test_leaving_the_iterator_closes_the_connection(fake: FakeOllama, backend: OllamaBackend) -> None:
    fake.script(falls_silent("Hel"))
    async with contextlib.aclosing(backend.run(spec())) as items:
        async for _ in items:
            break
    await fake.wait_until(lambda: fake.open_connections == 0)


async def test_an_error_in_the_stream_is_the_end_even_if_more_comes(
    fake: FakeOllama, make_backend: MakeBackend
) -> None:
    async def error_then_silence(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.line({"error": "boom"})
        await exchange.wait_hung_up()

    fake.script(error_then_silence)
    await failed_attempt(make_backend(), spec())
    await fake.wait_until(lambda: fake.open_connections == 0)


async def test_a_result_does_not_wait_for_an_end_that_never_comes(
    fake: FakeOllama, make_backend: MakeBackend, clock: trio.testing.MockClock
) -> None:
    async def never_ends(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.line(exchange.last_line("Hi"))
        await exchange.wait_hung_up()

    fake.script(never_ends)
    began = trio.current_time()
    _, result = await attempt(make_backend(idle_timeout=1000), spec())
    assert result["response"] == "Hi"
    assert trio.current_time() - began == pytest.approx(TAIL_SECONDS)
    await fake.wait_until(lambda: fake.open_connections == 0)


async def test_a_fault_after_the_last_line_does_not_spoil_the_result(
    fake: FakeOllama, backend: OllamaBackend
) -> None:
    async def closes_early(exchange: Exchange) -> None:
        await exchange.begin()
        await exchange.line(exchange.last_line("Hi"))
        exchange.hang_up()

    fake.script(closes_early)
    _, result = await attempt(backend, spec())
    assert result["response"] == "Hi"


async def test_slow_tokens_are_not_silence(
    fake: FakeOllama, make_backend: MakeBackend, clock: trio.testing.MockClock
) -> None:
    fake.script(says("a", "b", "c", "d", pause=9.0))
    pieces, _ = await attempt(make_backend(idle_timeout=10.0), spec())
    assert text(pieces) == "abcd"


async def test_each_piece_comes_when_it_was_sent(
    fake: FakeOllama, backend: OllamaBackend, clock: trio.testing.MockClock
) -> None:
    fake.script(says("a", "b", "c", first_after=1.0, pause=5.0))
    began = trio.current_time()
    times = [trio.current_time() - began async for _ in backend.run(spec())]
    assert times == pytest.approx([1.0, 6.0, 11.0, 16.0], abs=0.001)


async def test_a_large_request_arrives_whole(fake: FakeOllama, backend: OllamaBackend) -> None:
    image = "A" * 5_000_000
    await attempt(backend, spec("generate", {"prompt": "What is it?", "images": [image]}))
    assert fake.requests[0].json()["images"] == [image]


async def test_a_refusal_before_a_large_request_was_read_is_understood(
    fake: FakeOllama, backend: OllamaBackend
) -> None:
    fake.script(status(400, "invalid image"))
    _, error = await failed_attempt(backend, spec("generate", {"prompt": "x" * 3_000_000}))
    assert error.code == "invalid_request"


async def test_a_refusal_of_a_large_request_that_is_not_read_on_is_understood(
    make_backend: MakeBackend, clock: trio.testing.MockClock
) -> None:
    heads: list[bytes] = []

    async def refuses(stream: trio.SocketStream) -> None:
        heads.append(await stream.receive_some(100))
        await stream.send_all(b"HTTP/1.1 413 X\r\nContent-Length: 3\r\n\r\nbig")
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, host="127.0.0.1"), refuses, 0)
        backend = make_backend(f"http://127.0.0.1:{listener.socket.getsockname()[1]}", idle_timeout=5.0)
        for _ in range(2):
            _, error = await failed_attempt(backend, spec(payload={"prompt": "x" * 20_000_000}))
            assert (error.code, error.status) == ("invalid_request", 413)
        nursery.cancel_scope.cancel()
    assert len(heads) == 2, "what is left of the first request is not sent into the second"


async def test_closing_the_backend_closes_its_idle_connections(
    fake: FakeOllama, backend: OllamaBackend
) -> None:
    await attempt(backend, spec())
    await backend.aclose()
    await fake.wait_until(lambda: fake.open_connections == 0)


async def test_many_cancelled_attempts_leave_nothing_behind(fake: FakeOllama, backend: OllamaBackend) -> None:
    fake.script(*[falls_silent("x")] * 40)
    async with trio.open_nursery() as nursery:
        for _ in range(40):
            nursery.start_soon(failed_attempt, backend, spec())
        await fake.wait_until(lambda: fake.in_flight == 40)
        nursery.cancel_scope.cancel()
    await fake.wait_until(lambda: fake.open_connections == 0)
    await attempt(backend, spec())


async def test_a_running_server_answers_a_probe(backend: OllamaBackend) -> None:
    assert await backend.probe()


async def test_any_http_answer_satisfies_a_probe(make_backend: MakeBackend, fake: FakeOllama) -> None:
    assert await make_backend(f"{fake.url}/elsewhere").probe()


async def test_a_stopped_server_fails_a_probe(make_backend: MakeBackend) -> None:
    async with open_fake_ollama() as other:
        url = other.url
    assert not await make_backend(url).probe()


async def test_a_probe_of_a_silent_server_ends_soon(
    make_backend: MakeBackend, clock: trio.testing.MockClock
) -> None:
    listener, *_ = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        began = trio.current_time()
        assert not await make_backend(f"http://127.0.0.1:{listener.socket.getsockname()[1]}").probe()
        assert trio.current_time() - began == pytest.approx(2.0)


async def test_info_tells_version_models_and_what_is_loaded(fake: FakeOllama, backend: OllamaBackend) -> None:
    fake.models, fake.loaded = ["a:latest", "b:7b"], ["b:7b"]
    info = await backend.info()
    assert (info.up, info.version, info.models, info.loaded) == (
        True,
        "0.32.15",
        ("a:latest", "b:7b"),
        ("b:7b",),
    )
    assert info.error is None


async def test_info_of_a_stopped_server_says_so(make_backend: MakeBackend) -> None:
    async with open_fake_ollama() as other:
        url = other.url
    info = await make_backend(url).info()
    assert not info.up
    assert info.error is not None
    assert "connection refused" in info.error


@pytest.mark.parametrize("name", ["gpu..lan", "g" * 64], ids=["empty label", "long label"])
async def test_a_name_that_can_be_no_host_s_is_unknown(make_backend: MakeBackend, name: str) -> None:
    backend = make_backend(f"http://{name}:11434")
    assert not await backend.probe()
    info = await backend.info()
    assert f"the host name {name} is unknown" in (info.error or "")
    _, error = await failed_attempt(backend, spec())
    assert error.unreachable


async def test_info_of_something_else_is_up_and_empty(make_backend: MakeBackend, fake: FakeOllama) -> None:
    info = await make_backend(f"{fake.url}/elsewhere").info()
    assert (info.up, info.version, info.models) == (True, None, ())


@pytest.mark.parametrize("body", [DEEP, b'{"version":"\xff"}', b"<html>"], ids=["deep", "not UTF-8", "page"])
async def test_nonsense_that_a_server_says_of_itself_is_an_answer(
    fake: FakeOllama, backend: OllamaBackend, body: bytes
) -> None:
    async def reply(exchange: Exchange) -> None:
        await exchange.whole(200, body)

    fake.rest = reply
    assert await backend.probe()
    info = await backend.info()
    assert (info.up, info.version, info.models, info.loaded) == (True, None, (), ())
    assert await backend.digest("m") is None


async def test_credentials_in_the_address_are_sent_and_never_shown(
    fake: FakeOllama, make_backend: MakeBackend
) -> None:
    backend = make_backend(f"http://me:s%40cret@127.0.0.1:{fake.port}")
    await attempt(backend, spec())
    assert fake.requests[0].headers["authorization"] == "Basic " + base64.b64encode(b"me:s@cret").decode()
    fake.script(error_line("boom"), status(401, "no"))
    for _ in range(2):
        _, error = await failed_attempt(backend, spec())
        assert "cret" not in error.message
    assert "cret" not in backend.url


async def test_a_path_in_the_address_stands_before_every_request(
    fake: FakeOllama, make_backend: MakeBackend
) -> None:
    await failed_attempt(make_backend(f"{fake.url}/proxy/"), spec())
    assert fake.requests[0].path == "/proxy/api/generate"


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("gpu1", "http://gpu1:11434"),
        ("gpu1:8080", "http://gpu1:8080"),
        ("http://gpu1", "http://gpu1:80"),
        ("https://gpu1/ollama/", "https://gpu1:443/ollama"),
        ("http://[::1]:11434", "http://[::1]:11434"),
    ],
)
def test_an_address_is_read_as_ollama_reads_it(given: str, url: str) -> None:
    assert Address(given).url == url


@pytest.mark.parametrize("given", ["ftp://gpu1", "http://", ""])
def test_what_is_no_address_is_refused(given: str) -> None:
    with pytest.raises(ValueError, match="not the address"):
        Address(given)


@contextlib.asynccontextmanager
async def open_tls_front(fake: FakeOllama, authority: trustme.CA, port: int = 0) -> AsyncIterator[int]:
    """Give *fake* a TLS front at *port*, 0 for a free one; yields its port."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)

    async def copy(source: trio.abc.Stream, target: trio.abc.Stream, scope: trio.CancelScope) -> None:
        with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while data := await source.receive_some(65_536):
                await target.send_all(data)
        scope.cancel()

    async def serve(stream: trio.SSLStream[trio.SocketStream]) -> None:
        with contextlib.suppress(trio.BrokenResourceError):
            async with (
                await trio.open_tcp_stream("127.0.0.1", fake.port) as inner,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(copy, stream, inner, nursery.cancel_scope)
                nursery.start_soon(copy, inner, stream, nursery.cancel_scope)

    listeners = await trio.open_ssl_over_tcp_listeners(port, context, host="127.0.0.1", https_compatible=True)
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, serve, listeners)
        inner = listeners[0].transport_listener
        assert isinstance(inner, trio.SocketListener)
        yield inner.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def test_https_is_spoken_and_its_connections_are_reused(
    fake: FakeOllama, make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    authority = trustme.CA()
    with authority.cert_pem.tempfile() as trusted:
        monkeypatch.setenv("SSL_CERT_FILE", trusted)
        async with open_tls_front(fake, authority) as port:
            backend = make_backend(f"https://127.0.0.1:{port}")
            for _ in range(2):
                pieces, _ = await attempt(backend, spec())
                assert text(pieces) == "Hello world"
            assert fake.connections == 1
            fake.script(falls_silent("Hel"))
            async with contextlib.aclosing(backend.run(spec())) as items:
                async for _ in items:
                    break
            await fake.wait_until(lambda: fake.open_connections == 0)


async def test_a_certificate_nobody_vouches_for_means_unreachable(
    fake: FakeOllama, make_backend: MakeBackend
) -> None:
    async with open_tls_front(fake, trustme.CA()) as port:
        with pytest.raises(BackendError) as caught:
            await attempt(make_backend(f"https://127.0.0.1:{port}"), spec())
    assert caught.value.unreachable
    assert "certificate is not trusted" in caught.value.message
    assert fake.requests == []


async def test_the_digest_of_a_model_is_that_of_its_full_name(
    fake: FakeOllama, backend: OllamaBackend
) -> None:
    async def tags(exchange: Exchange) -> None:
        await exchange.whole(
            200,
            b'{"models":[{"name":"mm:latest","digest":"2"},{"name":"m:latest","digest":"1"},{"name":"m:x","digest":"3"}]}',
        )

    fake.rest = tags
    assert [await backend.digest(name) for name in ("m", "m:latest", "m:x", "x")] == ["1", "1", "3", None]


@pytest.mark.parametrize("body", [b"[]", b"no", b'{"models":{}}', b'{"models":[3,{"name":"m","digest":4}]}'])
async def test_a_digest_that_is_not_told_is_unknown(
    fake: FakeOllama, backend: OllamaBackend, body: bytes
) -> None:
    async def tags(exchange: Exchange) -> None:
        await exchange.whole(200, body)

    fake.rest = tags
    assert await backend.digest("m") is None


async def test_a_slow_list_of_models_costs_a_digest_a_second(
    make_backend: MakeBackend, fake: FakeOllama, clock: trio.testing.MockClock
) -> None:
    fake.rest = falls_silent()
    began = trio.current_time()
    assert await make_backend().digest("m") is None
    assert trio.current_time() - began == pytest.approx(1.0, abs=0.1)


async def test_a_server_that_is_gone_tells_no_digest(make_backend: MakeBackend) -> None:
    assert await make_backend(f"http://127.0.0.1:{unused_port()}").digest("m") is None
