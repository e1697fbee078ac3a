"""What is found in an answer, and what another attempt may do about it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from oq.core.guard import Judgement, after, judge
from oq.core.model import TaskSpec
from oq.schemas import validates

SCHEMA = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}


def spec(type: Any = "chat", options: Any = None, **payload: Any) -> TaskSpec:
    given = None if options is None else json.dumps(options).encode()
    return TaskSpec(type=type, model="m", payload=json.dumps(payload).encode(), options=given)


def answer(text: str = "Hi", **more: Any) -> bytes:
    return json.dumps({"message": {"content": text}, "done_reason": "stop", **more}).encode()


def found(asked: TaskSpec, result: bytes) -> Judgement:
    return judge(asked, result, validates)


def test_an_answer_that_ended_by_itself_has_no_findings() -> None:
    asked = spec(options={"num_ctx": 64})
    assert found(asked, answer(prompt_eval_count=30, eval_count=5)) == Judgement()


@pytest.mark.parametrize(
    ("options", "count", "cut"),
    [
        ({"num_ctx": 64}, 64, True),  # the older engine keeps what fits
        ({"num_ctx": 64}, 34, True),  # the newer one 4 and half of the other 60
        ({"num_ctx": 64, "num_keep": 24}, 44, True),
        ({"num_ctx": 64, "num_keep": 24}, 34, False),
        ({"num_ctx": 64}, 63, False),
        ({"num_ctx": "64"}, 64, True),  # the model server takes numbers as text, too
        ({"num_ctx": "many"}, 64, False),
        ({}, 4096, False),
        (None, 4096, False),
    ],
)
def test_a_cut_prompt_is_told_by_what_stays_of_it(options: Any, count: int, cut: bool) -> None:
    assert found(spec(options=options), answer(prompt_eval_count=count)) == (
        Judgement(("prompt_cut",), True) if cut else Judgement()
    )


def test_an_answer_cut_by_a_full_context_is_worth_another_attempt_and_one_cut_by_num_predict_is_not() -> None:
    asked = spec(options={"num_ctx": 64})
    full = answer(done_reason="length", prompt_eval_count=40, eval_count=24)
    assert found(asked, full) == Judgement(("length",), True)
    assert found(asked, answer(done_reason="length", prompt_eval_count=40, eval_count=8)) == Judgement(
        ("length",)
    )
    assert found(spec(), full) == Judgement(("length",))
    assert found(spec(options={"num_ctx": 1 << 20}), answer(done_reason="length", prompt_eval_count=1 << 20)) == (
        Judgement(("prompt_cut", "length"))
    )  # fmt: skip


@pytest.mark.parametrize(
    ("format", "text", "findings"),
    [
        ("json", '{"a": 1}', ()),
        ("json", '{"a": 1', ("invalid_json",)),
        ("json", "", ("invalid_json",)),
        ("", "words", ()),
        (None, "words", ()),
        (SCHEMA, '{"n": 1}', ()),
        (SCHEMA, '{"n": "one"}', ("schema_mismatch",)),
        (SCHEMA, "words", ("invalid_json",)),
        ({"type": "nonsense"}, "{}", ()),
        ({"$ref": "http://example.invalid/schema"}, "{}", ()),
        ({"$ref": "#"}, "{}", ()),
        ({"type": "string", "pattern": "^(a+)+$"}, f'"{"a" * 40}b"', ()),
        ({"patternProperties": {"^(a+)+$": True}, "additionalProperties": False}, f'{{"{"a" * 40}b": 1}}', ()),
        ({"properties": {"a": {}}, "additionalProperties": False}, '{"b": 1}', ("schema_mismatch",)),
    ],
)  # fmt: skip
def test_json_is_checked_where_it_was_asked_for(format: Any, text: str, findings: tuple[str, ...]) -> None:
    assert found(spec(format=format), answer(text)).findings == findings


def test_a_model_that_calls_a_tool_gives_no_json() -> None:
    result = b'{"message": {"content": "", "tool_calls": [{"function": {"name": "f"}}]}}'
    assert found(spec(format="json"), result) == Judgement()


def test_an_answer_that_cannot_be_read_has_no_findings() -> None:
    assert found(spec(format="json"), b"[") == Judgement()


@pytest.mark.parametrize(
    ("options", "causes", "then"),
    [
        ({"num_ctx": 64, "seed": 1}, ["prompt_cut"], {"num_ctx": 128, "seed": 1}),
        ({"num_ctx": 64}, ["invalid_json"], {"num_ctx": 64}),
        ({"seed": 1}, ["length"], {"seed": 1}),
        ({"num_ctx": 1_000_000}, ["length"], {"num_ctx": 1 << 20}),
    ],
)
def test_what_was_cut_is_asked_again_with_twice_the_context(
    options: dict[str, int], causes: list[str], then: dict[str, int]
) -> None:
    assert json.loads(after(spec(options=options), causes).options or b"") == then
