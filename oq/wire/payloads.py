"""What must be right in a payload before it is queued.

Only what would certainly fail at the model server is refused. Fields that are not named here pass: they reach the
model server as they came, so a newer one's fields work too. The bytes that were sent are kept as they are.
"""

from __future__ import annotations

from typing import cast

import msgspec
from msgspec import Raw

from oq.errors import InvalidTask
from oq.wire.problems import as_problem

_Object = dict[str, Raw]
ABSENT = Raw(b"null")  # null counts as absent; msgspec has no "Raw or nothing"


class _Beside(msgspec.Struct):
    """Fields of the model server's request that belong beside the payload, wherever they were written."""

    model: Raw = ABSENT
    options: Raw = ABSENT
    keep_alive: Raw = ABSENT
    stream: bool | None = None


class _Message(msgspec.Struct):
    role: str
    content: str | None = None
    thinking: str | None = None
    images: list[str] | None = None
    tool_calls: list[_Object] | None = None


class _Chat(_Beside, kw_only=True):
    messages: list[_Message]
    system: str | None = None
    tools: list[_Object] | None = None
    format: str | _Object | None = None
    think: bool | str | None = None


class _Generate(_Beside, kw_only=True):
    prompt: str
    suffix: str | None = None
    images: list[str] | None = None
    system: str | None = None
    template: str | None = None
    raw: bool | None = None
    context: list[int] | None = None
    format: str | _Object | None = None
    think: bool | str | None = None


class _Embed(_Beside, kw_only=True):
    input: str | list[str]
    truncate: bool | None = None
    dimensions: int | None = None


_chat = msgspec.json.Decoder(_Chat).decode
_generate = msgspec.json.Decoder(_Generate).decode
_embed = msgspec.json.Decoder(_Embed).decode
_fields = msgspec.json.Decoder(_Object).decode
_options = msgspec.json.Decoder(_Object | None).decode
_keep_alive = msgspec.json.Decoder(str | int | float | None).decode


def check_payload(type: str, raw: bytes) -> tuple[bytes, bytes | None, bytes | None]:
    """Return the payload, and the options and keep_alive that were written inside it (else None)."""
    try:
        if type == "chat":
            chat = _chat(raw)
            if not chat.messages:
                raise InvalidTask("payload.messages must hold at least one message", "payload.messages")
            for index, message in enumerate(chat.messages):
                if not message.role:
                    raise InvalidTask("a message needs a role", f"payload.messages[{index}].role")
            beside: _Beside = chat
        elif type == "generate":
            generate = _generate(raw)
            if not generate.prompt and not generate.images:
                raise InvalidTask("payload.prompt must not be empty", "payload.prompt")
            beside = generate
        else:
            embed = _embed(raw)
            if not embed.input and isinstance(embed.input, list):
                raise InvalidTask("payload.input must hold at least one text", "payload.input")
            if embed.dimensions is not None and embed.dimensions < 1:
                raise InvalidTask("payload.dimensions must be at least 1", "payload.dimensions")
            beside = embed
    except (ValueError, RecursionError) as exc:
        raise as_problem(exc, "payload", text=raw) from None
    if beside.options is ABSENT and beside.keep_alive is ABSENT and beside.model is ABSENT:
        return raw, None, None
    return _take_out(raw, beside)


def _take_out(raw: bytes, beside: _Beside) -> tuple[bytes, bytes | None, bytes | None]:
    if beside.model is not ABSENT:
        raise InvalidTask("the model belongs beside the payload, not into it", "payload.model")
    fields = _fields(raw)
    options, keep_alive = fields.pop("options", None), fields.pop("keep_alive", None)
    return (
        msgspec.json.encode(fields),
        None if options is None else check_options(bytes(options), "payload.options"),
        None if keep_alive is None else check_keep_alive(bytes(keep_alive), "payload.keep_alive"),
    )


def check_options(raw: bytes, field: str = "options") -> bytes | None:
    """Return the options as they came, None for null and for none."""
    try:
        given = cast("_Object | None", _options(raw))
    except (ValueError, RecursionError) as exc:
        raise as_problem(exc, field, text=raw) from None
    return raw if given else None


def check_keep_alive(raw: bytes, field: str = "keep_alive") -> bytes | None:
    """Return the value as it came, None for null and for an empty text."""
    try:
        given = cast("str | float | None", _keep_alive(raw))
    except (ValueError, RecursionError) as exc:
        raise as_problem(exc, field, text=raw) from None
    return None if given is None or given == "" else raw
