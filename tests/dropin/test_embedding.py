"""Small embed tasks that wait together are sent as one call, and each gets its own answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fake_ollama import Exchange, FakeOllama

from oq import builders
from oq.core.ids import created_at, parse_id
from oq.core.task import Task

from .conftest import Place, open_place


def vector(text: str) -> list[float]:
    return [float(len(text)), float(sum(text.encode()) % 97)]


async def embeds(exchange: Exchange) -> None:
    """Answer with a vector of each text; a text with "bad" in it is refused, with "broken" it breaks the runner."""
    given = exchange.request.json()["input"]
    texts = [given] if isinstance(given, str) else given
    if any("bad" in text for text in texts):
        await exchange.whole(400, b'{"error":"the input length exceeds the context length"}')
    elif any("broken" in text for text in texts):
        await exchange.whole(500, b'{"error":"model runner has unexpectedly stopped"}')
    else:
        vectors = list(map(vector, texts))
        answer = {"model": exchange.model, "embeddings": vectors, "prompt_eval_count": 2 * len(texts)}
        await exchange.whole(200, json.dumps(answer).encode())


async def run(place: Place, fake: FakeOllama, texts: list[str], **more: Any) -> list[Task]:
    """Submit while the queue is paused, so that all wait together; return the finished tasks."""
    fake.default = embeds
    await place.queue.pause()
    handles = [await place.queue.submit(builders.embed("m", text, **more)) for text in texts]
    await place.queue.resume()
    return [await handle.wait() for handle in handles]


def answer_of(task: Task) -> Any:
    assert task.result is not None, task.state.error
    return task.result


def sent(fake: FakeOllama) -> list[Any]:
    return [request.json()["input"] for request in fake.requests if request.method == "POST"]


async def test_tasks_that_wait_together_are_one_call(fake: FakeOllama, tmp_path: Path) -> None:
    texts = [f"text {number}" * (1 + number) for number in range(10)]
    async with open_place(tmp_path, fake.url, queue__max_workers=1) as place:
        tasks = await run(place, fake, texts)
    assert sent(fake) == [texts]
    assert [answer_of(task)["embeddings"] for task in tasks] == [[vector(text)] for text in texts]
    assert sum(answer_of(task)["prompt_eval_count"] for task in tasks) == 20
    assert {len(task.state.attempts) for task in tasks} == {1}


async def test_equal_texts_are_computed_once(fake: FakeOllama, tmp_path: Path) -> None:
    async with open_place(tmp_path, fake.url, queue__max_workers=1) as place:
        tasks = await run(place, fake, ["same", "same", "other", "same"])
    assert sent(fake) == [["same", "other"]]
    assert all(task.status == "completed" for task in tasks)


@pytest.mark.parametrize(
    ("setting", "calls"), [({"scheduler__embed_batch": 3}, 4), ({"scheduler__embed_batch": 1}, 10), ({"scheduler__embed_batch_bytes": 1024}, 5)]
)  # fmt: skip
async def test_a_call_is_bounded_in_tasks_and_bytes(
    fake: FakeOllama, tmp_path: Path, setting: dict[str, int], calls: int
) -> None:
    texts = [str(number) * 450 for number in range(10)]
    async with open_place(tmp_path, fake.url, queue__max_workers=1, **setting) as place:
        tasks = await run(place, fake, texts)
    assert len(fake.requests) == calls
    assert [answer_of(task)["embeddings"] for task in tasks] == [[vector(text)] for text in texts]


async def test_a_call_with_room_waits_for_more_but_for_nobody_who_comes_meanwhile(
    fake: FakeOllama, tmp_path: Path
) -> None:
    fake.default = embeds
    async with open_place(
        tmp_path, fake.url, queue__max_workers=2, scheduler__embed_batch=3, scheduler__embed_wait=3600.0
    ) as place:
        first = [await place.queue.submit(builders.embed("m", text)) for text in ("a", "b")]
        assert (await place.queue.get(first[0].id)).status == "pending"
        third = await place.queue.submit(builders.embed("m", "c"))
        assert [(await handle.wait(20)).status for handle in (*first, third)] == ["completed"] * 3
        assert sent(fake) == [["a", "b", "c"]]
        lone = await place.queue.submit(builders.embed("m", "d"))
        other = await place.queue.submit(builders.embed("m", ["e", "f"]))  # goes alone
        assert [(await handle.wait(20)).status for handle in (other, lone)] == ["completed"] * 2


async def test_a_call_with_room_goes_as_it_is_when_its_time_is_over(fake: FakeOllama, tmp_path: Path) -> None:
    fake.default = embeds
    async with open_place(tmp_path, fake.url, scheduler__embed_wait=0.3) as place:
        handles = [await place.queue.submit(builders.embed("m", text)) for text in ("a", "b", "c")]
        tasks = [await handle.wait() for handle in handles]
    assert sent(fake) == [["a", "b", "c"]]
    attempt = tasks[0].state.attempts[0]
    assert attempt.started_at - created_at(parse_id(tasks[0].id)) >= 0.3


async def test_the_one_that_is_to_blame_fails_alone(fake: FakeOllama, tmp_path: Path) -> None:
    texts = ["a", "b", "bad", "c", "d", "e", "f", "g"]
    async with open_place(tmp_path, fake.url, queue__max_workers=1) as place:
        tasks = await run(place, fake, texts)
    assert [task.status == "completed" for task in tasks] == [text != "bad" for text in texts]
    assert tasks[2].state.error_code == "invalid_request"
    assert len(fake.requests) == 7  # all, then two halves three times


async def test_one_that_breaks_the_model_is_tried_again_by_itself(fake: FakeOllama, tmp_path: Path) -> None:
    async with open_place(tmp_path, fake.url, queue__max_workers=1) as place:
        tasks = await run(place, fake, ["a", "broken", "b"], max_retries=1)
    assert [str(task.status) for task in tasks] == ["completed", "failed", "completed"]
    assert len(tasks[1].state.attempts) == 2
    assert sent(fake)[-1] == "broken"


async def test_a_model_that_is_missing_is_asked_for_once(fake: FakeOllama, tmp_path: Path) -> None:
    async def missing(exchange: Exchange) -> None:
        await exchange.whole(404, b'{"error":"model \\"m\\" not found, try pulling it first"}')

    fake.script(missing)
    async with open_place(tmp_path, fake.url, queue__max_workers=1) as place:
        tasks = await run(place, fake, ["a", "b", "c"])
    assert [task.state.error_code for task in tasks] == ["model_not_found"] * 3
    assert len(fake.requests) == 1


async def test_a_cancelled_task_leaves_the_call_to_the_others(fake: FakeOllama, tmp_path: Path) -> None:
    async def slow(exchange: Exchange) -> None:
        await exchange.pause(0.3)
        await embeds(exchange)

    fake.script(slow)
    fake.default = embeds
    async with open_place(tmp_path, fake.url, queue__max_workers=1) as place:
        await place.queue.pause()
        handles = [await place.queue.submit(builders.embed("m", text)) for text in "abc"]
        await place.queue.resume()
        await fake.wait_until(lambda: fake.in_flight == 1)
        await handles[0].cancel()
        tasks = [await handle.wait() for handle in handles]
    assert [str(task.status) for task in tasks] == ["cancelled", "completed", "completed"]
    assert len(fake.requests) == 1


async def test_when_all_are_cancelled_the_call_is_given_up(fake: FakeOllama, tmp_path: Path) -> None:
    fake.script(never)
    async with open_place(tmp_path, fake.url, queue__max_workers=1) as place:
        await place.queue.pause()
        handles = [await place.queue.submit(builders.embed("m", text)) for text in "abc"]
        await place.queue.resume()
        await fake.wait_until(lambda: fake.in_flight == 1)
        for handle in handles:
            await handle.cancel()
        await fake.wait_until(lambda: fake.in_flight == 0)
        assert fake.requests[0].hung_up_at is not None


async def never(exchange: Exchange) -> None:
    """Answer nothing."""
    await exchange.wait_hung_up()


async def test_a_timeout_is_that_of_all_and_each_is_tried_again_alone(
    fake: FakeOllama, tmp_path: Path
) -> None:
    fake.script(never)
    async with open_place(tmp_path, fake.url, queue__max_workers=1) as place:
        tasks = await run(place, fake, ["a", "b"], timeout=0.2)
    assert {(str(task.status), task.state.attempts[0].code) for task in tasks} == {("completed", "timeout")}
    assert sorted(map(str, sent(fake)[1:])) == ["a", "b"]


async def test_a_task_without_retries_has_a_try_by_itself_after_a_shared_one(
    fake: FakeOllama, tmp_path: Path
) -> None:
    fake.script(never)
    async with open_place(tmp_path, fake.url, queue__max_workers=1) as place:
        tasks = await run(place, fake, ["a", "b"], timeout=0.2, max_retries=0)
    assert [str(task.status) for task in tasks] == ["completed", "completed"]


async def test_a_task_alone_without_retries_has_no_second_try(fake: FakeOllama, tmp_path: Path) -> None:
    fake.script(never)
    async with open_place(tmp_path, fake.url, queue__max_workers=1) as place:
        (task,) = await run(place, fake, ["a"], timeout=0.2, max_retries=0)
    assert (str(task.status), task.error_code, len(fake.requests)) == ("failed", "timeout", 1)


async def test_a_task_alone_that_gets_no_vector_has_a_bad_answer(fake: FakeOllama, tmp_path: Path) -> None:
    async def forgets(exchange: Exchange) -> None:
        await exchange.whole(200, b'{"model":"m","embeddings":[]}')

    fake.script(forgets, forgets)
    async with open_place(tmp_path, fake.url) as place:
        (task,) = await run(place, fake, ["a"], max_retries=0)
        assert (str(task.status), task.error_code) == ("failed", "bad_answer")
        assert "0 vectors for 1 inputs" in (task.state.error or "")
        (task,) = await run(place, fake, ["b"], max_retries=1)
    assert (str(task.status), task.state.retry_count) == ("completed", 1)


async def test_tasks_whose_other_fields_differ_go_in_calls_of_their_own(
    fake: FakeOllama, tmp_path: Path
) -> None:
    bodies = [
        {"input": "a"},
        {"input": "b"},
        {"input": "c", "truncate": False},
        {"input": "d", "dimensions": 2},
    ]
    fake.default = embeds
    async with open_place(tmp_path, fake.url, queue__max_workers=1) as place:
        await place.queue.pause()
        asked = {"Prefer": "respond-async"}
        for body in bodies:
            answer = await place.client.post("/api/embed", json={"model": "m", **body}, headers=asked)
            assert answer.status_code == 202, answer.text
        await place.queue.resume()
        await place.until(lambda: len(fake.requests) == 3)
    told = [request.json() for request in fake.requests]
    assert [one["input"] for one in told] == [["a", "b"], "c", "d"]
    assert [one.get("truncate") for one in told] == [None, False, None]
    assert [one.get("dimensions") for one in told] == [None, None, 2]


async def test_a_higher_priority_is_not_made_to_wait_for_the_whole_bulk(
    fake: FakeOllama, tmp_path: Path
) -> None:
    fake.default = embeds
    async with open_place(tmp_path, fake.url, queue__max_workers=1, scheduler__embed_batch=4) as place:
        await place.queue.pause()
        low = [await place.queue.submit(builders.embed("m", f"low {n}", priority="low")) for n in range(8)]
        high = [await place.queue.submit(builders.embed("m", f"high {n}", priority="high")) for n in range(2)]
        await place.queue.resume()
        for handle in (*low, *high):
            await handle.wait()
    assert [texts[0][:3] for texts in sent(fake)] == ["hig", "low", "low"]
    assert len(sent(fake)[0]) == 2


@pytest.mark.slow
async def test_vectors_of_a_shared_call_are_those_of_single_calls(model_server: str, tmp_path: Path) -> None:
    texts = [f"The {word} is on the table." for word in ("cat", "letter", "old map", "sugar", "lamp")]
    found = []
    for batch in (1, 32):
        async with open_place(
            tmp_path / str(batch), model_server, queue__max_workers=1, scheduler__embed_batch=batch
        ) as place:
            await place.queue.pause()
            handles = [await place.queue.submit(builders.embed("smollm2-embed", text)) for text in texts]
            await place.queue.resume()
            tasks = [await handle.wait() for handle in handles]
            found.append([answer_of(task)["embeddings"][0] for task in tasks])
    for single, shared in zip(*found, strict=True):
        assert single == pytest.approx(shared, abs=1e-4)
