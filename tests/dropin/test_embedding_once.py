"""The same embed request is computed once: while it runs, and, where a cache is asked for, ever after."""

from __future__ import annotations

import json
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import trio
from fake_ollama import Exchange, FakeOllama

from oq import builders

from .conftest import Place, open_place
from .test_embedding import answer_of, embeds, sent, vector
from .test_kill import serving

CACHE = {"queue__max_workers": 1, "scheduler__embed_cache_bytes": 100_000}


class Gate:
    """Answers when it is opened."""

    def __init__(self) -> None:
        self.opened = trio.Event()

    async def __call__(self, exchange: Exchange) -> None:
        await self.opened.wait()
        await embeds(exchange)


@pytest.fixture
def gate(fake: FakeOllama) -> Gate:
    gate = Gate()
    fake.script(gate)
    fake.default = embeds
    return gate


async def submit(place: Place, *texts: str, **more: Any) -> list[Any]:
    return [await place.queue.submit(builders.embed("m", text, **more)) for text in texts]


async def statuses(place: Place) -> list[str]:
    return [str(task.status) for task in await place.tasks()]


async def until(place: Place, *wanted: str) -> None:
    """Wait until the tasks stand so; looked at after every event of the queue."""
    with trio.fail_after(20):
        async with place.queue.subscribe() as subscribed, aclosing(cast(Any, subscribed)) as events:
            while await statuses(place) != list(wanted):
                await anext(events)


async def test_the_same_request_joins_the_one_that_runs_and_takes_no_slot(
    fake: FakeOllama, gate: Gate, tmp_path: Path
) -> None:
    async with open_place(tmp_path, fake.url, queue__max_workers=1) as place:
        first = await submit(place, "same")
        await fake.wait_until(lambda: fake.in_flight == 1)
        others = await submit(place, "same", "same", "other")
        assert await statuses(place) == ["running", "running", "running", "pending"]
        gate.opened.set()
        tasks = [await handle.wait() for handle in (*first, *others)]
    assert sent(fake) == ["same", "other"]
    assert [answer_of(task)["embeddings"] for task in tasks[:3]] == [[vector("same")]] * 3
    assert [[str(attempt.outcome) for attempt in task.attempts] for task in tasks] == [["succeeded"]] * 4


async def test_the_same_list_of_texts_is_computed_once_too(
    fake: FakeOllama, gate: Gate, tmp_path: Path
) -> None:
    async with open_place(tmp_path, fake.url, queue__max_workers=2) as place:
        handles = [await place.queue.submit(builders.embed("m", ["a", "b"])) for _ in range(2)]
        await fake.wait_until(lambda: fake.in_flight == 1)
        gate.opened.set()
        tasks = [await handle.wait() for handle in handles]
    assert sent(fake) == [["a", "b"]]
    assert [answer_of(task)["embeddings"] for task in tasks] == [[vector("a"), vector("b")]] * 2


async def test_more_of_the_same_than_a_call_holds_are_one_text_of_it(
    fake: FakeOllama, gate: Gate, tmp_path: Path
) -> None:
    async with open_place(tmp_path, fake.url, queue__max_workers=1, scheduler__embed_batch=2) as place:
        await place.queue.pause()
        handles = await submit(place, *["same"] * 10, "other")
        await place.queue.resume()
        gate.opened.set()
        for handle in handles:
            await handle.wait()
    assert sent(fake) == [["same", "other"]]


@pytest.mark.parametrize("cancelled", [0, 1])
async def test_cancelling_one_leaves_the_other_its_answer(
    fake: FakeOllama, gate: Gate, tmp_path: Path, cancelled: int
) -> None:
    async with open_place(tmp_path, fake.url, queue__max_workers=1) as place:
        handles = await submit(place, "same", "same")
        await fake.wait_until(lambda: fake.in_flight == 1)
        await handles[cancelled].cancel()
        gate.opened.set()
        tasks = [await handle.wait() for handle in handles]
    assert str(tasks[cancelled].status) == "cancelled"
    assert answer_of(tasks[1 - cancelled])["embeddings"] == [vector("same")]
    assert len(fake.requests) == 1


