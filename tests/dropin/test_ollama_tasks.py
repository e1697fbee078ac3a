"""Ollama's computing routes: queued, and answered in the model server's own words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from fake_ollama import FakeOllama, error_line, falls_silent, hangs_up, lines, loads, says, status

from .conftest import Place, open_place, read_until

CHAT = {"model": "llama3.2", "messages": [{"role": "user", "content": "Hi"}]}
GENERATE = {"model": "llama3.2", "prompt": "Hi"}


def parsed(answer: httpx.Response) -> list[Any]:
    return [json.loads(line) for line in answer.text.splitlines()]


async def test_a_chat_streams_the_model_servers_own_lines(place: Place, fake: FakeOllama) -> None:
    direct = await place.client.post(f"{fake.url}/api/chat", json=CHAT)
    answer = await place.client.post("/api/chat", json=CHAT)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == direct.headers["content-type"] == "application/x-ndjson"
    assert answer.content == direct.content


async def test_lines_that_are_read_in_parts_are_all_there(
    place: Place, fake: FakeOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line of thought and words is two pieces, of which only the second has the line: a part may end between them."""
    monkeypatch.setattr("oq.transcript.AT_ONCE", 1)
    said = [
        {"model": "m", "message": {"role": "assistant", "content": f"{number} ", "thinking": f"t{number}"}}
        for number in range(50)
    ]
    end = {"model": "m", "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop"}
    fake.script(lines(*said, end))
    answer = await place.client.post("/api/chat", json=CHAT)
    assert parsed(answer) == [*said, end]


async def test_without_stream_the_answer_is_one_object(place: Place, fake: FakeOllama) -> None:
    body = {**CHAT, "stream": False}
    direct = await place.client.post(f"{fake.url}/api/chat", json=body)
    answer = await place.client.post("/api/chat", json=body)
    assert answer.json() == direct.json()
    assert answer.headers["content-type"] == direct.headers["content-type"]


async def test_a_call_is_a_task_with_high_priority_and_the_tag_of_its_api(place: Place) -> None:
    answer = await place.client.post("/api/generate", json=GENERATE)
    (task,) = await place.tasks()
    assert (task.spec.type, task.state.priority, task.spec.tags) == ("generate", 10, ("via:ollama",))
    assert answer.headers["x-task-id"] == task.id


async def test_headers_tell_the_position_and_the_wait(place: Place) -> None:
    await place.queue.pause()
    answers: list[httpx.Response] = []

    async def ask() -> None:
        answers.append(await place.client.post("/api/generate", json=GENERATE))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await place.until(lambda: place.queue.stats().pending == 1)
        await place.queue.resume()
    assert answers[0].headers["x-queue-position"] == "1"
    assert float(answers[0].headers["x-queue-wait"]) > 0


async def test_a_retry_before_the_first_byte_is_invisible(place: Place, fake: FakeOllama) -> None:
    fake.script(status(503, "server busy"), says("Hel", "lo"))
    answer = await place.client.post("/api/chat", json=CHAT)
    assert answer.status_code == 200
    assert [line["message"]["content"] for line in parsed(answer)] == ["Hel", "lo", ""]
    assert len(fake.requests) == 2


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("code", "words"),
    [(404, "model 'x' not found"), (400, "invalid duration"), (500, 'option "seed" must be of type integer')],
)
async def test_an_error_has_the_model_servers_status_and_words(
    place: Place, fake: FakeOllama, code: int, words: str, stream: bool
) -> None:
    fake.script(status(code, words))
    answer = await place.client.post("/api/chat", json={**CHAT, "stream": stream})
    assert answer.status_code == code
    assert answer.json() == {"error": words}


async def test_an_error_in_the_middle_is_a_line_and_the_end(place: Place, fake: FakeOllama) -> None:
    fake.default = error_line("an error was encountered while running the model", "Hel")
    answer = await place.client.post("/api/chat", json=CHAT)
    assert answer.status_code == 200
    first, last = parsed(answer)
    assert first["message"]["content"] == "Hel"
    assert last == {"error": "an error was encountered while running the model"}


async def test_what_broke_in_the_middle_is_not_tried_again(fake: FakeOllama, tmp_path: Path) -> None:
    # A long pause before the retry: its task is cancelled in it.
    async with open_place(tmp_path, fake.url, retry_config__initial_delay=20) as place:
        fake.script(hangs_up("Hel"))
        answer = await place.client.post("/api/chat", json=CHAT)
        assert "error" in parsed(answer)[-1]
        await place.until(lambda: place.queue.stats().cancelled == 1)
        assert len(fake.requests) == 1


async def test_without_stream_what_broke_in_the_middle_is_tried_again(place: Place, fake: FakeOllama) -> None:
    fake.script(hangs_up("Hel"), says("Hello"))
    answer = await place.client.post("/api/chat", json={**CHAT, "stream": False})
    assert answer.json()["message"]["content"] == "Hello"


