"""Clients that take too much: connections, time, memory, requests."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from oq.config import settings_from
from oq.errors import TooMany
from oq.web.places import Places, connections_at_most
from oq.web.rate import REMEMBERED, RateLimit

from .conftest import TASK, open_house
from .test_serve import Server, answer_of, request, running

BODY = json.dumps(TASK).encode()


@asynccontextmanager
async def connected(server: Server, count: int) -> AsyncIterator[list[trio.SocketStream]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(await server.connect()) for _ in range(count)]


async def read_all(stream: trio.SocketStream) -> bytes:
    """Return what comes until the server closes the connection, however it does."""
    text = b""
    try:
        while piece := await stream.receive_some():
            text += piece
    except trio.BrokenResourceError:
        pass
    return text


def code_of(answer: bytes) -> str:
    return str(json.loads(answer.partition(b"\r\n\r\n")[2])["code"])


# --- time


@pytest.mark.slow
@pytest.mark.parametrize("drip", [b"", b"X-More: 1\r\n"])
async def test_a_head_that_does_not_end_is_answered_and_the_connection_closed(drip: bytes) -> None:
    """Neither silence nor a line now and then makes it last longer."""
    async with running(header_timeout=0.3) as server, await server.connect() as stream:
        await stream.send_all(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n")

        async def go_on() -> None:
            while True:
                await trio.sleep(0.05)
                await stream.send_all(drip)

        async with trio.open_nursery() as nursery:
            if drip:
                nursery.start_soon(go_on)
            answer = await answer_of(stream)
            nursery.cancel_scope.cancel()

    assert answer.startswith(b"HTTP/1.1 408")
    assert b"connection: close" in answer.lower()
    assert code_of(answer) == "request_timeout"
    assert b"server.header_timeout" in answer


@pytest.mark.slow
async def test_a_connection_on_which_nothing_comes_is_closed_without_a_word() -> None:
    async with running(header_timeout=0.1) as server, await server.connect() as stream:
        assert await read_all(stream) == b""


@pytest.mark.slow
async def test_between_two_requests_a_connection_may_be_idle_for_longer() -> None:
    async with running(header_timeout=0.1, body_timeout=0.1) as server, await server.connect() as stream:
        for _ in range(2):
            await stream.send_all(request("POST", "/api/tasks", BODY))
            assert (await answer_of(stream)).startswith(b"HTTP/1.1 201")
            await trio.sleep(0.3)


@pytest.mark.slow
async def test_the_head_of_a_later_request_has_the_same_bound() -> None:
    """A connection is idle until its first byte comes, and owes the rest of the head from then on."""
    async with running(header_timeout=0.3) as server, await server.connect() as stream:
        assert (await ask_on(stream)).startswith(b"HTTP/1.1 200")
        await stream.send_all(b"GET /hea")
        answer = await answer_of(stream)
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"server.header_timeout" in answer


@pytest.mark.slow
async def test_a_connection_that_stays_idle_is_closed_without_a_word() -> None:
    async with running(keep_alive_timeout=0.1) as server, await server.connect() as stream:
        assert (await ask_on(stream)).startswith(b"HTTP/1.1 200")
        assert await read_all(stream) == b""


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/api/tasks", "/api/tasks/batch"])
async def test_a_body_that_does_not_end_is_answered_and_the_connection_closed(path: str) -> None:
    async with running(body_timeout=0.3) as server, await server.connect() as stream:
        await stream.send_all(request("POST", path, BODY)[:-5])
        answer = await answer_of(stream)
        assert answer.startswith(b"HTTP/1.1 408"), answer
        assert code_of(answer) == "request_timeout"
        assert b"server.body_timeout" in answer
        assert server.app.queue.stats().total == 0


@pytest.mark.slow
async def test_a_long_answer_has_no_such_bound() -> None:
    async with running(header_timeout=0.1, body_timeout=0.1) as server, await server.connect() as stream:
        server.backend.close_gate()
        await stream.send_all(request("POST", "/api/tasks", BODY))
        id = json.loads((await answer_of(stream)).partition(b"\r\n\r\n")[2])["task_id"]
        await stream.send_all(request("GET", f"/api/tasks/{id}/result?wait=10"))
        await trio.sleep(0.4)
        server.backend.gate.set()
        assert (await answer_of(stream)).startswith(b"HTTP/1.1 200")


# --- connections


async def ask_on(stream: trio.SocketStream) -> bytes:
    await stream.send_all(request("GET", "/health"))
    return await answer_of(stream)


async def test_the_longest_idle_connection_makes_room_for_a_new_one() -> None:
    async with running(max_connections=8) as server, connected(server, 8) as streams:
        for stream in streams:
            assert (await ask_on(stream)).startswith(b"HTTP/1.1 200")
        await ask_on(streams[0])

        async with connected(server, 1) as (late,):
            assert (await ask_on(late)).startswith(b"HTTP/1.1 200")
            assert await read_all(streams[1]) == b""
            assert (await ask_on(streams[0])).startswith(b"HTTP/1.1 200")


async def read_to_the_end(stream: trio.SocketStream) -> None:
    text = b""
    while b"\r\n0\r\n\r\n" not in text:
        text += await stream.receive_some()


async def test_when_all_connections_are_busy_a_new_one_is_refused() -> None:
    async with running(max_connections=8) as server:
        server.backend.close_gate()
        answer = await server.ask(request("POST", "/api/tasks", BODY))
        id = json.loads(answer.partition(b"\r\n\r\n")[2])["task_id"]
        async with connected(server, 8) as busy:
            for stream in busy:
                await stream.send_all(
                    b"GET /api/tasks/%b/stream HTTP/1.1\r\nHost: a.localhost\r\n\r\n" % id.encode()
                )
                assert await stream.receive_some()
            async with connected(server, 1) as (late,):
                answer = await answer_of(late)
            assert answer.startswith(b"HTTP/1.1 429")
            assert code_of(answer) == "too_many"
            assert b"Retry-After: 1" in answer

            server.backend.gate.set()
            async with trio.open_nursery() as nursery:
                for stream in busy:
                    nursery.start_soon(read_to_the_end, stream)
            async with connected(server, 1) as (late,):
                assert (await ask_on(late)).startswith(b"HTTP/1.1 200")


def test_places_that_are_left_can_be_taken_again() -> None:
    places = Places(1, 0)
    for _ in range(3):
        assert places.take()
        assert not places.take()
        places.leave()


def test_the_limit_of_open_files_bounds_the_connections(monkeypatch: pytest.MonkeyPatch) -> None:
    for files, most in ((1024, 768), (256, 128), (100_000, 10_000)):
        monkeypatch.setattr("resource.getrlimit", lambda _, files=files: (files, files))
        assert connections_at_most(10_000) == most


# --- memory


async def test_bodies_that_find_no_room_are_refused_and_the_others_go_on() -> None:
    limit = 300_000
    async with (
        running(max_body_memory=limit, max_body_bytes=limit) as server,
        connected(server, 2) as (first, second),
    ):
        data = request("POST", "/api/tasks/batch", b"[" + b" " * (limit - 1000) + BODY + b"]")
        await first.send_all(data[:-100_000])
        await trio.testing.wait_all_tasks_blocked(0.05)  # the server has read that
        await second.send_all(data)
        answer = await answer_of(second)
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"server.max_body_memory" in answer
        assert b"Retry-After: 1" in answer

        await first.send_all(data[-100_000:])
        assert (await answer_of(first)).startswith(b"HTTP/1.1 200")
        assert (await server.ask(data)).startswith(b"HTTP/1.1 200")  # the room is free again


async def large_result(server: Server, size: int) -> str:
    """Return the path of the result of a task whose text has so many bytes."""
    server.backend.pieces = ["x" * size]
    answer = await server.ask(request("POST", "/api/tasks", BODY))
    (id,) = re.findall(rb'"task_id":"(\w+)"', answer)
    path = f"/api/tasks/{id.decode()}"
    assert (await server.ask(request("GET", f"{path}/result?wait=20"))).startswith(b"HTTP/1.1 200")
    return path


async def stalled(stream: trio.SocketStream, path: str) -> None:
    """Ask for it and do not read on."""
    await stream.send_all(request("GET", path))
    await stream.receive_some(1)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["/result", "", "/stream"])
async def test_a_large_answer_to_a_slow_client_may_take_longer_than_the_send_timeout(what: str) -> None:
    """It bounds how long a client takes nothing, not the whole."""
    size = 8 * 2**20
    async with running(send_timeout=0.4) as server:
        path = await large_result(server, size)
        async with await server.connect() as stream:
            stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
            await stream.send_all(request("GET", path + what))
            began, count = trio.current_time(), 0
            while count < size and (piece := await stream.receive_some(400_000)):
                count += piece.count(b"x")
                await trio.sleep(0.015)
            assert count >= size
            assert trio.current_time() - began > 0.4


@pytest.mark.slow
@pytest.mark.parametrize("what", ["/result", ""])
async def test_large_results_that_find_no_room_are_refused_until_others_are_read(what: str) -> None:
    size = 8 * 2**20  # more than the sockets take
    async with (
        running(max_answer_memory=size * 3 // 2, send_timeout=20) as server,
        connected(server, 1) as (first,),
    ):
        path = await large_result(server, size)
        await stalled(first, path + what)
        for _ in range(2):
            answer = await server.ask(request("GET", path + what))
            assert answer.startswith(b"HTTP/1.1 503")
            assert b"queue.max_answer_memory" in answer
            assert b"retry-after: 1" in answer
            assert code_of(answer) == "queue_busy"
        small = await server.ask(request("GET", f"{path}?view=summary"))
        assert small.startswith(b"HTTP/1.1 200")
        await first.aclose()
        answer = b"HTTP/1.1 503"
        while answer.startswith(b"HTTP/1.1 503"):
            answer = await server.ask(request("GET", path + what))
        assert answer.count(b"x") >= size


@pytest.mark.slow
async def test_a_stream_of_a_large_result_that_finds_no_room_says_so() -> None:
    size = 8 * 2**20
    async with (
        running(max_answer_memory=3 * size, send_timeout=20) as server,
        connected(server, 2) as (first, second),
    ):
        path = await large_result(server, size)
        await stalled(first, f"{path}/stream")
        await second.send_all(request("GET", f"{path}/stream"))
        text = b""
        while b"queue_busy" not in text:
            text += await second.receive_some() or pytest.fail(f"ended: {text!r}")
        assert b"queue.max_answer_memory" in text


@pytest.mark.slow
async def test_bodies_that_are_refused_take_no_room(tmp_path: Path) -> None:
    size = 4 * 2**20
    async with (
        running(token="x", max_body_bytes=size, max_body_memory=size, storage_path=tmp_path) as server,
        connected(server, 2) as streams,
    ):
        for stream in streams:
            await stream.send_all(request("POST", "/api/tasks/batch", bytes(size))[:-1])
        for stream in streams:
            await stream.send_all(b"0")
            assert (await answer_of(stream)).startswith(b"HTTP/1.1 401")


# --- requests


def test_a_client_may_make_a_seconds_worth_at_once_and_then_its_share() -> None:
    now = 0.0
    limit = RateLimit(2, lambda: now)
    limit.check("a")
    limit.check("a")
    with pytest.raises(TooMany) as caught:
        limit.check("a")
    assert caught.value.retry_after == pytest.approx(0.5)
    limit.check("b")

    now = 0.5
    limit.check("a")
    with pytest.raises(TooMany):
        limit.check("a")

    now = 60.0
    for _ in range(2):
        limit.check("a")
    with pytest.raises(TooMany):
        limit.check("a")


def test_less_than_one_request_a_second_can_be_allowed() -> None:
    now = 0.0
    limit = RateLimit(0.1, lambda: now)
    limit.check("a")
    with pytest.raises(TooMany) as caught:
        limit.check("a")
    assert caught.value.retry_after == pytest.approx(10)


def test_a_crowd_of_clients_takes_bounded_memory() -> None:
    limit = RateLimit(1, lambda: 0.0)
    for number in range(2 * REMEMBERED):
        limit.check(number)
    assert len(limit._paid) == REMEMBERED


async def test_more_requests_than_the_rate_are_refused_with_the_time_to_wait() -> None:
    async with running(rate_limit=0.01) as server, connected(server, 1) as (stream,):
        assert (await ask_on(stream)).startswith(b"HTTP/1.1 200")
        answer = await ask_on(stream)
    assert answer.startswith(b"HTTP/1.1 429")
    assert code_of(answer) == "too_many"
    assert b"server.rate_limit" in answer
    assert b"retry-after: 100\r\n" in answer.lower()


async def test_addresses_of_one_ipv6_network_share_a_rate(autojump_clock: Any) -> None:
    async with open_house(settings_from(rate_limit=0.01)) as house:

        async def ask(address: str) -> int:
            sent: list[Any] = []

            coming: list[Any] = [{"type": "http.request", "body": b"", "more_body": False}]

            async def receive() -> Any:
                if not coming:
                    await trio.sleep_forever()
                return coming.pop()

            async def send(message: Any) -> None:
                sent.append(message)

            scope = {
                "type": "http", "method": "GET", "path": "/api/tasks", "raw_path": b"/api/tasks", "query_string": b"",
                "scheme": "http", "http_version": "1.1", "headers": [], "client": (address, 1),
                "asgi": {"spec_version": "2.3"},
            }  # fmt: skip
            await house.app(scope, receive, send)  # type: ignore[arg-type]
            return int(sent[0]["status"])

        codes = [
            await ask(name)
            for name in ("2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "10.0.0.1", "10.0.0.2")
        ]
    assert codes == [200, 429, 200, 200, 200]


async def test_without_a_rate_nobody_is_refused() -> None:
    async with running() as server, await server.connect() as stream:
        for _ in range(50):
            assert (await ask_on(stream)).startswith(b"HTTP/1.1 200")


# --- HTTP/2


async def test_an_upgrade_to_http_2_is_not_taken() -> None:
    async with running() as server:
        asked = (
            b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
            b"HTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n"
        )
        assert (await server.ask(asked)).startswith(b"HTTP/1.1 200")
