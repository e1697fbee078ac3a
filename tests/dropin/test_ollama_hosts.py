"""What never queues: lists at once, pull, push, create, copy, delete and blobs passed through."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from fake_ollama import FakeOllama, open_fake_ollama, status, unused_port

from oq.tokens import Scope, TokenFile

from .conftest import Place, open_place, read_until


async def test_lists_do_not_wait_for_the_queue(place: Place, fake: FakeOllama) -> None:
    await place.queue.pause()
    fake.loaded = ["llama3.2"]
    for path in ("/api/tags", "/api/ps", "/api/version"):
        direct = await place.client.get(f"{fake.url}{path}")
        answer = await place.client.get(path)
        assert (answer.status_code, answer.content) == (200, direct.content), path


async def test_head_is_answered_as_get_without_a_body(place: Place) -> None:
    for path in ("/", "/api/tags", "/api/version"):
        answer = await place.client.head(path)
        assert (answer.status_code, answer.content) == (200, b""), path


async def test_the_root_says_what_clients_look_for(place: Place) -> None:
    assert (await place.client.get("/")).text == "Ollama is running"


async def test_the_lists_of_several_hosts_are_one(fake: FakeOllama, tmp_path: Path) -> None:
    async with open_fake_ollama() as other:
        other.models = ["llama3.2", "gemma3"]
        down = f"http://127.0.0.1:{unused_port()}"
        async with open_place(tmp_path, fake.url, other.url, down) as place:
            models = (await place.client.get("/api/tags")).json()["models"]
            assert [model["name"] for model in models] == ["llama3.2", "gemma3"]


@pytest.mark.parametrize(
    "body",
    [b"[" * 20_000 + b"]" * 20_000, b'{"models":[{"name":"\xff"}]}', b'{"models":5}'],
    ids=["too deep", "not UTF-8", "no list"],
)
async def test_a_host_whose_list_is_nonsense_is_left_out(
    fake: FakeOllama, tmp_path: Path, body: bytes
) -> None:
    async def nonsense(exchange: Any) -> None:
        await exchange.whole(200, body)

    async with open_fake_ollama() as other, open_place(tmp_path, fake.url, other.url) as place:
        other.other = {"/api/tags": nonsense}
        models = (await place.client.get("/api/tags")).json()["models"]
        assert [model["name"] for model in models] == ["llama3.2"]
        fake.other = {"/api/tags": nonsense}
        answer = await place.client.get("/v1/models")
        assert (answer.status_code, answer.json()["error"]["code"]) == (502, "bad_answer")


async def test_a_host_that_cannot_be_reached_is_said_so(tmp_path: Path) -> None:
    async with open_place(tmp_path, f"http://127.0.0.1:{unused_port()}") as place:
        answer = await place.client.get("/api/tags")
        assert answer.status_code == 502
        assert "cannot reach" in answer.json()["error"]


async def test_what_cannot_be_passed_on_is_answered_at_once_on_a_connection_that_lasts(
    tmp_path: Path,
) -> None:
    async with open_place(tmp_path, f"http://127.0.0.1:{unused_port()}") as place:
        answer = await place.client.post("/api/pull", json={"model": "m"})
        assert answer.status_code == 502
        assert "cannot reach" in answer.json()["error"]
        assert (
            "connection" not in answer.headers
        )  # that it is closed is said when the body was not read to its end


async def test_an_answer_passed_on_has_one_date(place: Place, fake: FakeOllama) -> None:
    fake.other = {"/api/pull": status(400, "no", Date="Sat, 01 Jan 2000 00:00:00 GMT")}
    answer = await place.client.post("/api/pull", json={"model": "m"})
    (date,) = answer.headers.get_list("date")
    assert "2000" not in date


async def test_a_pull_streams_through_while_the_queue_is_paused(place: Place, fake: FakeOllama) -> None:
    await place.queue.pause()
    go_on = trio.Event()

    async def reply(exchange: Any) -> None:
        await exchange.begin()
        await exchange.line({"status": "pulling manifest"})
        await go_on.wait()
        await exchange.line({"status": "success"})
        await exchange.end()

    fake.other = {"/api/pull": reply}
    async with place.client.stream("POST", "/api/pull", json={"model": "x"}) as answer:
        lines = answer.aiter_lines()
        assert await anext(lines) == '{"status": "pulling manifest"}'
        go_on.set()  # only now: the first line came through before the last was there
        assert [line async for line in lines] == ['{"status": "success"}']
    assert fake.requests[-1].json() == {"model": "x"}
    assert await place.tasks() == []


async def test_a_blob_larger_than_a_body_may_be_streams_up(fake: FakeOllama, tmp_path: Path) -> None:
    async def reply(exchange: Any) -> None:
        await exchange.whole(201, b"")

    digest = "sha256:" + "0" * 64
    fake.other = {f"/api/blobs/{digest}": reply}

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(10):
            yield bytes(1000)

    async with open_place(tmp_path, fake.url, max_body_bytes=1024) as place:
        answer = await place.client.post(f"/api/blobs/{digest}", content=parts())
        assert answer.status_code == 201
        assert len(fake.requests[-1].body) == 10_000
        known = await place.client.post(f"/api/blobs/{digest}", content=bytes(5000))
        assert known.status_code == 201
        assert fake.requests[-1].headers["content-length"] == "5000"


@pytest.mark.slow
async def test_a_blob_larger_than_all_bodies_in_memory_streams_up(fake: FakeOllama, tmp_path: Path) -> None:
    """It is passed on as it comes, and is in memory at no time."""

    async def reply(exchange: Any) -> None:
        await exchange.whole(201, b"")

    fake.other = {"/api/blobs/sha256:0": reply}
    limit = 2 * 2**20
    async with open_place(tmp_path, fake.url, max_body_bytes=limit, max_body_memory=limit) as place:
        for _ in range(2):
            answer = await place.client.post("/api/blobs/sha256:0", content=bytes(4 * limit))
            assert answer.status_code == 201, answer.text
            assert len(fake.requests[-1].body) == 4 * limit


@pytest.mark.parametrize("length", [b"5", b"500"])
async def test_a_length_beside_chunks_counts_for_nothing_at_the_host(
    place: Place, fake: FakeOllama, length: bytes
) -> None:
    url = httpx.URL(place.url)
    stream = await trio.open_tcp_stream(url.host, url.port or 0)
    async with stream:
        await stream.send_all(
            b"POST /api/show HTTP/1.1\r\nHost: localhost\r\nContent-Length: %b\r\n"
            b'Transfer-Encoding: chunked\r\n\r\n11\r\n{"model":"llama"}\r\n0\r\n\r\n' % length
        )
        answer = await read_until(stream, b"\r\n\r\n")
    assert not answer.startswith(b"HTTP/1.1 500"), answer
    assert [request.body for request in fake.requests if request.path == "/api/show"] == [
        b'{"model":"llama"}'
    ]


async def test_a_hosts_headers_for_browsers_are_not_handed_on(place: Place, fake: FakeOllama) -> None:
    rules = {
        "Content-Security-Policy": "default-src *", "X-Frame-Options": "ALLOWALL", "Cache-Control": "public", "Set-Cookie": "a=b",
        "Access-Control-Allow-Origin": "*", "Strict-Transport-Security": "max-age=9", "X-Request-ID": "theirs", "X-Kept": "yes",
    }  # fmt: skip
    fake.other = {
        "/api/pull": status(200, "hi", plain=True, **{n.replace("-", "_"): v for n, v in rules.items()})
    }
    answer = await place.client.post("/api/pull", json={}, headers={"X-Request-ID": "mine"})
    assert answer.headers["x-kept"] == "yes"
    assert answer.headers["x-request-id"] == "mine"
    assert answer.headers["x-frame-options"] == "DENY"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    for name in ("set-cookie", "access-control-allow-origin", "strict-transport-security"):
        assert name not in answer.headers


async def test_a_hosts_length_beside_chunks_counts_for_nothing(place: Place, fake: FakeOllama) -> None:
    async def reply(exchange: Any) -> None:
        await exchange.stream.send_all(
            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
            b"5\r\nabcde\r\n0\r\n\r\n"
        )

    fake.other = {"/api/pull": reply}
    answer = await place.client.post("/api/pull", json={})
    assert answer.content == b"abcde"


async def test_a_list_too_deep_is_an_answer_that_cannot_be_read(place: Place, fake: FakeOllama) -> None:
    fake.rest = status(200, '{"models":' + "[" * 50_000 + "]" * 50_000 + "}", plain=True)
    assert (await place.client.get("/v1/models")).status_code == 502
    assert (await place.client.get("/api/hosts")).status_code == 200


async def test_the_hosts_status_and_words_come_back(place: Place, fake: FakeOllama) -> None:
    async def reply(exchange: Any) -> None:
        await exchange.whole(404, b'{"error":"model \'x\' not found"}')

    fake.other = {"/api/delete": reply, "/api/copy": reply, "/api/show": reply}
    for method, path in (("DELETE", "/api/delete"), ("POST", "/api/copy"), ("POST", "/api/show")):
        answer = await place.client.request(method, path, json={"model": "x"})
        assert (answer.status_code, answer.json()) == (404, {"error": "model 'x' not found"}), path


async def test_a_header_chooses_the_host(fake: FakeOllama, tmp_path: Path) -> None:
    async with open_fake_ollama() as other, open_place(tmp_path, fake.url, other.url) as place:

        async def reply(exchange: Any) -> None:
            await exchange.whole(200, b"")

        other.other = {"/api/copy": reply}
        answer = await place.client.post("/api/copy", json={}, headers={"X-Queue-Host": "host-2"})
        assert answer.status_code == 200
        wrong = await place.client.post("/api/copy", json={}, headers={"X-Queue-Host": "nope"})
        assert wrong.status_code == 422
        assert "host-1, host-2" in wrong.json()["error"]


async def test_a_wrong_method_is_405_as_the_model_server_says_it(place: Place) -> None:
    answer = await place.client.get("/api/chat")
    assert (answer.status_code, answer.text) == (405, "405 method not allowed")
    assert answer.headers["allow"] == "POST"


async def test_a_redirect_is_not_followed_and_a_token_stays_here(fake: FakeOllama, tmp_path: Path) -> None:
    secret = TokenFile(tmp_path).create("boss", Scope.ADMIN, 0.0)
    async with open_fake_ollama() as elsewhere, open_place(tmp_path, fake.url) as place:
        place.client.headers["Authorization"] = f"Bearer {secret}"
        for path in ("/api/pull", "/api/show", "/api/chat", "/v1/chat/completions"):
            fake.script(status(307, "", plain=True, Location=f"{elsewhere.url}{path}"))
            body = {"model": "m", "messages": [{"role": "user", "content": "x"}], "stream": False}
            answer = await place.client.post(path, json=body, headers={"X-Queue-Retries": "0"})
            assert answer.status_code >= 300, path
        assert elsewhere.requests == []
        assert len(fake.requests) >= 4
        assert not any(secret in value for request in fake.requests for value in request.headers.values())


async def test_tokens_reach_as_far_as_their_scope_and_refusals_are_in_the_apis_own_form(
    fake: FakeOllama, tmp_path: Path
) -> None:
    read, submit = (
        TokenFile(tmp_path).create(scope.word, scope, 0.0) for scope in (Scope.READ, Scope.SUBMIT)
    )
    clients = {"web": {"token": "a-word-of-the-web-app"}}
    async with open_place(tmp_path, fake.url, clients=clients) as place:
        chat = {"model": "llama3.2", "messages": [{"role": "user", "content": "x"}], "stream": False}
        for token, codes in (
            (read, (200, 403, 403, 403)), (submit, (200, 200, 200, 403)),
            ("a-word-of-the-web-app", (200, 200, 200, 403)), ("wrong", (401, 401, 401, 401)),
        ):  # fmt: skip
            place.client.headers["Authorization"] = f"Bearer {token}"
            answers = [
                await place.client.get("/v1/models"),
                await place.client.post("/api/chat", json=chat),
                await place.client.post("/v1/chat/completions", json=chat),
                await place.client.post("/api/pull", json={"model": "x"}),
            ]
            assert tuple(answer.status_code for answer in answers) == codes, token
        refused = await place.client.post("/v1/chat/completions", json=chat)
        assert "not known" in refused.json()["error"]["message"]


async def test_a_digest_leads_to_no_other_path_of_the_model_server(place: Place, fake: FakeOllama) -> None:
    for path in ("..%2f..%2ftags", "%2e%2e", "sha256:00%2f..%2f..%2fdelete", "sha256%00"):
        answer = await place.client.head(f"/api/blobs/{path}")
        assert answer.status_code == 404, path
    assert not [request.path for request in fake.requests if "blobs" in request.path]
