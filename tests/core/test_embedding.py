"""Which embed tasks share a call, and what becomes of its answer."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest

from oq.core.embedding import SMALL_BYTES, Mismatch, answer_key, check_count, join, likeness
from oq.core.model import TaskSpec


def spec(model: str = "m", type: Any = "embed", options: bytes | None = None, **payload: Any) -> TaskSpec:
    return TaskSpec(type=type, model=model, payload=json.dumps(payload).encode(), options=options)


def group_of(spec: TaskSpec) -> bytes | None:
    return likeness(spec).group


def test_tasks_that_differ_in_their_text_alone_share_a_call() -> None:
    assert group_of(spec(input="a")) == group_of(spec(input="b")) is not None


@pytest.mark.parametrize(
    "other",
    [
        spec(model="n", input="a"),
        spec(input="a", dimensions=8),
        spec(input="a", truncate=False),
        spec(input="a", options=b'{"num_ctx":8}'),
        TaskSpec(type="embed", model="m", payload=b'{"input":"a"}', keep_alive=b"0"),
    ],
)
def test_tasks_that_differ_in_more_do_not(other: TaskSpec) -> None:
    assert group_of(other) not in (None, group_of(spec(input="a")))


@pytest.mark.parametrize(
    "alone",
    [
        spec(type="generate", prompt="a", input="a"),
        spec(input=["a"]),
        spec(input=""),
        spec(prompt="a"),
        spec(input="a", Input="b"),
        spec(input="x" * SMALL_BYTES),
        TaskSpec(type="embed", model="m", payload=b"{"),
    ],
)
def test_what_is_not_one_small_text_goes_alone(alone: TaskSpec) -> None:
    assert group_of(alone) is None


def test_each_task_gets_its_own_vector_and_its_share_of_the_tokens() -> None:
    joint = join([spec(input="a"), spec(input="bbb bbb bbb bbb"), spec(input="c")])
    assert json.loads(joint.spec.payload) == {"input": ["a", "bbb bbb bbb bbb", "c"]}
    answer = b'{"model":"m","embeddings":[[1.50],[2],[3]],"total_duration":9,"prompt_eval_count":10}'
    found = joint.split(answer)
    assert found[0].startswith(b'{"model":"m","embeddings":[[1.50]],"total_duration":9')
    assert [json.loads(one)["embeddings"] for one in found] == [[[1.5]], [[2]], [[3]]]
    shares = [json.loads(one)["prompt_eval_count"] for one in found]
    assert (sum(shares), max(shares)) == (10, shares[1])


@pytest.mark.parametrize("answer", [b'{"embeddings":[[1]]}', b'{"embeddings":1}', b"{}", b"["])
def test_an_answer_with_another_number_of_vectors_is_refused(answer: bytes) -> None:
    with pytest.raises(Mismatch):
        join([spec(input="a"), spec(input="b")]).split(answer)


@pytest.mark.parametrize(
    ("given", "answer", "good"),
    [
        ("a", b'{"embeddings":[[1]]}', True),
        ("a", b'{"embeddings":[]}', False),
        ("a", b'{"embeddings":[[1],[2]]}', False),
        ("a", b'{"embeddings":"x"}', False),
        (["a", "b"], b'{"embeddings":[[1],[2]]}', True),
        (["a", "b"], b'{"embeddings":[[1]]}', False),
        ("", b'{"embeddings":[]}', True),
        ([], b'{"embeddings":[]}', True),
        ([1, 2], b'{"embeddings":[[1]]}', True),  # what these are is for the model server to say
        ("a", b'{"embedding":[1]}', True),
    ],
)
def test_a_task_alone_gets_one_vector_for_each_of_its_texts(given: Any, answer: bytes, good: bool) -> None:
    with contextlib.nullcontext() if good else pytest.raises(Mismatch):
        check_count(spec(input=given), answer)


def text_of(task: TaskSpec) -> bytes | None:
    return likeness(task).text


def test_tasks_that_ask_for_the_same_are_alike_in_whatever_order_their_fields_come() -> None:
    assert text_of(spec(input="a", dimensions=8)) == text_of(spec(dimensions=8, input="a")) is not None
    assert text_of(spec(input=["a", "b"])) == text_of(spec(input=["a", "b"])) is not None


@pytest.mark.parametrize(
    "other",
    [
        spec(input="b"),
        spec("n", input="a"),
        spec(input=["a"]),
        spec(input="a", truncate=False),
        spec(options=b'{"num_ctx":8}', input="a"),
        TaskSpec(type="embed", model="m", payload=b'{"input":"a"}', timeout=9.0),
    ],
)
def test_tasks_that_ask_for_something_else_or_may_take_another_time_are_not_alike(other: TaskSpec) -> None:
    assert text_of(other) not in (None, text_of(spec(input="a")))


def test_other_kinds_of_tasks_are_never_alike() -> None:
    assert text_of(spec(type="generate", input="a")) is None


def test_an_answer_belongs_to_the_model_as_it_is_to_its_options_and_to_the_text() -> None:
    mine = answer_key(spec(input="a"), "sha")
    others = [
        answer_key(spec(input="a"), "another"),
        answer_key(spec(input="b"), "sha"),
        answer_key(spec(input=["a"]), "sha"),
        answer_key(spec(options=b'{"num_ctx":8}', input="a"), "sha"),
        answer_key(spec(input="a", dimensions=8), "sha"),
        answer_key(spec("alias", input="a"), "sha"),
    ]
    assert len({mine, *others}) == 1 + len(others)


def test_how_long_the_model_stays_loaded_changes_no_answer() -> None:
    kept = TaskSpec(type="embed", model="m", payload=b'{"input":"a"}', keep_alive=b"0")
    assert answer_key(kept, "sha") == answer_key(spec(input="a"), "sha")
