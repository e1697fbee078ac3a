"""Build tasks in Python: `chat`, `generate` and `embed`, and the messages of a chat.

    oq.chat("llama3.2", [oq.system("Be brief."), oq.user("Hello")], priority=oq.HIGH)

The checks are the server's own (`oq.wire`), made here, so that a mistake shows where it was made and
not in a queue on another machine. What the model server understands and oq does not goes through *extra*.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypedDict, Unpack

import msgspec

from oq.core.model import NORMAL, SETTING, TaskSpec, TaskType
from oq.errors import InvalidTask
from oq.wire.payloads import check_keep_alive, check_options, check_payload
from oq.wire.requests import KEY_MAX, MODEL_MAX, RETRIES_MAX, TAG_MAX, TAGS_MAX
from oq.wire.scalars import check_text, parse_duration, parse_guard, parse_priority, parse_time

__all__ = ["assistant", "chat", "embed", "generate", "system", "tool", "user"]

Image = bytes | bytearray | memoryview | os.PathLike[str] | str
"""A picture: its bytes, its path, or text that is base64 already."""

Message = Mapping[str, Any]


class Common(TypedDict, total=False):
    """What all three kinds of task take.

    Attributes:
        priority: ``"low"``, ``"normal"``, ``"high"``, ``"critical"`` or an integer from 0 to 1000.
        max_retries: attempts beyond the first; 0 means none, absent takes the queue's setting.
        timeout: seconds (or "5m", or a timedelta) for one whole attempt; 0 means no limit.
        delay: start at the earliest after this time.
        run_at: start at the earliest at this time: a datetime, Unix seconds or RFC 3339 text.
        tags: words to find the task by.
        options: the model's options, such as ``{"temperature": 0}``.
        keep_alive: how long the model stays loaded afterwards, as the model server spells it.
        truncate: whether the model server may cut an input that is too long.
        idempotency_key: the same key with the same task, submitted again, is the same task.
        guard: what to do about an answer that is cut or not the JSON asked for: ``"report"`` in the task's `warnings`,
            ``"retry"`` once, with a larger context if that was it, and then fail, or ``"fail"``.
        extra: further fields of the model server's request, passed on unchanged.
    """

    priority: int | str
    max_retries: int | None
    timeout: float | str | timedelta | None
    delay: float | str | timedelta | None
    run_at: float | str | datetime | None
    tags: Iterable[str]
    options: Mapping[str, Any] | None
    keep_alive: float | str | None
    truncate: bool | None
    idempotency_key: str | None
    guard: str
    extra: Mapping[str, Any] | None


def chat(
    model: str,
    messages: Sequence[Message] | str,
    *,
    system: str | None = None,
    tools: Sequence[Mapping[str, Any]] | None = None,
    format: str | Mapping[str, Any] | None = None,
    think: bool | str | None = None,
    stream: bool | None = None,
    **common: Unpack[Common],
) -> TaskSpec:
    """Return a chat task. A plain text is one message of the user; for the other options see `Common`."""
    if isinstance(messages, str):
        messages = [user(messages)]
    if not isinstance(messages, list | tuple):
        raise InvalidTask("messages must be a list, such as [oq.user('Hello')]", "payload.messages")
    payload = {
        "messages": [_message(message, index) for index, message in enumerate(messages)],
        "system": system,
        "tools": tools,
        "format": format,
        "think": think,
        "stream": stream,
    }
    return _task("chat", model, payload, common)


def generate(
    model: str,
    prompt: str,
    *,
    suffix: str | None = None,
    images: Iterable[Image] | None = None,
    system: str | None = None,
    template: str | None = None,
    raw: bool | None = None,
    format: str | Mapping[str, Any] | None = None,
    think: bool | str | None = None,
    stream: bool | None = None,
    **common: Unpack[Common],
) -> TaskSpec:
    """Return a task that continues *prompt*; for the other options see `Common`."""
    payload = {
        "prompt": prompt,
        "suffix": suffix,
        "images": _images(images, "payload.images"),
        "system": system,
        "template": template,
        "raw": raw,
        "format": format,
        "think": think,
        "stream": stream,
    }
    return _task("generate", model, payload, common)


def embed(
    model: str, input: str | Sequence[str], *, dimensions: int | None = None, **common: Unpack[Common]
) -> TaskSpec:
    """Return a task that turns one text or several into vectors; for the other options see `Common`."""
    return _task("embed", model, {"input": input, "dimensions": dimensions}, common)


# --- messages


def user(content: str, *, images: Iterable[Image] | None = None) -> dict[str, Any]:
    """Return a message of the user, with pictures if the model can see."""
    return _said("user", content, images=_images(images, "payload.messages.images"))


def system(content: str) -> dict[str, Any]:
    """Return the instruction that the conversation stands under."""
    return _said("system", content)


def assistant(
    content: str = "", *, tool_calls: Sequence[Mapping[str, Any]] | None = None, thinking: str | None = None
) -> dict[str, Any]:
    """Return what the model said before."""
    return _said("assistant", content, tool_calls=tool_calls, thinking=thinking)


def tool(content: str, *, name: str | None = None, call_id: str | None = None) -> dict[str, Any]:
    """Return what a tool answered to the model's call."""
    return _said("tool", content, tool_name=name, tool_call_id=call_id)