@pytest.mark.parametrize("keep_alive", [None, 0])
@pytest.mark.parametrize(("path", "body"), [("/api/chat", {"messages": []}), ("/api/generate", {})])
async def test_a_request_that_only_loads_goes_through_the_queue(
    place: Place, fake: FakeOllama, path: str, body: Any, keep_alive: int | None
) -> None:
    fake.default = loads()
    asked = {"model": "llama3.2", **body, **({} if keep_alive is None else {"keep_alive": keep_alive})}
    direct = await place.client.post(f"{fake.url}{path}", json=asked)
    answer = await place.client.post(path, json=asked)
    assert answer.content == direct.content
    assert answer.headers["content-type"] == direct.headers["content-type"]
    assert fake.requests[-1].json().get("keep_alive") == keep_alive
    assert len(await place.tasks()) == 1


async def test_all_fields_reach_the_model_server_and_ours_do_not(place: Place, fake: FakeOllama) -> None:
    body = {**CHAT, "options": {"seed": 1}, "format": "json", "think": True, "tools": [], "keep_alive": "1m",
            "logprobs": True, "new_field": 12345678901234567890, "_priority": 3, "_source": "me", "_timeout": "1m"}  # fmt: skip
    await place.client.post("/api/chat", json=body)
    seen = fake.requests[0].json()
    assert {name: seen[name] for name in body if not name.startswith("_")} == {
        name: value for name, value in body.items() if not name.startswith("_")
    }
    assert not [name for name in seen if name.startswith("_")]
    (task,) = await place.tasks()
    assert (task.state.priority, task.spec.timeout) == (3, 60.0)
    assert task.spec.tags == ("via:ollama", "client:me")


async def test_what_cannot_be_read_is_left_to_the_model_server(place: Place, fake: FakeOllama) -> None:
    fake.default = status(400, "model is no text")
    answer = await place.client.post("/api/chat", content=b'{"model": 5}')
    assert (answer.status_code, answer.json()) == (400, {"error": "model is no text"})
    assert fake.requests[0].body == b'{"model": 5}'
    assert await place.tasks() == []


@pytest.mark.parametrize("stream", ["false", 0, {}])
async def test_a_wrong_stream_is_left_to_the_model_server(
    place: Place, fake: FakeOllama, stream: object
) -> None:
    fake.default = status(400, "cannot unmarshal")
    answer = await place.client.post("/api/chat", json={**CHAT, "stream": stream})
    assert (answer.status_code, answer.json()) == (400, {"error": "cannot unmarshal"})
    assert await place.tasks() == []


async def test_a_field_of_ours_that_cannot_be_read_is_named(place: Place, fake: FakeOllama) -> None:
    body = b'{"model":"m","prompt":"Hi","_priority":1e999}'
    answer = await place.client.post("/api/generate", content=body)
    assert (answer.status_code, answer.json()["field"]) == (422, "_priority")
    assert fake.requests == []


async def test_of_a_field_in_several_spellings_the_last_counts(place: Place, fake: FakeOllama) -> None:
    body = b'{"Model":"nope","model":"llama3.2","prompt":"Hi","Stream":true,"stream":false}'
    answer = await place.client.post("/api/generate", content=body)
    assert answer.json()["done"] is True
    assert fake.requests[0].json() == {"model": "llama3.2", "prompt": "Hi", "stream": True}


async def test_a_request_id_of_several_proxies_is_the_first_ones(place: Place) -> None:
    for given in ("abc-1,def", "a" * 300):
        assert (
            await place.client.post("/api/chat", json=CHAT, headers={"X-Request-ID": given})
        ).status_code == 200
    first, long = await place.tasks()
    assert first.spec.tags[-1] == "request:abc-1"
    assert long.spec.tags[-1] == "request:" + "a" * 192


@pytest.mark.parametrize(
    ("path", "body", "sent"),
    [
        ("/api/embed", {"prompt": "Hi"}, {}),
        ("/api/embed", {"prompt": "Hi", "Input": "yo"}, {"Input": "yo"}),
        ("/api/embed", {"input": "yo"}, {"input": "yo"}),
        ("/api/embeddings", {"Prompt": "Hi"}, {"prompt": "Hi"}),
        ("/api/embeddings", {"Input": "Hi"}, {"prompt": ""}),
    ],
)
async def test_an_embed_request_goes_where_it_was_sent(
    place: Place, fake: FakeOllama, path: str, body: dict[str, str], sent: dict[str, str]
) -> None:
    async def reply(exchange: Any) -> None:
        await exchange.whole(200, b'{"embedding":[3.5],"embeddings":[[3.5]]}')

    fake.other = {"/api/embeddings": reply, "/api/embed": reply}
    assert (await place.client.post(path, json={"model": "m", **body})).status_code == 200
    assert (fake.requests[-1].path, fake.requests[-1].json()) == (path, {"model": "m", **sent})


