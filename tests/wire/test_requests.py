"""Tasks as clients send them."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oq.core.model import SETTING, TaskSpec
from oq.errors import InvalidTask, TooLarge
from oq.wire import (
    LineParser,
    NotJson,
    fingerprint,
    parse_lines,
    parse_priority_body,
    parse_task,
    parse_tasks,
    spec_json,
)

LIMITS = SimpleNamespace(server=SimpleNamespace(max_batch=5))
CHAT: dict[str, Any] = {
    "type": "chat",
    "model": "m",
    "payload": {"messages": [{"role": "user", "content": "Hi"}]},
}


def read(value: Any, **more: Any) -> TaskSpec:
    return parse_task(value if isinstance(value, bytes) else json.dumps(value).encode(), **more)


def refusal(value: Any) -> InvalidTask:
    with pytest.raises(InvalidTask) as caught:
        read(value)
    return caught.value


def test_a_missing_priority_is_normal_and_missing_retries_are_left_to_the_setting() -> None:
    spec = read(CHAT)
    assert (spec.priority, spec.max_retries, spec.timeout, spec.run_at) == (5, SETTING, None, None)


def test_the_payload_stays_the_bytes_that_were_sent() -> None:
    payload = b'{ "messages":[{"role":"user","content":"\\u00e9"}], "new_field": 123456789012345678901234567890, "x":1e400}'
    spec = read(b'{"type":"chat","model":"m","options":{"seed" : 1.10},"payload":' + payload + b"}")
    assert spec.payload == payload
    assert spec.options == b'{"seed" : 1.10}'


def test_options_and_keep_alive_inside_the_payload_are_taken_out_of_it() -> None:
    spec = read(
        {
            "type": "generate",
            "model": "m",
            "payload": {"prompt": "a", "options": {"seed": 1}, "keep_alive": -1},
        }
    )
    assert (spec.payload, spec.options, spec.keep_alive) == (b'{"prompt":"a"}', b'{"seed": 1}', b"-1")


def test_the_original_clients_task_with_its_zero_values_is_accepted() -> None:
    given_up = {
        "id": "", "type": "generate", "priority": 10, "status": "", "model": "m",
        "payload": {"prompt": "Why?", "stream": True}, "options": None, "created_at": "0001-01-01T00:00:00Z",
        "retry_count": 0, "max_retries": 0,
    }  # fmt: skip
    spec = read(given_up)
    assert (spec.priority, spec.max_retries, spec.options) == (10, 0, None)


@pytest.mark.parametrize("field", ["id", "status", "result", "retry_count", "created_at", "error"])
def test_a_field_that_only_the_server_sets_is_refused(field: str) -> None:
    value = {"retry_count": 1, "created_at": "2026-01-01T00:00:00Z"}.get(field, "pending")
    assert refusal({**CHAT, field: value}).field == field


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"priorty": 1}, "priorty", "did you mean priority?"),
        ({"type": "chatt"}, "type", "one of chat, generate, embed"),
        ({"model": ""}, "model", "1 to 500"),
        ({"model": 5}, "model", "must be text, not a whole number"),
        ({"payload": {}}, "payload.messages", "is missing"),
        ({"payload": []}, "payload", "must be an object, not a list"),
        ({"payload": {"messages": []}}, "payload.messages", "at least one"),
        ({"payload": {"messages": [{"role": "user", "content": 5}]}}, "payload.messages[0].content", "must be text"),
        ({"payload": {"messages": [{"role": ""}]}}, "payload.messages[0].role", "role"),
        ({"payload": {"messages": [{"role": "user"}], "model": "x"}}, "payload.model", "beside"),
        ({"priority": 1001}, "priority", "0 to 1000"),
        ({"priority": "urgent"}, "priority", "low, normal, high, critical"),
        ({"priority": True}, "priority", "not true or false"),
        ({"priority": 1.5}, "priority", "not a number"),
        ({"max_retries": -1}, "max_retries", "0 (none) or more"),
        ({"options": []}, "options", "must be an object"),
        ({"timeout": "soon"}, "timeout", "duration"),
        ({"timeout": -1}, "timeout", "duration"),
        ({"delay": "1e9d"}, "delay", "duration"),
        ({"run_at": "tomorrow"}, "run_at", "2030-01-31T08:00:00Z"),
        ({"run_at": "2030-01-01T00:00:00"}, "run_at", "zone"),
        ({"run_at": "2030-01-01T00:00:00Z", "delay": "1s"}, "delay", "either"),
        ({"tags": ["a", ""]}, "tags[1]", "1 to 200"),
        ({"tags": "a"}, "tags", "must be a list"),
        ({"keep_alive": []}, "keep_alive", "must be"),
        ({"idempotency_key": "a\n"}, "idempotency_key", "printable"),
    ],
)  # fmt: skip
def test_a_wrong_field_is_named_with_what_it_should_be(
    change: dict[str, Any], field: str, words: str
) -> None:
    problem = refusal({**CHAT, **change})
    assert problem.field == field
    assert words in problem.message
    assert not isinstance(problem, NotJson)


@pytest.mark.parametrize("body", [b"", b"{", b"nope", b'{"type":}', b'"\xff"', b"\x00"])
def test_what_is_not_json_is_told_apart_from_wrong_content(body: bytes) -> None:
    assert isinstance(refusal(body), NotJson)


def test_broken_utf_8_inside_the_payload_is_found() -> None:
    body = b'{"type":"chat","model":"m","payload":{"messages":[{"role":"user"}],"x":"\xff"}}'
    assert isinstance(refusal(body), NotJson)


def test_a_deeply_nested_body_is_refused_and_not_a_crash() -> None:
    body = b'{"type":"chat","model":"m","payload":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    assert "nested too deeply" in refusal(body).message


def test_a_delay_stays_one_until_the_queue_takes_the_task() -> None:
    spec = read({**CHAT, "delay": "1m30s"})
    assert (spec.delay, spec.run_at) == (90.0, None)


@pytest.mark.parametrize("half", ["\\ud83d", "\\ud83d end", "\\ude00", "\\ude00\\ud83d"])
@pytest.mark.parametrize("place", ["model", "prompt"])
def test_half_a_character_is_told_for_what_it_is(half: str, place: str) -> None:
    texts = {"model": "m", "prompt": "x"} | {place: half}
    body = '{{"type":"generate","model":"{model}","payload":{{"prompt":"{prompt}"}}}}'.format(**texts)
    assert "half a character" in refusal(body.encode()).message


def test_a_whole_pair_of_escapes_is_a_character() -> None:
    body = rb'{"type":"generate","model":"m","payload":{"prompt":"\ud83d\ude00"}}'
    assert read(body).payload == rb'{"prompt":"\ud83d\ude00"}'


def test_a_task_goes_through_its_json_and_back() -> None:
    spec = TaskSpec(
        type="embed", model="m", payload=b'{"input":["a"]}', options=b'{"num_ctx":1}', keep_alive=b'"5m"', priority=7,
        max_retries=0, timeout=2.5, run_at=1_900_000_000.5, tags=("x", "y"), idempotency_key="k",
    )  # fmt: skip
    found = parse_task(spec_json(spec))
    assert found == spec


def test_the_fingerprint_is_of_what_is_asked_and_not_of_its_spelling() -> None:
    one = read(b'{"type":"generate","model":"m","payload":{"prompt":"a","suffix":"b"}}', idempotency_key="k")
    two = read(
        b'{"model":"m", "payload":{"suffix":"b","prompt":"\\u0061"},"type":"generate"}', idempotency_key="k"
    )
    other = read({"type": "generate", "model": "m", "payload": {"prompt": "b"}}, idempotency_key="k")
    assert fingerprint(one) == fingerprint(two) != fingerprint(other)


def test_a_wrong_item_of_a_batch_does_not_spoil_the_others() -> None:
    good, bad, again = parse_tasks(json.dumps([CHAT, {"type": "x"}, CHAT]).encode(), LIMITS)
    assert isinstance(good, TaskSpec)
    assert isinstance(again, TaskSpec)
    assert isinstance(bad, InvalidTask)
    assert bad.field == "model"


def test_a_batch_past_the_limit_is_too_large() -> None:
    with pytest.raises(TooLarge):
        parse_tasks(json.dumps([CHAT] * 6).encode(), LIMITS)
    with pytest.raises(TooLarge):
        parse_lines(b"\n".join([json.dumps(CHAT).encode()] * 6), LIMITS)


def test_an_object_where_an_array_should_be_is_wrong_content() -> None:
    with pytest.raises(InvalidTask, match="array"):
        parse_tasks(b"{}", LIMITS)


@given(st.lists(st.integers(1, 40), max_size=12))
def test_lines_are_the_same_whatever_pieces_they_arrive_in(cuts: list[int]) -> None:
    text = b"\n".join([json.dumps(CHAT).encode(), b"", b"{", json.dumps({**CHAT, "priority": 1}).encode()])
    parser, found = LineParser(LIMITS), []
    for cut in cuts:
        piece, text = text[:cut], text[cut:]
        found += parser.feed(piece)
    found += parser.feed(text) + parser.close()
    assert [type(item) for item in found] == [TaskSpec, NotJson, TaskSpec]


def test_each_item_of_a_keyed_batch_has_its_own_key() -> None:
    items = parse_tasks(json.dumps([CHAT, CHAT]).encode(), LIMITS, idempotency_key="k")
    assert [item.idempotency_key for item in items if isinstance(item, TaskSpec)] == ["k#0", "k#1"]


@pytest.mark.parametrize(("body", "level"), [(b'{"priority":"high"}', 10), (b'{"priority":0}', 0)])
def test_a_priority_is_a_name_or_a_number(body: bytes, level: int) -> None:
    assert parse_priority_body(body) == level


JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
FIELDS = [
    *CHAT,
    "priority",
    "options",
    "max_retries",
    "keep_alive",
    "tags",
    "timeout",
    "run_at",
    "delay",
    "id",
    "result",
]


def outcome(body: bytes) -> TaskSpec | InvalidTask:
    """Return the task or the refusal; anything else that is raised is a bug."""
    try:
        return parse_task(body)
    except InvalidTask as problem:
        return problem


@given(st.binary(max_size=60) | JSONISH.map(lambda value: json.dumps(value).encode()))
def test_any_body_is_a_task_or_a_refusal(body: bytes) -> None:
    found = outcome(body)
    assert isinstance(found, TaskSpec) or found.message


@given(st.dictionaries(st.sampled_from(FIELDS), JSONISH, max_size=4))
def test_any_value_in_any_field_is_a_task_or_a_refusal(change: dict[str, Any]) -> None:
    found = outcome(json.dumps({**CHAT, **change}).encode())
    assert found.message if isinstance(found, InvalidTask) else 0 <= found.priority <= 1000
