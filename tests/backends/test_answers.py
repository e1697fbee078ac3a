"""What comes out of an attempt that went well, and how much may come."""

from __future__ import annotations

import json

import msgspec
import pytest

from oq.backends import OllamaBackend
from oq.backends.answers import AnswerReader, error_text
from oq.core.model import TaskType
from oq.core.output import output_text
from oq.errors import BackendError
from oq.ports import Piece
from tests.backends.attempts import MakeBackend, attempt, failed_attempt, spec, text
from tests.fake_ollama import FIGURES, FakeOllama, lines, loads, says, sends, status


def read(*parts: bytes, streams: bool = True, max_bytes: int = 1_000_000) -> tuple[list[Piece], bytes]:
    reader = AnswerReader(streams=streams, model="m", max_bytes=max_bytes)
    pieces = [piece for part in parts for piece in reader.feed(part)] + list(reader.end())
    return pieces, reader.result()


@pytest.mark.parametrize("task_type", ["chat", "generate"])
async def test_a_streamed_answer_is_put_together_like_one_that_was_not(
    fake: FakeOllama, backend: OllamaBackend, task_type: TaskType
) -> None:
    streamed = await attempt(backend, spec(task_type))
    fake.default = says("Hello world")
    not_streamed = await attempt(backend, spec(task_type))
    assert [piece.text for piece in streamed[0]] == ["Hello", " world"]
    assert streamed[1] == not_streamed[1]
    assert streamed[1] | FIGURES == streamed[1]
    assert output_text(json.dumps(streamed[1]).encode()) == "Hello world"


@pytest.mark.parametrize("task_type", ["chat", "generate"])
async def test_thinking_is_delivered_and_kept_apart_from_the_text(
    fake: FakeOllama, backend: OllamaBackend, task_type: TaskType
) -> None:
    fake.script(says("42", thinking=("Let me", " see")))
    pieces, result = await attempt(backend, spec(task_type))
    assert pieces == [Piece("Let me", "thinking"), Piece(" see", "thinking"), Piece("42", "content")]
    holder = result["message"] if task_type == "chat" else result
    assert holder["thinking"] == "Let me see"
    assert "42" in (holder.get("content"), holder.get("response"))


async def test_an_embedding_is_the_server_s_json_byte_for_byte(
    fake: FakeOllama, backend: OllamaBackend
) -> None:
    body = b'{"model": "m", "embeddings": [[0.1234567890123456789, -1e-9]], "new_field": null}'
    fake.script(sends(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)))
    items = [item async for item in backend.run(spec("embed"))]
    assert items == [body]


async def test_an_answer_that_was_not_streamed_is_taken_whole(
    fake: FakeOllama, backend: OllamaBackend
) -> None:
    body = b'{"model":"m","response":"Hi","done":true,"eval_count":12345678901234567890}'
    fake.script(sends(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)))
    items = [item async for item in backend.run(spec())]
    assert items == [Piece("Hi"), body]


@pytest.mark.parametrize("task_type", ["chat", "generate"])
async def test_loading_a_model_is_a_good_answer(
    fake: FakeOllama, backend: OllamaBackend, task_type: TaskType
) -> None:
    fake.script(loads())
    pieces, result = await attempt(backend, spec(task_type, {}))
    assert pieces == []
    assert result["done_reason"] == "load"


async def test_tool_calls_of_all_lines_are_kept_in_order(fake: FakeOllama, backend: OllamaBackend) -> None:
    def call(name: str) -> dict[str, object]:
        return {"function": {"name": name, "arguments": {"n": 1}}}

    fake.script(
        lines(
            {
                "message": {"role": "assistant", "content": "", "tool_calls": [call("a"), call("b")]},
                "done": False,
            },
            {"message": {"role": "assistant", "content": "", "tool_calls": [call("c")]}, "done": False},
            {"message": {"role": "assistant", "content": ""}, "done": True, "done_reason": "stop"},
        )
    )
    _, result = await attempt(backend, spec("chat"))
    assert [tool["function"]["name"] for tool in result["message"]["tool_calls"]] == ["a", "b", "c"]
    assert result["message"]["role"] == "assistant"


async def test_log_probabilities_of_all_lines_are_kept_in_order(
    fake: FakeOllama, backend: OllamaBackend
) -> None:
    fake.script(
        lines(
            {"response": "a", "logprobs": [{"token": "a", "logprob": -0.5}], "done": False},
            {"response": "b", "logprobs": [{"token": "b", "logprob": -0.25}], "done": False},
            {"response": "", "done": True},
        )
    )
    _, result = await attempt(backend, spec())
    assert [entry["token"] for entry in result["logprobs"]] == ["a", "b"]


async def test_text_in_the_last_line_counts(fake: FakeOllama, backend: OllamaBackend) -> None:
    fake.script(lines({"response": "a", "done": False}, {"response": "b", "done": True, "unknown": [1.50]}))
    pieces, result = await attempt(backend, spec())
    assert text(pieces) == "ab"
    assert result == {"response": "ab", "done": True, "unknown": [1.5]}


def test_a_chat_whose_last_line_has_no_message_gets_one() -> None:
    _, result = read(b'{"message":{"role":"assistant","content":"Hi"}}\n', b'{"done":true}\n')
    assert json.loads(result)["message"] == {"role": "assistant", "content": "Hi"}