async def test_embeddings_of_the_older_kind_go_where_they_belong(place: Place, fake: FakeOllama) -> None:
    async def reply(exchange: Any) -> None:
        await exchange.whole(200, b'{"embedding":[3.5,4.5]}')

    fake.other = {"/api/embeddings": reply}
    answer = await place.client.post("/api/embeddings", json={"model": "m", "prompt": "Hi"})
    assert answer.json() == {"embedding": [3.5, 4.5]}
    assert fake.requests[-1].path == "/api/embeddings"
    assert len(await place.tasks()) == 1


async def test_a_client_that_goes_away_cancels_its_task(place: Place, fake: FakeOllama) -> None:
    fake.default = falls_silent("Hel")
    async with await place.post_raw("/api/chat", CHAT) as stream:
        assert b"Hel" in await read_until(stream, b"\n{")
    await place.until(lambda: place.queue.stats().cancelled == 1)
    with trio.fail_after(10):
        await fake.wait_until(lambda: fake.requests[0].hung_up_at is not None)


async def test_a_client_that_goes_away_while_it_waits_cancels_its_task(place: Place) -> None:
    await place.queue.pause()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: place.client.post("/api/chat", json=CHAT))
        await place.until(lambda: place.queue.stats().pending == 1)
        nursery.cancel_scope.cancel()
    await place.until(lambda: place.queue.stats().cancelled == 1)


async def test_a_setting_keeps_the_task_of_a_client_that_goes_away(fake: FakeOllama, tmp_path: Path) -> None:
    async with open_place(tmp_path, fake.url, dropin__on_disconnect="keep") as place:
        await place.queue.pause()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: place.client.post("/api/chat", json=CHAT))
            await place.until(lambda: place.queue.stats().pending == 1)
            nursery.cancel_scope.cancel()
        await place.queue.resume()
        await place.until(lambda: place.queue.stats().completed == 1)


async def test_the_same_idempotency_key_is_the_same_task(place: Place, fake: FakeOllama) -> None:
    key = {"Idempotency-Key": "once"}
    first = await place.client.post("/api/chat", json=CHAT, headers=key)
    again = await place.client.post("/api/chat", json=CHAT, headers=key)
    other = await place.client.post("/api/chat", json={**CHAT, "format": "json"}, headers=key)
    assert again.headers["x-task-id"] == first.headers["x-task-id"]
    assert "".join(line["message"]["content"] for line in parsed(again)) == "Hello world"
    assert other.status_code == 409
    assert len(fake.requests) == 1


async def test_prefer_respond_async_answers_with_the_task_at_once(place: Place) -> None:
    await place.queue.pause()
    answer = await place.client.post(
        "/api/chat", json=CHAT, headers={"Prefer": "wait=10, respond-async; x=1"}
    )
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/api/tasks/{answer.json()['task_id']}"
    await place.queue.resume()
    task = (await place.client.get(answer.headers["location"] + "/result?wait=30")).json()
    assert task["output"] == "Hello world"


async def test_a_stream_that_waits_long_gives_signs_of_life(fake: FakeOllama, tmp_path: Path) -> None:
    async with open_place(tmp_path, fake.url, dropin__heartbeat_after="10ms") as place:
        await place.queue.pause()
        async with place.client.stream("POST", "/api/chat", json=CHAT) as answer:
            lines = answer.aiter_lines()
            first = json.loads(await anext(lines))
            assert (first["message"]["content"], first["done"]) == ("", False)
            await place.queue.resume()
            rest = [json.loads(line) async for line in lines]
        assert "".join(line["message"]["content"] for line in rest) == "Hello world"


async def test_a_task_cancelled_by_somebody_else_tells_its_client(place: Place) -> None:
    await place.queue.pause()
    answers: list[httpx.Response] = []

    async def ask() -> None:
        answers.append(await place.client.post("/api/chat", json=CHAT))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await place.until(lambda: place.queue.stats().pending == 1)
        (task,) = await place.tasks()
        await place.queue.cancel(task.id)
    assert answers[0].status_code == 499
    assert "cancelled" in answers[0].json()["error"]


async def test_a_client_with_a_limit_is_refused_beyond_it(fake: FakeOllama, tmp_path: Path) -> None:
    clients = {"crawler": {"priority": "low", "max_unfinished": 1}}
    async with open_place(tmp_path, fake.url, clients=clients) as place:
        await place.queue.pause()
        headers = {"X-Client-ID": "crawler", "Prefer": "respond-async"}
        assert (await place.client.post("/api/chat", json=CHAT, headers=headers)).status_code == 202
        refused = await place.client.post("/api/chat", json=CHAT, headers=headers)
        assert refused.status_code == 429
        assert "clients.crawler.max_unfinished" in refused.json()["error"]
        (task,) = await place.tasks()
        assert task.state.priority == 1