async def test_a_client_that_goes_away_leaves_the_answer_to_another_that_asked_the_same(
    fake: FakeOllama, gate: Gate, tmp_path: Path
) -> None:
    asked = {"model": "m", "input": "same"}
    answers: list[httpx.Response] = []
    async with open_place(tmp_path, fake.url, queue__max_workers=1) as place:

        async def ask_too() -> None:
            answers.append(await place.client.post("/api/embed", json=asked))

        async with trio.open_nursery() as nursery:
            gone = await place.post_raw("/api/embed", asked)
            await fake.wait_until(lambda: fake.in_flight == 1)
            nursery.start_soon(ask_too)
            await until(place, "running", "running")
            await gone.aclose()
            await until(place, "cancelled", "running")
            gate.opened.set()
        tasks = await place.tasks()
    (answer,) = answers
    assert answer.json()["embeddings"] == [vector("same")]
    assert answer.headers["x-queue-position"] == "0"
    assert answer.headers["x-task-id"] == tasks[1].id
    assert [str(task.status) for task in tasks] == ["cancelled", "completed"]
    assert sent(fake) == ["same"]


async def test_what_comes_while_a_cancelled_one_is_being_stopped_is_computed_anew(
    fake: FakeOllama, gate: Gate, tmp_path: Path
) -> None:
    async with open_place(tmp_path, fake.url, queue__max_workers=1) as place:
        (first,) = await submit(place, "same")
        await fake.wait_until(lambda: fake.in_flight == 1)
        await first.cancel()
        (second,) = await submit(place, "same")
        assert answer_of(await second.wait())["embeddings"] == [vector("same")]
    assert len(fake.requests) == 2


async def test_a_refusal_is_that_of_all_who_asked_the_same(fake: FakeOllama, tmp_path: Path) -> None:
    fake.default = embeds
    async with open_place(tmp_path, fake.url, queue__max_workers=1) as place:
        await place.queue.pause()
        handles = await submit(place, "bad", "bad")
        await place.queue.resume()
        tasks = [await handle.wait() for handle in handles]
    assert [task.error_code for task in tasks] == ["invalid_request"] * 2
    assert len(fake.requests) == 1


async def test_a_failure_that_may_pass_is_tried_again_by_each(fake: FakeOllama, tmp_path: Path) -> None:
    async def busy(exchange: Exchange) -> None:
        await exchange.whole(503, b'{"error":"server busy"}')

    fake.script(busy)
    fake.default = embeds
    async with open_place(tmp_path, fake.url, queue__max_workers=1) as place:
        await place.queue.pause()
        handles = await submit(place, "same", "same", max_retries=0)
        await place.queue.resume()
        tasks = [await handle.wait() for handle in handles]
    assert [str(task.status) for task in tasks] == ["completed"] * 2
    assert sent(fake) == ["same"] * 3


@pytest.mark.slow
async def test_a_kill_in_the_middle_of_a_shared_call_loses_nobody(fake: FakeOllama, tmp_path: Path) -> None:
    async def never(exchange: Exchange) -> None:
        await exchange.wait_hung_up()

    texts = ["a", "b", "b", "c"]
    fake.default = never
    asked = {"Prefer": "respond-async"}
    async with serving(tmp_path, fake.url, QUEUE_MAX_WORKERS="1") as (client, process):
        await client.post("/api/queue/pause")
        places = []
        for text in texts:
            answer = await client.post("/api/embed", json={"model": "m", "input": text}, headers=asked)
            places.append(answer.headers["location"])
        await client.post("/api/queue/resume")
        await fake.wait_until(lambda: fake.in_flight >= 1)
        statuses = [(await client.get(place)).json()["status"] for place in places]
        process.kill()
    fake.default = embeds
    async with serving(tmp_path, fake.url) as (client, _):
        ended = [(await client.get(f"{place}/result?wait=30")).json() for place in places]
    assert statuses == ["running"] * 4
    assert [task["result"]["embeddings"] for task in ended] == [[vector(text)] for text in texts]
    assert [[one["outcome"] for one in task["attempts"]] for task in ended] == [
        ["interrupted", "succeeded"]
    ] * 4