def test_a_chat_whose_last_message_is_null_gets_one() -> None:
    _, result = read(b'{"message":{"content":"Hi"}}\n', b'{"message":null,"done":true}\n')
    assert json.loads(result)["message"] == {"role": "assistant", "content": "Hi"}


def test_a_generate_whose_last_line_has_no_response_gets_one() -> None:
    _, result = read(b'{"response":"Hi"}\n', b'{"done":true}\n')
    assert json.loads(result) == {"done": True, "response": "Hi"}


def test_fields_nobody_knows_keep_their_bytes() -> None:
    _, result = read(
        b'{"response":"x"}\n', b'{"response":"","done":true,"big":123456789012345678901234567890}\n'
    )
    assert b"123456789012345678901234567890" in result


def test_lines_may_be_cut_anywhere() -> None:
    whole = '{"response":"Gr\u00fc\u00df"}\n{"response":"e \U0001f600","done":true}\n'.encode()
    for at in range(1, len(whole)):
        pieces, result = read(whole[:at], whole[at:])
        assert text(pieces) == "Gr\u00fc\u00dfe \U0001f600"
        assert json.loads(result)["response"] == "Gr\u00fc\u00dfe \U0001f600"


def test_empty_lines_and_carriage_returns_do_no_harm() -> None:
    pieces, result = read(b'{"response":"a"}\r\n\r\n\n{"response":"b","done":true}\r\n')
    assert text(pieces) == "ab"
    assert json.loads(result)["done"] is True


def test_what_comes_after_done_is_ignored() -> None:
    pieces, result = read(b'{"response":"a","done":true}\n{"response":"b"}\n', b"garbage")
    assert text(pieces) == "a"
    assert json.loads(result)["response"] == "a"


def test_text_before_an_error_in_the_same_bytes_is_delivered() -> None:
    reader = AnswerReader(streams=True, model="m", max_bytes=1000)
    found = reader.feed(b'{"response":"a"}\n{"response":"b"}\n{"error":"boom"}\n')
    assert [next(found).text, next(found).text] == ["a", "b"]
    with pytest.raises(BackendError, match="boom"):
        next(found)


def test_a_null_error_is_no_error() -> None:
    _, result = read(b'{"response":"a","done":true,"error":null}\n')
    assert json.loads(result)["response"] == "a"


def test_an_error_that_is_an_object_is_read() -> None:
    with pytest.raises(BackendError, match="boom"):
        read(b'{"error":{"code":500,"message":"boom"}}\n')
    assert error_text(b'{"error":{"code":500}}') == '{"code":500}'
    assert error_text(b"\xff") == "\ufffd"


async def test_an_answer_past_the_limit_is_refused_and_its_connection_closed(
    fake: FakeOllama, make_backend: MakeBackend
) -> None:
    fake.script(says(*["x" * 100] * 200, pause=0.0))
    pieces, error = await failed_attempt(make_backend(max_result_bytes=1000), spec())
    assert (error.code, error.retryable) == ("result_too_large", False)
    assert "max_result_bytes" in error.message
    assert 900 <= len(text(pieces)) <= 1000
    await fake.wait_until(lambda: fake.open_connections == 0)


@pytest.mark.parametrize("task_type", ["generate", "embed"])
async def test_one_endless_line_is_refused_before_it_fills_the_memory(
    fake: FakeOllama, make_backend: MakeBackend, task_type: TaskType
) -> None:
    fake.script(sends(b"HTTP/1.1 200 OK\r\n\r\n" + b"[" * 100_000))
    _, error = await failed_attempt(make_backend(max_result_bytes=50_000), spec(task_type))
    assert error.code == "result_too_large"
    await fake.wait_until(lambda: fake.open_connections == 0)


def test_many_short_lines_count_only_what_is_kept_of_them() -> None:
    line = msgspec.json.encode({"model": "m", "created_at": "2026", "response": "x"}) + b"\n"
    pieces, result = read(line * 500, b'{"response":"","done":true}\n', max_bytes=1000)
    assert text(pieces) == "x" * 500
    assert len(result) < 1000


def test_the_limit_holds_for_the_result_too() -> None:
    with pytest.raises(BackendError, match="larger than 40 bytes"):
        read(b'{"response":"a","done":true,"context":[' + b"1," * 30 + b"1]}\n", max_bytes=40)


DEEP = b"[" * 50_000 + b"]" * 50_000


@pytest.mark.parametrize(
    "line",
    [
        b'{"message":{"content":"","tool_calls":[{"function":{"name":"f","arguments":{"a":%b}}}]},"done":true}' % DEEP,
        b'{"response":"x","done":true,"more":%b}' % DEEP,
        b'{"error":%b}' % DEEP,
        b'{"response":"\xff","done":true}',
    ],
)  # fmt: skip
def test_a_line_that_is_too_deep_fails_its_task_alone(line: bytes) -> None:
    """The arguments of a tool call are as deep as the model writes them."""
    with pytest.raises(BackendError):
        read(line + b"\n")


async def test_whatever_a_model_server_says_of_itself_or_its_errors_is_survived(
    fake: FakeOllama, backend: OllamaBackend
) -> None:
    fake.rest = status(200, (b'{"models":%b}' % DEEP).decode(), plain=True)
    assert (await backend.info()).models == ()
    assert await backend.probe()
    fake.default = status(500, (b'{"error":%b}' % DEEP).decode(), plain=True)
    _, error = await failed_attempt(backend, spec())
    assert error.code
