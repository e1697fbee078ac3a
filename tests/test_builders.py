from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from oq import errors
from oq.builders import assistant, chat, embed, generate, system, tool, user
from oq.core.model import NORMAL, SETTING, TaskSpec
from oq.wire import parse_task, spec_json


def payload(spec: TaskSpec) -> Any:
    return json.loads(spec.payload)


def test_a_chat_has_its_messages_and_nothing_that_was_not_said():
    spec = chat("llama3.2", [system("Be brief."), user("Hello"), assistant("Hi"), tool("4", name="sum")])
    assert payload(spec) == {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "Hi"},
            {"role": "tool", "content": "4", "tool_name": "sum"},
        ]
    }
    assert (spec.priority, spec.max_retries, spec.options, spec.keep_alive) == (NORMAL, -1, None, None)


def test_a_text_is_a_message_of_the_user():
    assert payload(chat("m", "Hello"))["messages"] == [{"role": "user", "content": "Hello"}]


def test_every_option_of_a_chat_is_kept():
    tools = [{"type": "function", "function": {"name": "sum"}}]
    spec = chat(
        "m", "x", system="s", tools=tools, format={"type": "object"}, think="high", stream=True, truncate=False,
        options={"num_ctx": 8}, keep_alive="5m", priority="critical", max_retries=0, timeout="1m", tags=["a", "b"],
        idempotency_key="k", extra={"logprobs": True},
    )  # fmt: skip
    assert payload(spec) == {
        "messages": [{"role": "user", "content": "x"}], "system": "s", "tools": tools, "format": {"type": "object"},
        "think": "high", "stream": True, "truncate": False, "logprobs": True,
    }  # fmt: skip
    assert (spec.options, spec.keep_alive, spec.priority, spec.max_retries) == (
        b'{"num_ctx":8}',
        b'"5m"',
        15,
        0,
    )
    assert (spec.timeout, spec.tags, spec.idempotency_key) == (60.0, ("a", "b"), "k")


def test_every_option_of_generate_is_kept():
    spec = generate("m", "p", suffix="s", system="y", template="t", raw=True, format="json", images=[b"\x00"])
    assert payload(spec) == {
        "prompt": "p", "suffix": "s", "system": "y", "template": "t", "raw": True, "format": "json",
        "images": ["AA=="],
    }  # fmt: skip


def test_embed_takes_one_text_or_several():
    assert payload(embed("m", "a")) == {"input": "a"}
    assert payload(embed("m", ["a", "b"], dimensions=8, truncate=True)) == {
        "input": ["a", "b"], "dimensions": 8, "truncate": True,
    }  # fmt: skip


def test_pictures_are_bytes_paths_or_base64(tmp_path: Path):
    file = tmp_path / "a.png"
    file.write_bytes(b"\x89PNG")
    message = user("What is this?", images=[b"\x89PNG", file, "iVBORw=="])
    assert message["images"] == ["iVBORw=="] * 3
    raw = {"role": "user", "content": "x", "images": [file]}
    assert payload(chat("m", [raw]))["messages"][0]["images"] == ["iVBORw=="]


def test_a_text_is_never_read_as_a_files_name(tmp_path: Path):
    file = tmp_path / "secret"
    file.write_bytes(b"x")
    with pytest.raises(errors.InvalidTask, match="Path"):
        user("x", images=[str(file)])


def test_a_start_can_be_a_time_or_a_delay():
    moment = datetime(2030, 1, 31, 8, tzinfo=UTC)
    for run_at in (moment, "2030-01-31T08:00:00Z", moment.timestamp()):
        assert generate("m", "x", run_at=run_at).run_at == moment.timestamp()
    for delay in (60, "1m", timedelta(minutes=1)):
        assert generate("m", "x", delay=delay).delay == 60


def test_what_is_built_is_what_the_server_reads():
    spec = chat(
        "m", "x", options={"seed": 2**60}, keep_alive=-1, priority=20, max_retries=2, timeout=5, tags=["a"]
    )
    assert parse_task(spec_json(spec)) == spec


def test_retries_that_are_left_to_the_setting_take_the_servers():
    assert parse_task(spec_json(generate("m", "x"))).max_retries == SETTING


@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda: chat("", "x"), "model"),
        (lambda: chat("m", []), "payload.messages"),
        (lambda: chat("m", 5), "payload.messages"),
        (lambda: chat("m", ["x"]), "payload.messages[0]"),
        (lambda: chat("m", [{"content": "x"}]), "payload.messages[0].role"),
        (lambda: user(5), "payload.messages"),
        (lambda: user("x", images=b"x"), "payload.messages.images"),
        (lambda: user("x", images=[Path("/no/such/file")]), "payload.messages.images[0]"),
        (lambda: generate("m", ""), "payload.prompt"),
        (lambda: generate("m", 5), "payload.prompt"),
        (lambda: generate("m", "x", raw="yes"), "payload.raw"),
        (lambda: generate("m", "x", extra={"x": object()}), "payload"),
        (lambda: embed("m", []), "payload.input"),
        (lambda: embed("m", 5), "payload.input"),
        (lambda: embed("m", "x", dimensions=0), "payload.dimensions"),
        (lambda: chat("m", "x", options=[1]), "options"),
        (lambda: chat("m", "x", keep_alive=[1]), "keep_alive"),
        (lambda: chat("m", "x", priority="urgent"), "priority"),
        (lambda: chat("m", "x", priority=1001), "priority"),
        (lambda: chat("m", "x", priority=True), "priority"),
        (lambda: chat("m", "x", max_retries=-2), "max_retries"),
        (lambda: chat("m", "x", timeout="soon"), "timeout"),
        (lambda: chat("m", "x", delay=-1), "delay"),
        (lambda: chat("m", "x", run_at="tomorrow"), "run_at"),
        (lambda: chat("m", "x", run_at=1, delay=1), "run_at"),
        (lambda: chat("m", "x", tags=["a,b"]), "tags[0]"),
        (lambda: chat("m", "x", tags=5), "tags"),
        (lambda: chat("m", "x", idempotency_key=""), "idempotency_key"),
        (lambda: chat("m", "x", truncate=1), "payload.truncate"),
    ],
)
def test_wrong_input_is_refused_with_its_field(build, field):
    with pytest.raises(errors.InvalidTask) as caught:
        build()
    assert caught.value.field is not None
    assert caught.value.field.startswith(field.partition("[")[0]), caught.value


def test_a_mistyped_option_is_a_type_error_as_in_any_function():
    with pytest.raises(TypeError, match="temprature"):
        chat("m", "x", temprature=1)
