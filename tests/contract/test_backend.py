"""What every backend does, whatever stands behind it: the same tests against the fake and a real model.

A new kind of model server is added as one more `Setup`.
"""

from __future__ import annotations

import dataclasses
import socket
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import trio

from oq.backends import OllamaBackend
from oq.core.model import TaskType
from oq.core.output import output_text
from oq.ports import Piece
from tests.backends.attempts import attempt, failed_attempt, spec, text
from tests.fake_ollama import falls_silent, open_fake_ollama, says, status

SHORT = {"num_predict": 12, "temperature": 0, "seed": 1}


@dataclasses.dataclass(frozen=True)
class Setup:
    """A running model server and the names of what it has."""

    backend: OllamaBackend
    url: str
    chat_model: str
    embed_model: str
    is_real: bool


@pytest.fixture(params=["fake", "real"])
async def setup(request: pytest.FixtureRequest) -> AsyncIterator[Setup]:
    if request.param == "real":
        url = request.getfixturevalue("model_server")
        backend = OllamaBackend("real", url)
        yield Setup(backend, url, "smollm2", "smollm2-embed", True)
        await backend.aclose()
        return
    async with open_fake_ollama() as fake:
        fake.models = ["llama3.2", "embedder"]

        async def reply(exchange: Any) -> None:
            model, options = exchange.model, exchange.request.json().get("options", {})
            if model == "no-such-model":
                await status(404, f"model '{model}' not found")(exchange)
            elif isinstance(options.get("temperature"), str):
                await status(500, 'option "temperature" must be of type float32')(exchange)
            elif options.get("num_predict") == -1:
                await falls_silent("Once", " upon")(exchange)
            else:
                await says("Hello", " there", ", you", "!")(exchange)

        fake.default = reply
        backend = OllamaBackend("fake", fake.url)
        yield Setup(backend, fake.url, "llama3.2", "embedder", False)
        await backend.aclose()


@pytest.mark.parametrize("task_type", ["chat", "generate"])
async def test_text_comes_in_pieces_and_the_result_holds_all_of_it(setup: Setup, task_type: TaskType) -> None:
    with trio.fail_after(60):
        pieces, result = await attempt(setup.backend, spec(task_type, model=setup.chat_model, options=SHORT))
    assert len(pieces) > 1
    whole = result["message"]["content"] if task_type == "chat" else result["response"]
    assert text(pieces) == whole != ""
    assert result["done"] is True
    assert result["done_reason"] in ("stop", "length")
    assert result["eval_count"] > 0


async def test_output_text_reads_the_result(setup: Setup) -> None:
    with trio.fail_after(60):
        items = [
            item async for item in setup.backend.run(spec("chat", model=setup.chat_model, options=SHORT))
        ]
    assert isinstance(items[-1], bytes)
    assert output_text(items[-1]) == "".join(item.text for item in items if isinstance(item, Piece))


async def test_an_answer_not_streamed_has_the_same_shape(setup: Setup) -> None:
    task = spec("generate", model=setup.chat_model, options=SHORT)
    with trio.fail_after(60):
        _, result = await attempt(setup.backend, task)
        async with httpx.AsyncClient() as client:
            body = {"model": setup.chat_model, "prompt": "Hi", "options": SHORT, "stream": False}
            plain = (await client.post(f"{setup.url}/api/generate", json=body, timeout=60)).json()
    assert {name: type(value) for name, value in result.items()} == {
        name: type(value) for name, value in plain.items()
    }
    assert result["response"] == plain["response"]


async def test_a_system_prompt_of_a_chat_is_taken(setup: Setup) -> None:
    payload = {"system": "You are brief.", "messages": [{"role": "user", "content": "Hi"}]}
    with trio.fail_after(60):
        plain = await attempt(setup.backend, spec("chat", model=setup.chat_model, options=SHORT))
        _, result = await attempt(setup.backend, spec("chat", payload, model=setup.chat_model, options=SHORT))
    if setup.is_real:
        assert result["prompt_eval_count"] > plain[1]["prompt_eval_count"]
    assert result["done"] is True


async def test_embeddings_come_whole_and_without_pieces(setup: Setup) -> None:
    with trio.fail_after(60):
        pieces, result = await attempt(
            setup.backend, spec("embed", {"input": ["one", "two"]}, model=setup.embed_model)
        )
    assert pieces == []
    assert len(result["embeddings"]) == 2
    assert all(isinstance(number, float) for vector in result["embeddings"] for number in vector)


@pytest.mark.parametrize("task_type", ["chat", "generate", "embed"])
async def test_a_missing_model_is_not_worth_a_retry(setup: Setup, task_type: TaskType) -> None:
    with trio.fail_after(60):
        pieces, error = await failed_attempt(setup.backend, spec(task_type, model="no-such-model"))
    assert pieces == []
    assert (error.code, error.retryable, error.unreachable) == ("model_not_found", False, False)
    assert "ollama pull no-such-model" in error.message


async def test_a_wrong_option_is_not_worth_a_retry(setup: Setup) -> None:
    task = spec("generate", model=setup.chat_model, options={"temperature": "hot"})
    with trio.fail_after(60):
        _, error = await failed_attempt(setup.backend, task)
    assert (error.code, error.retryable) == ("invalid_request", False)


async def test_a_cancelled_attempt_ends_at_once_and_frees_the_server(setup: Setup) -> None:
    endless = spec(
        "generate", {"prompt": "Tell a long story."}, model=setup.chat_model, options={"num_predict": -1}
    )
    with trio.fail_after(60):
        with trio.CancelScope() as scope:
            async for item in setup.backend.run(endless):
                assert isinstance(item, Piece)
                began = trio.current_time()
                scope.cancel()
        assert scope.cancelled_caught
        assert trio.current_time() - began < 1
        # That the place is free again, tests/demo shows with a server that has only one.
        pieces, _ = await attempt(setup.backend, spec("generate", model=setup.chat_model, options=SHORT))
    assert pieces


async def test_it_answers_a_probe_and_says_what_it_has(setup: Setup) -> None:
    with trio.fail_after(60):
        assert await setup.backend.probe()
        info = await setup.backend.info()
    assert info.up
    assert info.version
    assert any(name.split(":")[0] == setup.chat_model for name in info.models)


async def test_when_nobody_listens_the_server_is_unreachable_and_the_task_not_to_blame() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        backend = OllamaBackend("gone", f"http://127.0.0.1:{unused.getsockname()[1]}")
        _, error = await failed_attempt(backend, spec())
        assert (error.unreachable, error.retryable) == (True, True)
        assert not await backend.probe()
        assert not (await backend.info()).up
