"""Which embed tasks share a call, and what becomes of its answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from oq.core.embedding import SMALL_BYTES, Mismatch, group_of, join
from oq.core.model import TaskSpec


def spec(model: str = "m", type: Any = "embed", options: bytes | None = None, **payload: Any) -> TaskSpec:
    return TaskSpec(type=type, model=model, payload=json.dumps(payload).encode(), options=options)


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
    joint = join([spec(input="a"), spec(input="bbb bbb bbb bbb"), spec(input="a")])
    assert json.loads(joint.spec.payload) == {"input": ["a", "bbb bbb bbb bbb"]}
    answer = b'{"model":"m","embeddings":[[1.50],[2]],"total_duration":9,"prompt_eval_count":10}'
    found = joint.split(answer)
    assert found[0].startswith(b'{"model":"m","embeddings":[[1.50]],"total_duration":9')
    assert [json.loads(one)["embeddings"] for one in found] == [[[1.5]], [[2]], [[1.5]]]
    shares = [json.loads(one)["prompt_eval_count"] for one in found]
    assert (sum(shares), max(shares)) == (10, shares[1])


@pytest.mark.parametrize("answer", [b'{"embeddings":[[1]]}', b'{"embeddings":1}', b"{}", b"["])
def test_an_answer_with_another_number_of_vectors_is_refused(answer: bytes) -> None:
    with pytest.raises(Mismatch):
        join([spec(input="a"), spec(input="b")]).split(answer)
