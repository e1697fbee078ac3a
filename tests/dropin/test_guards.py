"""Truth guards from a request to its task: reported, run once more, or failed with their cause."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fake_ollama import FIGURES, FakeOllama, Reply, lines, says

from oq import builders
from oq.core.task import Task

from .conftest import Place

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def answers(text: str, **more: Any) -> Reply:
    return lines({"response": text, "done": True, "done_reason": "stop", **FIGURES, **more})


CUT = answers("x", prompt_eval_count=64)


async def run(place: Place, **asked: Any) -> Task:
    handle = await place.queue.submit(builders.generate("m", "Hi", **asked))
    return await handle.wait()


async def test_by_default_a_finding_is_a_warning_and_the_result_stays(place: Place, fake: FakeOllama) -> None:
    fake.script(answers("words", done_reason="length"))
    task = await run(place, format=SCHEMA)
    seen = (await place.client.get(f"/api/tasks/{task.id}")).json()
    assert (seen["status"], seen["warnings"]) == ("completed", ["length", "invalid_json"])
    assert seen["result"]["response"] == "words"


async def test_an_answer_without_fault_has_no_warnings(place: Place, fake: FakeOllama) -> None:
    fake.script(answers('{"n": 1}'))
    task = await run(place, format=SCHEMA, guard="fail")
    assert "warnings" not in (await place.client.get(f"/api/tasks/{task.id}")).json()


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (answers('{"n": 1}', prompt_eval_count=64), "prompt_cut"),
        (answers('{"n": 1}', done_reason="length"), "length"),
        (answers("words"), "invalid_json"),
        (answers('{"n": "one"}'), "schema_mismatch"),
    ],
)
async def test_a_strict_task_fails_with_the_cause(
    place: Place, fake: FakeOllama, reply: Reply, code: str
) -> None:
    fake.script(reply)
    task = await run(place, format=SCHEMA, options={"num_ctx": 64}, guard="fail")
    assert (task.status, task.state.error_code, len(task.state.attempts)) == ("failed", code, 1)


async def test_a_cut_prompt_is_asked_once_more_with_a_larger_context(place: Place, fake: FakeOllama) -> None:
    fake.script(CUT, answers("whole", prompt_eval_count=70))
    task = await run(place, options={"num_ctx": 64}, guard="retry")
    assert (task.status, task.output, task.state.warnings) == ("completed", "whole", ())
    assert [attempt.code for attempt in task.state.attempts] == ["prompt_cut", None]
    assert [request.json()["options"]["num_ctx"] for request in fake.requests] == [64, 128]
    assert json.loads(task.spec.options or b"") == {"num_ctx": 64}


async def test_what_is_still_cut_after_that_fails(place: Place, fake: FakeOllama) -> None:
    fake.script(CUT, answers("x", prompt_eval_count=128))
    task = await run(place, options={"num_ctx": 64}, guard="retry")
    assert (task.status, task.state.error_code, len(fake.requests)) == ("failed", "prompt_cut", 2)


async def test_a_task_without_retries_is_not_asked_again(place: Place, fake: FakeOllama) -> None:
    fake.script(CUT)
    task = await run(place, options={"num_ctx": 64}, guard="retry", max_retries=0)
    assert (task.status, len(fake.requests)) == ("failed", 1)


@pytest.mark.parametrize(("headers", "more"), [({"X-Queue-Guard": "fail"}, {}), ({}, {"_guard": "fail"})])
async def test_a_call_of_another_api_may_be_strict(
    place: Place, fake: FakeOllama, headers: dict[str, str], more: dict[str, str]
) -> None:
    fake.script(says("words"))
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": "Hi"}],
        "response_format": {"type": "json_object"},
    }
    answer = await place.client.post("/v1/chat/completions", json={**body, **more}, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "invalid_json")
    assert "_guard" not in fake.requests[0].json()


async def test_a_guard_that_is_none_is_refused_by_name(place: Place) -> None:
    asked = {"type": "generate", "model": "m", "payload": {"prompt": "Hi"}, "guard": "strict"}
    answer = await place.client.post("/api/tasks", json=asked)
    assert (answer.status_code, answer.json()["field"]) == (422, "guard")


@pytest.mark.slow
async def test_a_real_model_server_that_cuts_a_prompt_is_found_out(real: Place) -> None:
    prompt = " ".join(f"word{number}" for number in range(300))
    long = builders.generate(
        "smollm2", prompt, options={"num_ctx": 256, "num_predict": 2, "seed": 1}, raw=True
    )
    short = builders.generate(
        "smollm2", "Hi", options={"num_ctx": 256, "num_predict": 2, "seed": 1}, raw=True
    )
    found = [(await (await real.queue.submit(spec)).wait()).state.warnings for spec in (long, short)]
    assert found == [("prompt_cut", "length"), ("length",)]
