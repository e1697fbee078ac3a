"""What the monitor asks for by REST."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio

from oq.config import settings_from
from oq.core.model import TaskSpec
from oq.ports import BackendInfo, Piece
from oq.web.series import FIELDS

from .conftest import TASK, FakeBackend, House, open_house
from .test_openapi import check

BIG = "12345678901234567890123456789"


class Gives(FakeBackend):
    """Answers with exactly these bytes."""

    def __init__(self, result: bytes) -> None:
        super().__init__()
        self.result = result

    async def run(self, spec: TaskSpec) -> AsyncIterator[Piece | bytes]:
        await trio.lowlevel.checkpoint()
        yield self.result


async def summary(house: House, id: str) -> tuple[dict[str, Any], bytes]:
    answer = await house.client.get(f"/api/tasks/{id}?view=summary")
    body = await answer.get_data()
    check("GET", "/api/tasks/{id}", answer, body)
    return json.loads(body), body


async def test_a_small_task_is_whole_in_its_summary(house: House) -> None:
    id = await house.submit()
    await house.finished(id)
    found, _ = await summary(house, id)
    whole = await (await house.client.get(f"/api/tasks/{id}")).get_json()
    assert {name: found[name] for name in whole} == whole
    assert found["output_chars"] == 5
    assert "elided" not in found


async def test_embeddings_are_described_and_their_exact_bytes_are_beside(autojump_clock: Any) -> None:
    numbers = "[1.10,-2e-9,3,4,5,6,7,8" + ",0.1234567890123456789" * 2000 + "]"
    result = f'{{"model":"e","embeddings":[{numbers},{numbers}],"total_duration":{BIG}}}'.encode()
    async with open_house(backend=Gives(result)) as house:
        task = {"type": "embed", "model": "e", "payload": {"input": ["a", "b" * 5000]}}
        id = (await (await house.post("/api/tasks", task)).get_json())["task_id"]
        await house.finished(id)
        found, body = await summary(house, id)
        assert len(body) < 2000
        assert found["embeddings"] == {
            "count": 2,
            "dimensions": 2008,
            "first": [1.1, -2e-9, 3, 4, 5, 6, 7, 8],
        }
        assert b'"first":[1.10,-2e-9,3,' in body, "the numbers are the very text"
        assert f'"total_duration":{BIG}'.encode() in body
        assert found["result_bytes"] == len(result)
        assert found["elided"] == {"payload.input": 5008, "result.embeddings": 2 * len(numbers) + 3}
        exact = await house.client.get(f"/api/tasks/{id}/result.json")
        assert (await exact.get_data(), exact.content_type) == (result, "application/json")


async def test_a_long_answer_is_cut_in_the_summary_and_its_length_told(autojump_clock: Any) -> None:
    text = "é" * 300_000
    result = json.dumps({"message": {"role": "assistant", "content": text, "thinking": "hm"}}).encode()
    async with open_house(backend=Gives(result)) as house:
        id = await house.submit()
        await house.queue.wait(id)  # the whole answer is more than the test client takes at once
        found, _ = await summary(house, id)
        assert (len(found["output"]), found["output_chars"], found["thinking"]) == (262_144, 300_000, "hm")
        assert found["elided"]["result.message"] > 300_000


async def test_the_payload_is_there_byte_for_byte(house: House) -> None:
    await house.queue.pause()
    payload = f'{{"messages" : [{{"role":"user","content":"Hi"}}],  "seed":{BIG}}}'
    answer = await house.post("/api/tasks", f'{{"type":"chat","model":"m","payload":{payload}}}'.encode())
    id = (await answer.get_json())["task_id"]
    found = await house.client.get(f"/api/tasks/{id}/payload")
    assert await found.get_data() == payload.encode()
    missing = await house.client.get(f"/api/tasks/{id}/result.json")
    assert (missing.status_code, (await missing.get_json())["code"]) == (404, "not_found")


@pytest.mark.parametrize("path", ["/api/tasks/{}?view=all", "/api/series?window=2h", "/api/models?x=1"])
async def test_a_wrong_parameter_is_refused_with_a_sentence(house: House, path: str) -> None:
    id = await house.submit()
    answer = await house.client.get(path.format(id))
    assert (answer.status_code, bool((await answer.get_json())["error"])) == (422, True)


@pytest.mark.parametrize("window", ["5m", "1h", "24h"])
async def test_a_series_is_in_columns(house: House, autojump_clock: Any, window: str) -> None:
    await house.finished(await house.submit())
    await trio.sleep(3)
    answer = await house.client.get(f"/api/series?window={window}")
    body = await answer.get_data()
    check("GET", "/api/series", answer, body)
    found = json.loads(body)
    assert {len(found[name]) for name in FIELDS} == {4 if window == "5m" else 1}
    if window == "5m":
        assert (found["finished"][-1], found["tokens"][-1], found["running"][-1]) == (1, 2, 0)
        assert found["run_p50"][-1] is not None


async def test_models_are_listed_with_the_hosts_that_have_them(autojump_clock: Any) -> None:
    class Has(FakeBackend):
        def __init__(self, *models: str) -> None:
            super().__init__()
            self.models = models

        async def info(self) -> BackendInfo:
            await trio.lowlevel.checkpoint()
            return BackendInfo(True, "0.32.0", self.models, self.models[:1])

    settings = settings_from()
    async with open_house(settings, Has("b", "a")) as house:
        answer = await house.client.get("/api/models")
        body = await answer.get_data()
        check("GET", "/api/models", answer, body)
        assert json.loads(body) == [
            {"name": "a", "hosts": ["default"], "loaded": []},
            {"name": "b", "hosts": ["default"], "loaded": ["default"]},
        ]


async def test_a_list_tells_what_a_row_shows(house: House) -> None:
    id = await house.submit()
    await house.finished(id)
    (row,) = await (await house.client.get("/api/tasks")).get_json()
    assert (row["prompt"], row["tokens"], row["output_start"], row["revision"]) == ("Hi", 2, "Hello", 3)
    assert row["tokens_per_second"] > 0


async def test_a_list_counts_what_is_newer_than_its_anchor(house: House) -> None:
    await house.queue.pause()
    ids = [await house.submit(model=model) for model in ("a", "b", "a", "a")]
    for query in ("", "&q=hi", "&tag=none", "&model=a"):
        answer = await house.client.get(f"/api/tasks?anchor={ids[1]}&limit=1{query}")
        wanted = {"": ("4", "2"), "&q=hi": ("4", "2"), "&tag=none": ("0", "0"), "&model=a": ("3", "2")}[query]
        assert (answer.headers["X-Total-Count"], answer.headers["X-Newer-Count"]) == wanted, query
    assert "X-Newer-Count" not in (await house.client.get("/api/tasks")).headers


async def test_all_filters_combine_with_text(house: House) -> None:
    await house.queue.pause()
    wanted = await house.submit(model="a", tags=["x"], priority="high")
    for fields in ({"model": "b"}, {"tags": ["y"]}, {"priority": "low"}):
        await house.submit(**{"model": "a", "tags": ["x"], "priority": "high", **fields})
    answer = await house.client.get(
        "/api/tasks?q=HI&model=a&tag=x&priority=high&status=pending&type=chat&sort=-priority"
    )
    assert [row["id"] for row in await answer.get_json()] == [wanted]
    assert (answer.headers["X-Total-Count"], answer.headers["X-Search-Complete"]) == ("1", "true")


async def test_an_event_id_never_promises_more_than_the_list_has(house: House) -> None:
    await house.queue.pause()
    await house.submit()
    await trio.testing.wait_all_tasks_blocked()
    answer = await house.client.get("/api/tasks")
    assert answer.headers["X-Event-Id"] == f"{house.queue.epoch}-{house.queue.last_event}"


@pytest.mark.slow
async def test_a_bulk_request_over_many_tasks_lets_others_in_between(autojump_clock: Any) -> None:
    async with open_house() as house:
        await house.queue.pause()
        await house.post("/api/tasks/batch", [TASK] * 5000)
        body = {"action": "cancel", "filter": {"status": "pending", "q": "hi"}, "expect": 5000}
        between = 0

        async def look() -> None:
            nonlocal between
            while (await (await house.client.get("/api/status")).get_json())["pending_tasks"]:
                between += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            found = await (await house.post("/api/tasks/bulk", body)).get_json()
        assert found == {"matched": 5000, "done": 5000, "skipped": 0, "errors": []}
        assert between > 1