# --- the cache ----------------------------------------------------------------------------------------------------
async def tags(models: dict[str, str], exchange: Exchange) -> None:
    found = [
        {"name": name, "model": name, **({"digest": digest} if digest else {})}
        for name, digest in models.items()
    ]
    value = {"models": found} if exchange.request.path == "/api/tags" else {"version": "0.32.0"}
    await exchange.whole(200, json.dumps(value).encode())


async def ask(place: Place, text: str, **more: Any) -> Any:
    (handle,) = await submit(place, text, **more)
    return await handle.wait()


async def test_an_answer_is_given_again_while_the_model_is_the_same(fake: FakeOllama, tmp_path: Path) -> None:
    models = {"m:latest": "sha256:1"}
    fake.default, fake.rest = embeds, partial(tags, models)
    async with open_place(tmp_path, fake.url, **CACHE) as place:
        first, second = await ask(place, "a"), await ask(place, "a")
        models["m:latest"] = "sha256:2"
        await ask(place, "a")
    assert sent(fake) == ["a", "a"]
    assert second.result_json == first.result_json
    assert [str(attempt.outcome) for attempt in second.attempts] == ["succeeded"]


async def test_of_a_shared_call_only_what_is_new_is_sent(fake: FakeOllama, tmp_path: Path) -> None:
    fake.default, fake.rest = embeds, partial(tags, {"m:latest": "sha256:1"})
    async with open_place(tmp_path, fake.url, **CACHE) as place:
        await ask(place, "b")
        await place.queue.pause()
        handles = await submit(place, "a", "b", "c")
        await place.queue.resume()
        tasks = [await handle.wait() for handle in handles]
    assert sent(fake) == ["b", ["a", "c"]]
    assert [answer_of(task)["embeddings"] for task in tasks] == [[vector(text)] for text in "abc"]


async def test_another_option_is_another_answer(fake: FakeOllama, tmp_path: Path) -> None:
    fake.default, fake.rest = embeds, partial(tags, {"m:latest": "sha256:1"})
    async with open_place(tmp_path, fake.url, **CACHE) as place:
        await ask(place, "a")
        await ask(place, "a", options={"num_ctx": 64})
    assert len(sent(fake)) == 2


async def test_a_refusal_is_not_kept(fake: FakeOllama, tmp_path: Path) -> None:
    fake.default, fake.rest = embeds, partial(tags, {"m:latest": "sha256:1"})
    async with open_place(tmp_path, fake.url, **CACHE) as place:
        for _ in range(2):
            assert (await ask(place, "bad")).error_code == "invalid_request"
    assert len(sent(fake)) == 2


@pytest.mark.parametrize("models", [{}, {"m:latest": ""}, {"mm:latest": "sha256:1"}])
async def test_a_model_whose_digest_is_unknown_is_not_cached(
    fake: FakeOllama, tmp_path: Path, models: dict[str, str]
) -> None:
    fake.default, fake.rest = embeds, partial(tags, models)
    async with open_place(tmp_path, fake.url, **CACHE) as place:
        await ask(place, "a")
        await ask(place, "a")
    assert sent(fake) == ["a", "a"]


async def test_without_the_setting_nothing_is_kept_nor_asked(fake: FakeOllama, tmp_path: Path) -> None:
    asked = []

    async def rest(exchange: Exchange) -> None:
        asked.append(exchange.request.path)
        await tags({"m:latest": "sha256:1"}, exchange)

    fake.default, fake.rest = embeds, rest
    async with open_place(tmp_path, fake.url, queue__max_workers=1) as place:
        await ask(place, "a")
        await ask(place, "a")
    assert sent(fake) == ["a", "a"]
    assert "/api/tags" not in asked


async def test_the_cache_is_bounded_in_bytes_and_forgets_what_was_not_asked_for_longest(
    fake: FakeOllama, tmp_path: Path
) -> None:
    fake.default, fake.rest = embeds, partial(tags, {"m:latest": "sha256:1"})
    async with open_place(tmp_path, fake.url, **CACHE | {"scheduler__embed_cache_bytes": 700}) as place:
        for text in ("a", "b", "a", "c", "a", "b"):
            await ask(place, text)
    assert sent(fake) == ["a", "b", "c", "b"]
