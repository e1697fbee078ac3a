"""One program, with a queue of its own and with a server elsewhere: only the line that opens it differs."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
import trio
from fake_ollama import says, status

import oq
from tests.acceptance.conftest import Serve
from tests.cli.live import fake_model_server

pytestmark = pytest.mark.slow


async def program(opening: AbstractAsyncContextManager[Any]) -> list[object]:
    """Use every verb; return what was seen."""
    seen: list[object] = []
    async with opening as queue:
        async with queue.subscribe(types={"task_completed", "task_failed"}) as events:
            task = await queue.submit(oq.chat("m", [oq.user("Hello")], priority=oq.HIGH, options={"seed": 7}))
            seen.append("".join([text async for text in task.stream()]))
            result = await task.result()
            seen.append(result["message"]["content"])
            async for event in events:
                seen += [str(event.type), event.task_id == task.id, event.status, event.task.retry_count]
                break
        found = await queue.wait(task.id, timeout=20)
        seen += [found.status, found.finished, found.model, found.priority, found.options, found.payload,
                 found.result["message"], found.output, found.error, found.retry_count, found.max_retries,
                 [(attempt.number, attempt.outcome, attempt.host) for attempt in found.attempts]]  # fmt: skip
        lines = [line async for line in queue.follow(task.id, 3)]
        seen += [(line.type, line.text if line.type == "text" else line.task.output) for line in lines]

        finished: list[str] = []
        results = await queue.run_batch(
            [oq.generate("m", "a"), oq.embed("n", "b"), oq.generate("m", "bad", max_retries=0)],
            lambda task: finished.append(task.status), 20,
        )  # fmt: skip
        seen += [results[0]["response"], results[1]["embeddings"], type(results[2]).__name__, finished]
        failed = await queue.list(status="failed")
        seen += [(task.status, task.error_code, task.type) for task in failed]
        seen.append((await queue.page(limit=1)).total)

        send, receive = trio.open_memory_channel[Any](1)
        await queue.submit_to_channel(oq.generate("m", "c"), send)
        seen.append((await receive.receive()).output)

        await queue.pause()
        waiting = await queue.submit(oq.generate("m", "w", tags=["later"]))
        await queue.priority(waiting.id, "low")
        stats = await queue.stats()
        seen += [stats.pending_tasks, stats.completed_tasks, stats.queues_by_priority, stats.paused]
        bulk = await queue.bulk("cancel", filter={"tag": "later"}, expect=1)
        seen += [bulk.matched, bulk.done, bulk.skipped, (await queue.get(waiting.id)).status]
        await queue.retry(waiting.id)
        seen.append((await waiting.cancel()).status)
        await queue.delete(waiting.id)
        try:
            await queue.get(waiting.id)
        except oq.errors.TaskNotFound as error:
            seen.append(type(error).__name__)
        await queue.resume()
        seen += [(host.name, host.up, host.slots) for host in await queue.hosts()]
        await queue.drain(5)
    return seen


# httpx leaves its inner generators to the garbage collector when a stream is left early; Trio tells, in a warning that
# is off by default.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_program_moves_from_the_library_to_a_server_by_one_line(serve: Serve, tmp_path: Any):
    with fake_model_server() as fake:

        async def answer(exchange: Any) -> None:
            bad = exchange.request.json().get("prompt") == "bad"
            await (status(400, "no") if bad else says("Hel", "lo"))(exchange)

        fake.default = answer
        served = serve("--ollama-host", fake.url)
        with trio.fail_after(60):
            embedded = await program(oq.open_queue(tmp_path / "own", ollama_host=fake.url))
            remote = await program(oq.AsyncClient(served.url))
    assert embedded == remote
    assert embedded[:2] == ["Hello", "Hello"]
    assert len(embedded) > 30
