"""OpenAI's computing routes: mapped onto the model server's own API, answered in OpenAI's form."""

from __future__ import annotations

import base64
import json
import struct
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from fake_ollama import FakeOllama, error_line, falls_silent, lines, status

from .conftest import Place, open_place, read_until

CHAT = {"model": "llama3.2", "messages": [{"role": "user", "content": "Hi"}]}
LOGPROBS = [{"token": "Hi", "logprob": -0.5, "bytes": [72, 105], "top_logprobs": []}]


def events(answer: httpx.Response) -> list[Any]:
    found = [text.removeprefix("data: ") for text in answer.text.split("\n\n") if text.startswith("data: ")]
    assert found.pop() == "[DONE]"
    return [json.loads(text) for text in found]


def error_of(answer: httpx.Response) -> Any:
    found = answer.json()["error"]
    assert set(found) == {"message", "type", "param", "code"}
    return found


async def test_a_chat_is_mapped_onto_the_native_api(place: Place, fake: FakeOllama) -> None:
    asked = {**CHAT, "max_completion_tokens": 7, "temperature": 0.5, "top_p": 0.9, "seed": 3, "stop": "x",
             "frequency_penalty": 0.1, "presence_penalty": 0.2, "reasoning_effort": "high", "logprobs": True,
             "top_logprobs": 2, "response_format": {"type": "json_object"}, "user": "me"}  # fmt: skip
    answer = await place.client.post("/v1/chat/completions", json=asked)
    assert answer.status_code == 200
    assert fake.requests[0].path == "/api/chat"
    assert fake.requests[0].json() == {
        **CHAT, "think": "high", "logprobs": True, "top_logprobs": 2, "format": "json", "stream": True,
        "options": {"num_predict": 7, "temperature": 0.5, "top_p": 0.9, "seed": 3, "stop": ["x"],
                    "frequency_penalty": 0.1, "presence_penalty": 0.2},
    }  # fmt: skip
    (task,) = await place.tasks()
    assert (task.spec.type, task.spec.tags, task.state.priority) == ("chat", ("via:openai",), 10)


