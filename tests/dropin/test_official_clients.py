"""The official clients of Ollama and OpenAI, unchanged, against a real model behind a served queue."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, TypeVar

import ollama
import openai
import pytest
import trio

from .conftest import Place

T = TypeVar("T")
SHORT = {"num_predict": 6, "temperature": 0}
HI = [{"role": "user", "content": "Say hi"}]


async def in_thread(function: Callable[[], T]) -> T:
    """Run a client that blocks."""
    with trio.fail_after(120):
        return await trio.to_thread.run_sync(function)


@pytest.mark.slow
async def test_ollama_sync(real: Place) -> None:
    def use() -> None:
        client = ollama.Client(real.url)
        try:
            names = [model.model for model in client.list().models]
            assert {"smollm2:latest", "smollm2-embed:latest"} <= set(names)
            whole = client.chat("smollm2", HI, options=SHORT)
            assert whole.done
            assert whole.message.content
            pieces = list(client.chat("smollm2", HI, stream=True, options=SHORT))
            assert "".join(piece.message.content or "" for piece in pieces) == whole.message.content
            assert pieces[-1].eval_count == whole.eval_count
            assert client.generate("smollm2", "Once", options=SHORT).response
            assert len(list(client.generate("smollm2", "Once", stream=True, options=SHORT))) > 1
            assert len(client.embed("smollm2-embed", ["a", "b"]).embeddings) == 2
            assert client.show("smollm2").capabilities == ["completion"]
            assert client.ps().models
            assert client.generate("smollm2").done_reason == "load"
            for stream in (False, True):
                with pytest.raises(ollama.ResponseError, match="not found") as caught:
                    list(client.chat("no-such-model", HI, stream=stream))
                assert caught.value.status_code == 404
        finally:
            client.close()

    await in_thread(use)
    assert {task.spec.tags for task in await real.tasks()} == {("via:ollama",)}


@pytest.mark.slow
async def test_ollama_async_and_a_cancel(real: Place) -> None:
    client = ollama.AsyncClient(real.url)
    try:
        assert (await client.chat("smollm2", HI, options=SHORT)).message.content
        texts = [
            piece.response
            async for piece in await client.generate("smollm2", "Once", stream=True, options=SHORT)
        ]
        assert "".join(texts)
        assert (await client.embed("smollm2-embed", "a")).embeddings
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                long = {"num_predict": 2000}
                nursery.start_soon(lambda: client.chat("smollm2", HI, options=long))
                await real.until(lambda: real.queue.stats().running == 1)
                scope.cancel()
        await real.until(lambda: real.queue.stats().cancelled == 1 and not real.queue.stats().workers_active)
    finally:
        await client.close()


@pytest.mark.slow
async def test_openai_sync(real: Place) -> None:
    def use() -> None:
        with openai.OpenAI(base_url=f"{real.url}/v1", api_key="any", max_retries=0) as client:
            assert "smollm2:latest" in [model.id for model in client.models.list()]
            assert client.models.retrieve("smollm2").id == "smollm2"
            asked: Any = {"model": "smollm2", "messages": HI, "max_tokens": 6, "temperature": 0}
            whole = client.chat.completions.create(**asked)
            text = whole.choices[0].message.content
            assert text
            assert whole.choices[0].finish_reason == "length"
            chunks = list(
                client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
            )
            assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == text
            assert chunks[-1].usage == whole.usage
            assert client.completions.create(model="smollm2", prompt="Once", max_tokens=4).choices[0].text
            packed = client.embeddings.create(model="smollm2-embed", input="Hi")
            floats = client.embeddings.create(model="smollm2-embed", input="Hi", encoding_format="float")
            assert packed.data[0].embedding == pytest.approx(floats.data[0].embedding, abs=1e-6)
            with pytest.raises(openai.NotFoundError) as missing:
                client.chat.completions.create(**{**asked, "model": "no-such-model"})
            assert missing.value.code == "model_not_found"
            with pytest.raises(openai.BadRequestError) as refused:
                client.chat.completions.create(**asked, n=2)
            assert refused.value.param == "n"

    await in_thread(use)


@pytest.mark.slow
async def test_openai_async_with_files_and_batches(real: Place) -> None:
    lines = [
        {"custom_id": str(number), "method": "POST", "url": "/v1/chat/completions",
         "body": {"model": "smollm2", "messages": HI, "max_tokens": 3}}
        for number in range(4)
    ]  # fmt: skip
    content = "\n".join(map(json.dumps, lines)).encode()
    async with openai.AsyncOpenAI(base_url=f"{real.url}/v1", api_key="any", max_retries=0) as client:
        answer = await client.chat.completions.create(
            model="smollm2", messages=[{"role": "user", "content": "Hi"}], max_tokens=3
        )
        assert answer.choices[0].message.content
        file = await client.files.create(file=("in.jsonl", content), purpose="batch")
        batch = await client.batches.create(
            input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
        )
        with trio.fail_after(120):
            while batch.status not in ("completed", "failed"):
                await trio.sleep(0.05)
                batch = await client.batches.retrieve(batch.id)
        assert batch.status == "completed"
        assert batch.request_counts is not None
        assert batch.request_counts.completed == 4
        assert batch.output_file_id is not None
        output = (await client.files.content(batch.output_file_id)).text
        assert sorted(json.loads(line)["custom_id"] for line in output.splitlines()) == ["0", "1", "2", "3"]
        assert [one.id async for one in client.batches.list()] == [batch.id]
        assert (await client.files.delete(file.id)).deleted