def _said(role: str, content: str, **more: Any) -> dict[str, Any]:
    if not isinstance(content, str):
        raise InvalidTask(
            f"the content of a message must be text, not {type(content).__name__}", "payload.messages"
        )
    return {"role": role, "content": content} | _given(more)


def _message(message: Message, index: int) -> Message:
    where = f"payload.messages[{index}]"
    if not isinstance(message, Mapping):
        raise InvalidTask("a message is an object with role and content: use oq.user('…')", where)
    if message.get("images") is None:
        return message
    return dict(message) | {"images": _images(message["images"], f"{where}.images")}


# --- checks


def _task(type: TaskType, model: str, payload: dict[str, Any], common: Common) -> TaskSpec:
    unknown = set(common) - set(Common.__annotations__)
    if unknown:
        raise TypeError(f"{type}() got an unexpected keyword argument {min(unknown)!r}")
    if not isinstance(model, str) or not model.strip() or len(model) > MODEL_MAX or "\0" in model:
        raise InvalidTask(f"model must be a name of 1 to {MODEL_MAX} characters, such as 'llama3.2'", "model")
    check_text(model, "model")
    payload["truncate"] = common.get("truncate")
    if payload["truncate"] is not None and not isinstance(payload["truncate"], bool):
        raise InvalidTask("truncate must be true or false", "payload.truncate")
    body, options, keep_alive = check_payload(
        type, _json(_given(payload | dict(common.get("extra") or {})), "payload")
    )
    if common.get("options") is not None:
        options = check_options(_json(common["options"], "options"))
    if common.get("keep_alive") is not None:
        keep_alive = check_keep_alive(_json(common["keep_alive"], "keep_alive"))
    timeout, delay = common.get("timeout"), common.get("delay")
    if delay is not None and common.get("run_at") is not None:
        raise InvalidTask("give run_at or delay, not both", "run_at")
    return TaskSpec(
        type=type,
        model=model,
        payload=body,
        options=options,
        keep_alive=keep_alive,
        priority=parse_priority(common.get("priority", NORMAL)),
        max_retries=_retries(common.get("max_retries")),
        timeout=None if timeout is None else _seconds(timeout, "timeout"),
        run_at=_run_at(common.get("run_at")),
        delay=None if delay is None else _seconds(delay, "delay"),
        tags=_tags(common.get("tags") or ()),
        idempotency_key=_key(common.get("idempotency_key")),
        guard=parse_guard(common.get("guard", "report")),
    )


def _given(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _json(value: Any, field: str) -> bytes:
    try:
        return msgspec.json.encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidTask(f"{field} cannot be written as JSON: {error}", field) from error


def _images(images: Iterable[Image] | None, field: str) -> list[str] | None:
    if images is None:
        return None
    if isinstance(images, str | bytes | bytearray | os.PathLike) or not isinstance(images, Iterable):
        raise InvalidTask("images must be a list of pictures", field)
    return [_image(image, f"{field}[{index}]") for index, image in enumerate(images)]


def _image(image: Image, field: str) -> str:
    if isinstance(image, os.PathLike):
        try:
            image = Path(image).read_bytes()
        except OSError as error:
            raise InvalidTask(
                f"the picture {str(image)!r} cannot be read: {error.strerror}", field
            ) from error
    if isinstance(image, bytes | bytearray | memoryview):
        return base64.b64encode(image).decode()
    # Text is never taken for a file's name: it may come from a stranger.
    try:
        base64.b64decode(image, validate=True)
    except (binascii.Error, ValueError, TypeError) as error:
        raise InvalidTask("a picture is bytes, a pathlib.Path, or base64 text", field) from error
    return image


def _retries(value: Any) -> int:
    if value is None or value == SETTING:
        return SETTING
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= RETRIES_MAX:
        raise InvalidTask("max_retries must be a whole number, 0 for none", "max_retries")
    return value


def _seconds(value: float | str | timedelta, field: str) -> float:
    return parse_duration(value.total_seconds() if isinstance(value, timedelta) else value, field)


def _run_at(run_at: float | str | datetime | None) -> float | None:
    if run_at is None:
        return None
    return parse_time(run_at.timestamp() if isinstance(run_at, datetime) else run_at, "run_at")


def _key(key: str | None) -> str | None:
    if key is not None and (
        not isinstance(key, str) or not key.strip() or not key.isprintable() or len(key) > KEY_MAX
    ):
        raise InvalidTask(f"idempotency_key must have 1 to {KEY_MAX} printable characters", "idempotency_key")
    return key


def _tags(tags: Iterable[str]) -> tuple[str, ...]:
    if not isinstance(tags, Iterable):
        raise InvalidTask("tags must be a list of words", "tags")
    found = (tags,) if isinstance(tags, str) else tuple(tags)
    if len(found) > TAGS_MAX:
        raise InvalidTask(f"a task may have at most {TAGS_MAX} tags", "tags")
    for index, tag in enumerate(found):
        if not isinstance(tag, str) or not tag.strip() or len(tag) > TAG_MAX or "," in tag:
            raise InvalidTask(
                f"a tag has 1 to {TAG_MAX} characters and no comma, not {tag!r}", f"tags[{index}]"
            )
        check_text(tag, f"tags[{index}]")
    return tuple(dict.fromkeys(found))