async def test_a_completion_has_openais_form(place: Place) -> None:
    answer = (await place.client.post("/v1/chat/completions", json=CHAT)).json()
    assert answer["object"] == "chat.completion"
    assert answer["choices"] == [
        {"index": 0, "message": {"role": "assistant", "content": "Hello world"}, "finish_reason": "stop"}
    ]
    assert answer["usage"] == {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


async def test_a_stream_is_events_with_usage_at_the_end_if_asked(place: Place) -> None:
    asked = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
    answer = await place.client.post("/v1/chat/completions", json=asked)
    assert answer.headers["content-type"].startswith("text/event-stream")
    *chunks, last = events(answer)
    texts = [chunk["choices"][0]["delta"].get("content", "") for chunk in chunks]
    assert texts == ["Hello", " world", ""]
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert (last["choices"], last["usage"]["total_tokens"]) == ([], 5)


async def test_tool_calls_come_back_with_ids_and_arguments_as_text(place: Place, fake: FakeOllama) -> None:
    call = {"function": {"name": "add", "arguments": {"a": 1}}}
    message = {"role": "assistant", "content": "", "tool_calls": [call]}
    fake.default = lines(
        {"model": "m", "message": message, "done": False},
        {"model": "m", "message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop"},
    )
    tools = [
        {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}, "strict": True}}
    ]
    answer = (await place.client.post("/v1/chat/completions", json={**CHAT, "tools": tools})).json()
    choice = answer["choices"][0]
    made = choice["message"]["tool_calls"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert made["function"] == {"name": "add", "arguments": '{"a":1}'}
    said = [
        *CHAT["messages"],
        {"role": "assistant", "content": None, "tool_calls": [made]},
        {"role": "tool", "tool_call_id": made["id"], "content": "2"},
    ]
    streamed = await place.client.post(
        "/v1/chat/completions", json={"model": "m", "messages": said, "tools": tools, "stream": True}
    )
    seen = fake.requests[-1].json()["messages"]
    assert seen[1]["tool_calls"][0]["function"] == {"index": 0, "name": "add", "arguments": {"a": 1}}
    assert seen[2] == {"role": "tool", "content": "2", "tool_call_id": made["id"], "tool_name": "add"}
    first, last = events(streamed)
    assert first["choices"][0]["delta"]["tool_calls"][0]["index"] == 0
    assert last["choices"][0]["finish_reason"] == "tool_calls"


async def test_pictures_come_as_data_urls_only(place: Place, fake: FakeOllama) -> None:
    def asked(url: str) -> Any:
        parts = [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": url}}]
        return {"model": "m", "messages": [{"role": "user", "content": parts}]}

    await place.client.post("/v1/chat/completions", json=asked("data:image/png;base64,aGk="))
    assert fake.requests[0].json()["messages"] == [{"role": "user", "content": "What?", "images": ["aGk="]}]
    await place.client.post("/v1/chat/completions", json=asked("data:image/png;BASE64,aGk="))
    assert fake.requests.pop().json()["messages"][0]["images"] == ["aGk="]
    answer = await place.client.post("/v1/chat/completions", json=asked("https://example.org/x.png"))
    assert answer.status_code == 400
    assert error_of(answer)["param"] == "messages[0].content[1].image_url"
    assert len(fake.requests) == 1


@pytest.mark.parametrize(
    ("path", "change", "param"),
    [
        ("chat/completions", {"n": 2}, "n"),
        ("chat/completions", {"logit_bias": {"1": 1}}, "logit_bias"),
        ("chat/completions", {"tool_choice": "required"}, "tool_choice"),
        ("chat/completions", {"functions": []}, "functions"),
        ("chat/completions", {"frobnicate": 1}, "frobnicate"),
        ("chat/completions", {"messages": []}, "messages"),
        ("chat/completions", {"temperature": 3}, "temperature"),
        ("chat/completions", {"top_logprobs": 2}, "top_logprobs"),
        ("chat/completions", {"response_format": {"type": "grammar"}}, "response_format"),
        ("chat/completions", {"messages": [{"role": "x", "content": ""}]}, "messages[0].role"),
        ("chat/completions", {"messages": [{"role": ["user"], "content": ""}]}, "messages[0].role"),
        (
            "chat/completions",
            {"stream": True, "stream_options": {"include_usage": "yes"}},
            "stream_options.include_usage",
        ),
        ("chat/completions", {"model": None}, "model"),
        ("chat/completions", {"_priority": "urgent"}, "_priority"),
        ("completions", {"prompt": ["a", "b"]}, "prompt"),
        ("completions", {"prompt": [1, 2]}, "prompt"),
        ("completions", {"prompt": "a", "echo": True}, "echo"),
        ("embeddings", {"input": [1, 2]}, "input"),
        ("embeddings", {"input": ""}, "input"),
        ("embeddings", {"input": "a", "encoding_format": "hex"}, "encoding_format"),
    ],
)
async def test_what_cannot_be_mapped_is_refused_by_name(
    place: Place, fake: FakeOllama, path: str, change: dict[str, Any], param: str
) -> None:
    body = {**CHAT, **change} if path == "chat/completions" else {"model": "m", **change}
    answer = await place.client.post(f"/v1/{path}", json=body)
    assert answer.status_code == 400
    error = error_of(answer)
    assert (error["type"], error["param"]) == ("invalid_request_error", param)
    assert fake.requests == []


@pytest.mark.parametrize(
    ("code", "words", "kind"),
    [(404, "model 'x' not found", "invalid_request_error"), (500, "template: broken", "server_error")],
)
async def test_errors_have_openais_shape(
    place: Place, fake: FakeOllama, code: int, words: str, kind: str
) -> None:
    for stream in (False, True):
        fake.script(status(code, words))
        answer = await place.client.post("/v1/chat/completions", json={**CHAT, "stream": stream})
        assert answer.status_code == code
        assert (error_of(answer)["message"], error_of(answer)["type"]) == (words, kind)
        assert answer.headers["x-should-retry"] == "false"


async def test_an_error_in_the_middle_is_an_event(place: Place, fake: FakeOllama) -> None:
    fake.default = error_line("unexpected EOF", "Hel")
    answer = await place.client.post("/v1/chat/completions", json={**CHAT, "stream": True})
    last = answer.text.rstrip().rpartition("data: ")[2]
    assert json.loads(last)["error"]["message"] == "unexpected EOF"
    assert "[DONE]" not in answer.text


async def test_a_null_in_the_model_servers_answer_is_nothing_said(place: Place, fake: FakeOllama) -> None:
    fake.default = lines({"model": "m", "message": {"role": "assistant", "content": None}, "done": True})
    answer = await place.client.post("/v1/chat/completions", json={**CHAT, "top_logprobs": 0})
    assert answer.status_code == 200
    assert answer.json()["choices"][0]["message"]["content"] == ""


async def test_an_answer_that_is_not_what_ollama_sends_is_502_and_not_asked_for_again(
    place: Place, fake: FakeOllama
) -> None:
    fake.default = lines(
        {"model": "m", "message": {"role": "assistant", "content": "x"}, "done_reason": 5, "done": True}
    )
    answer = await place.client.post("/v1/chat/completions", json=CHAT)
    assert (answer.status_code, error_of(answer)["code"]) == (502, "bad_answer")
    assert answer.headers["x-should-retry"] == "false"
    streamed = await place.client.post("/v1/chat/completions", json={**CHAT, "stream": True})
    last = streamed.text.rstrip().rpartition("data: ")[2]
    assert json.loads(last)["error"]["code"] == "bad_answer"


async def test_what_is_not_there_is_not_called_a_model_for_its_name(place: Place) -> None:
    for path in ("/v1/files/model", "/v1/batches/batch_model"):
        answer = await place.client.get(path)
        assert (answer.status_code, error_of(answer)["code"]) == (404, "not_found")


async def test_what_is_no_route_or_method_or_json_has_openais_shape_too(place: Place) -> None:
    assert error_of(await place.client.get("/v1/chat/completions"))["code"] == "method_not_allowed"
    answer = await place.client.post("/v1/chat/completions", content=b"{nope")
    assert (answer.status_code, error_of(answer)["code"]) == (400, "not_json")


async def test_a_token_must_match_where_one_is_set(fake: FakeOllama, tmp_path: Path) -> None:
    clients = {"app": {"token": "app-secret", "priority": 7}}
    async with open_place(tmp_path, fake.url, token="secret", clients=clients) as place:
        refused = await place.client.post(
            "/v1/chat/completions", json=CHAT, headers={"Authorization": "Bearer x"}
        )
        assert refused.status_code == 401
        assert error_of(refused)["type"] == "authentication_error"
        for token in ("secret", "app-secret"):
            headers = {"Authorization": f"Bearer {token}"}
            assert (
                await place.client.post("/v1/chat/completions", json=CHAT, headers=headers)
            ).status_code == 200
        assert [task.state.priority for task in await place.tasks()] == [10, 7]
        assert (await place.tasks())[1].spec.tags == ("via:openai", "client:app")


async def test_a_client_with_a_token_is_not_known_by_its_name_alone(fake: FakeOllama, tmp_path: Path) -> None:
    clients = {"boss": {"token": "boss-secret", "priority": 1000}}
    async with open_place(tmp_path, fake.url, clients=clients) as place:
        await place.client.post("/v1/chat/completions", json=CHAT, headers={"X-Client-ID": "boss"})
        (task,) = await place.tasks()
        assert task.state.priority == 10


async def test_headers_say_priority_client_and_request(place: Place) -> None:
    headers = {"X-Queue-Priority": "low", "X-Client-ID": "nightly", "X-Request-ID": "r-1"}
    answer = await place.client.post("/v1/chat/completions", json=CHAT, headers=headers)
    (task,) = await place.tasks()
    assert task.state.priority == 1
    assert task.spec.tags == ("via:openai", "client:nightly", "request:r-1")
    assert answer.headers["x-request-id"] == "r-1"


async def test_completions_are_generate_requests(place: Place, fake: FakeOllama) -> None:
    async def reply(exchange: Any) -> None:
        await lines(exchange.text_line("Hi", logprobs=LOGPROBS), exchange.last_line())(exchange)

    fake.default = reply
    asked = {"model": "m", "prompt": ["Once"], "suffix": "end", "max_tokens": 3, "logprobs": 1}
    answer = (await place.client.post("/v1/completions", json=asked)).json()
    seen = fake.requests[0].json()
    assert (fake.requests[0].path, seen["prompt"], seen["suffix"]) == ("/api/generate", "Once", "end")
    assert answer["object"] == "text_completion"
    assert answer["choices"][0]["text"] == "Hi"
    assert answer["choices"][0]["logprobs"]["token_logprobs"] == [-0.5]
    streamed = events(await place.client.post("/v1/completions", json={**asked, "stream": True}))
    assert "".join(chunk["choices"][0]["text"] for chunk in streamed) == "Hi"
    assert streamed[-1]["choices"][0]["finish_reason"] == "stop"


async def test_embeddings_come_as_floats_or_base64(place: Place, fake: FakeOllama) -> None:
    asked = {"model": "m", "input": ["a", "b"], "dimensions": 2}
    floats = (await place.client.post("/v1/embeddings", json=asked)).json()
    assert [one["embedding"] for one in floats["data"]] == [[0.5, 0.25], [0.5, 0.25]]
    assert floats["usage"] == {"prompt_tokens": 3, "total_tokens": 3}
    assert fake.requests[0].json() == asked
    packed = (await place.client.post("/v1/embeddings", json={**asked, "encoding_format": "base64"})).json()
    assert struct.unpack("<2f", base64.b64decode(packed["data"][0]["embedding"])) == (0.5, 0.25)


async def test_a_client_that_goes_away_cancels_its_task(place: Place, fake: FakeOllama) -> None:
    fake.default = falls_silent("Hel")
    async with await place.post_raw("/v1/chat/completions", {**CHAT, "stream": True}) as stream:
        await read_until(stream, b"Hel")
    await place.until(lambda: place.queue.stats().cancelled == 1)


async def test_a_waiting_stream_sends_comments(fake: FakeOllama, tmp_path: Path) -> None:
    async with open_place(tmp_path, fake.url, dropin__heartbeat_after="10ms") as place:
        await place.queue.pause()
        async with await place.post_raw("/v1/chat/completions", {**CHAT, "stream": True}) as stream:
            await read_until(stream, b": waiting\n\n")
            await place.queue.resume()
            await read_until(stream, b"data: [DONE]")


async def test_models_are_those_of_the_hosts(place: Place) -> None:
    found = (await place.client.get("/v1/models")).json()
    assert [model["id"] for model in found["data"]] == ["llama3.2"]
    assert (await place.client.get("/v1/models/llama3.2")).json()["object"] == "model"
    missing = await place.client.get("/v1/models/hf.co/some/model:q4")
    assert (missing.status_code, error_of(missing)["code"]) == (404, "model_not_found")


async def test_prefer_respond_async_answers_with_the_task(place: Place) -> None:
    answer = await place.client.post("/v1/chat/completions", json=CHAT, headers={"Prefer": "respond-async"})
    assert answer.status_code == 202
    task = (await place.client.get(f"{answer.json()['url']}/result?wait=30")).json()
    assert task["status"] == "completed"


async def test_two_streams_of_one_task_do_not_end_each_other(place: Place, fake: FakeOllama) -> None:
    go_on = trio.Event()

    async def reply(exchange: Any) -> None:
        await exchange.begin()
        await exchange.line(exchange.text_line("Hel"))
        await go_on.wait()
        await exchange.line(exchange.last_line("lo"))
        await exchange.end()

    fake.default = reply
    headers = {"Idempotency-Key": "k"}
    answers: list[httpx.Response] = []

    async def ask() -> None:
        answers.append(
            await place.client.post("/v1/chat/completions", json={**CHAT, "stream": True}, headers=headers)
        )

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await place.until(lambda: place.queue.stats().running == 1)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as second:
                second.start_soon(
                    lambda: place.client.post(
                        "/v1/chat/completions", json={**CHAT, "stream": True}, headers=headers
                    )
                )
                key = (await place.tasks())[0].key
                while place.queue._transcripts._open[key].watchers < 2:
                    await trio.lowlevel.checkpoint()
                scope.cancel()
        while place.queue._transcripts._open[key].watchers > 1:
            await trio.lowlevel.checkpoint()
        go_on.set()
    assert "lo" in answers[0].text


async def test_nobody_speaks_in_the_name_of_a_client_that_has_a_token(
    fake: FakeOllama, tmp_path: Path
) -> None:
    clients = {"desk": {"token": "desk-secr\u00e9t", "max_unfinished": 1}, "plain": {}}
    async with open_place(tmp_path, fake.url, clients=clients) as place:
        await place.queue.pause()
        said = {"Prefer": "respond-async"}
        for headers, more in (
            ({"X-Client-ID": "desk"}, {}), ({}, {"_source": " desk "}),
            ({"X-Client-ID": "desk", "Authorization": "Bearer desk-secret"}, {}),
        ):  # fmt: skip
            answer = await place.client.post(
                "/v1/chat/completions", json={**CHAT, **more}, headers={**said, **headers}
            )
            assert answer.status_code == 202
        assert [task.spec.tags for task in await place.tasks()] == [("via:openai",)] * 3
        own = {**said, "Authorization": "Bearer desk-secr\u00e9t".encode()}
        codes = [
            (await place.client.post("/v1/chat/completions", json=CHAT, headers=own)).status_code
            for _ in range(2)
        ]
        assert codes == [202, 429]  # what others said does not count, and what it says itself does


async def test_a_clients_token_is_compared_in_constant_time(
    fake: FakeOllama, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from oq.dropin import terms

    seen: list[tuple[bytes, bytes]] = []
    real = terms.hmac.compare_digest
    monkeypatch.setattr(terms.hmac, "compare_digest", lambda a, b: seen.append((a, b)) or real(a, b))
    clients = {"one": {"token": "one-secret"}, "two": {"token": "two-secret-that-is-longer"}}
    async with open_place(tmp_path, fake.url, clients=clients) as place:
        for token in ("one-secret", "x"):
            seen.clear()
            headers = {"Authorization": f"Bearer {token}"}
            await place.client.post("/v1/chat/completions", json=CHAT, headers=headers)
            assert len(seen) == 2
            assert {len(part) for pair in seen for part in pair} == {32}
