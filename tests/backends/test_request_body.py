"""What the model server gets."""

from __future__ import annotations

import json
from typing import Any

import pytest

from oq.backends.request_body import request_body
from oq.core.model import TaskType
from tests.backends.attempts import spec


def sent(*args: Any, **kwargs: Any) -> Any:
    return json.loads(request_body(spec(*args, **kwargs)))


PAYLOADS: list[tuple[TaskType, bytes]] = [
    ("chat", b'{"messages": [{"role":"user","content":"\xc3\xa9\\u00e9","images":["aGk="],"future":1.0}], "tools" :[],"think":"high"}'),
    ("generate", b'{"prompt":"a","suffix":"b","system":"s","template":"t","raw":true,"context":[1],"format":{"type":"object"}}'),
    ("generate", b'{"prompt":"a", "seed": 123456789012345678901234567890, "x": 1.10, "logprobs":true}'),
    ("embed", b'{"input":["a","b"],"truncate":false,"dimensions":8}'),
]  # fmt: skip


@pytest.mark.parametrize(("task_type", "payload"), PAYLOADS)
def test_the_payload_goes_out_byte_for_byte(task_type: TaskType, payload: bytes) -> None:
    body = request_body(spec(task_type, payload))
    assert payload[1:-1] in body
    assert json.loads(payload) == {k: v for k, v in json.loads(body).items() if k not in ("model", "stream")}


def test_model_options_and_keep_alive_stand_beside_the_payload() -> None:
    assert sent("generate", {"prompt": "a"}, model='we"ird', options={"num_ctx": 8}, keep_alive="5m") == {
        "model": 'we"ird', "options": {"num_ctx": 8}, "keep_alive": "5m", "prompt": "a", "stream": True,
    }  # fmt: skip


@pytest.mark.parametrize("keep_alive", [0, -1, "1h", 2.5])
def test_keep_alive_keeps_its_json_type(keep_alive: object) -> None:
    assert sent("generate", keep_alive=keep_alive)["keep_alive"] == keep_alive


@pytest.mark.parametrize(("task_type", "streams"), [("chat", True), ("generate", True), ("embed", None)])
def test_chat_and_generate_stream_and_embed_cannot(task_type: TaskType, streams: bool | None) -> None:
    assert sent(task_type).get("stream") is streams


@pytest.mark.parametrize("name", ["stream", "Stream"])
def test_a_stream_field_in_the_payload_does_not_break_streaming(name: str) -> None:
    body = request_body(spec("generate", b'{"%s": false, "prompt": "a", "n": 1.10}' % name.encode()))
    assert json.loads(body)["stream"] is True
    # Ollama's JSON reads names in any case, and the last one wins.
    assert body.lower().rindex(b'"stream":true') >= body.lower().rindex(b'"stream"')


def test_only_one_stream_field_goes_out() -> None:
    assert request_body(spec("generate", b'{"stream":false,"prompt":"a"}')).count(b'"stream"') == 1


def test_a_model_in_the_payload_cannot_replace_the_task_s() -> None:
    assert (
        request_body(spec("generate", b'{"model":"other","prompt":"the \\"model\\""}')).count(b"other") == 0
    )


def test_options_in_the_payload_stay_when_the_task_has_none() -> None:
    assert sent("generate", {"prompt": "a", "options": {"seed": 1}})["options"] == {"seed": 1}


def test_options_of_the_task_beat_those_in_the_payload() -> None:
    body = request_body(spec("generate", {"prompt": "a", "options": {"seed": 1}}, options={"seed": 2}))
    assert json.loads(body)["options"] == {"seed": 2}
    assert body.count(b'"options"') == 1


@pytest.mark.parametrize("payload", [b"{}", b" { } ", b"{\n}"])
def test_an_empty_payload_loads_the_model(payload: bytes) -> None:
    assert sent("chat", payload) == {"model": "llama3.2", "stream": True}


def test_a_chat_s_system_becomes_its_first_message() -> None:
    user = {"role": "user", "content": "Hi"}
    assert sent("chat", {"system": "Be brief.", "messages": [user]}) == {
        "model": "llama3.2",
        "messages": [{"role": "system", "content": "Be brief."}, user],
        "stream": True,
    }


def test_a_system_message_already_there_is_not_doubled() -> None:
    messages = [{"role": "user", "content": "Hi"}, {"role": "system", "content": "mine"}]
    body = sent("chat", {"system": "other", "messages": messages})
    assert body["messages"] == messages
    assert "system" not in body


@pytest.mark.parametrize("system", ["", None])
def test_an_empty_system_adds_no_message(system: str | None) -> None:
    assert (
        len(sent("chat", {"system": system, "messages": [{"role": "user", "content": "Hi"}]})["messages"])
        == 1
    )


def test_the_messages_beside_a_system_keep_their_bytes() -> None:
    message = b'{"role":"user",  "content":"\\u00e9", "x":1.10}'
    assert message in request_body(spec("chat", b'{"system":"s","messages":[' + message + b"]}"))


def test_generate_keeps_its_system() -> None:
    assert sent("generate", {"prompt": "a", "system": "s"})["system"] == "s"
