"""What a request may hold, and the words in which Ollama refuses the rest."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection
from typing import Any

from oq.demo.durations import parse_keep_alive
from oq.demo.models import Json
from oq.demo.refusals import ApiError

TOP_LOGPROBS_MAX = 20
THINK_LEVELS = ("high", "medium", "low", "max")
_NAME = re.compile(r"[\w.-]+(/[\w.-]+)*(:[\w.-]+)?")

# Go's types, by which Ollama decodes what is not read further down (api/types.go).
_TEXT, _SWITCH, _WHOLE, _MAP = "string", "bool", "int", "map[string]interface {}"
_COMMON = {"model": _TEXT, "stream": _SWITCH, "options": _MAP, "truncate": _SWITCH, "shift": _SWITCH,
           "logprobs": _SWITCH, "top_logprobs": _WHOLE}  # fmt: skip
_FIELDS = {
    "/api/chat": ("ChatRequest", _COMMON | {"messages": "[]api.Message", "tools": "api.Tools"}),
    "/api/generate": (
        "GenerateRequest",
        _COMMON
        | {"prompt": _TEXT, "suffix": _TEXT, "system": _TEXT, "template": _TEXT, "raw": _SWITCH}
        | {"context": "[]int", "images": "[]api.ImageData"},
    ),
    "/api/embed": (
        "EmbedRequest",
        {"model": _TEXT, "options": _MAP, "truncate": _SWITCH, "dimensions": _WHOLE},
    ),
    "/api/embeddings": ("EmbeddingRequest", {"model": _TEXT, "prompt": _TEXT, "options": _MAP}),
    "/api/show": ("ShowRequest", {"model": _TEXT}),
}
_MESSAGE = {"role": _TEXT, "content": _TEXT, "images": "[]api.ImageData"}

_FLOATS = frozenset(
    ("temperature", "top_p", "min_p", "typical_p", "repeat_penalty", "presence_penalty", "frequency_penalty")
)
_INTS = frozenset(
    ("num_ctx", "num_batch", "num_gpu", "main_gpu", "num_thread", "num_keep", "seed", "num_predict", "top_k",
     "repeat_last_n")
)  # fmt: skip
_SWITCHES = frozenset(("use_mmap",))


def parse_request(path: str, body: bytes) -> Json:
    """Return the request of the endpoint *path* as a dict whose known fields have the right types, or are null."""
    if not body:
        raise ApiError(400, "missing request body")
    try:
        request = json.loads(body, parse_constant=_refuse_constant, parse_float=_finite)
    except (ValueError, RecursionError) as exc:
        raise ApiError(400, f"invalid JSON: {exc}") from None
    if not isinstance(request, dict):
        raise ApiError(400, "json: cannot unmarshal request into Go value")
    name, fields = _FIELDS[path]
    _check_types(name, fields, request)
    for message in request.get("messages") or []:
        if not isinstance(message, dict):
            raise _mismatch(message, "ChatRequest.messages", "[]api.Message")
        _check_types("Alias", _MESSAGE, message)
    if not 0 <= (request.get("top_logprobs") or 0) <= TOP_LOGPROBS_MAX:
        raise ApiError(400, f"top_logprobs must be between 0 and {TOP_LOGPROBS_MAX}")
    return request


def model_name(
    request: Json, known: Collection[str], missing: ApiError, *, pull: bool = False
) -> tuple[str, str]:
    """Return the model's name as it was asked for, and as it is known here; raises *missing* when there is none.

    *pull*: an unknown one is refused in the words of /api/embed.
    """
    name: str = request.get("model") or ""
    if not name:
        raise missing
    if not _NAME.fullmatch(name):
        raise ApiError(400, "invalid model name")
    base = name.removesuffix(":latest")
    if base not in known:
        text = f'model "{name}" not found, try pulling it first' if pull else f"model '{name}' not found"
        raise ApiError(404, text)
    return name, base


def options_of(request: Json) -> Json:
    """Return the options that are set. Ollama answers 500 to those of a wrong type."""
    options = {name: value for name, value in (request.get("options") or {}).items() if value is not None}
    for name, value in options.items():
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if name in _FLOATS and not is_number:
            raise _wrong_option(name, "float32")
        if name in _INTS:
            if not is_number:
                raise _wrong_option(name, "integer")
            options[name] = int(value)
        if name in _SWITCHES and not isinstance(value, bool):
            raise _wrong_option(name, "boolean")
        if name == "stop" and not (isinstance(value, list) and all(isinstance(text, str) for text in value)):
            raise _wrong_option(name, "array")
    return options


def keep_alive_of(request: Json) -> float | None:
    """Return seconds, inf for ever; None when the request does not say."""
    value = request.get("keep_alive")
    return None if value is None else parse_keep_alive(value)


def refuse_thinking(request: Json) -> None:
    """Refuse a request that wants the model to think: none of ours can."""
    think = request.get("think")
    if think is not None and not isinstance(think, bool) and think not in THINK_LEVELS:
        levels = ", ".join(f'"{level}"' for level in THINK_LEVELS)
        raise ApiError(400, f"invalid think value: {json.dumps(think)} (must be {levels}, true, or false)")
    if think:
        raise ApiError(400, f'"{request.get("model")}" does not support thinking')


def schema_of(request: Json) -> Json | None:
    """Return the JSON schema that the answer must keep to; None: any text."""
    wanted = request.get("format")
    if wanted in (None, ""):
        return None
    if wanted == "json":
        return {"type": "object"}
    if isinstance(wanted, dict):
        return wanted
    shown = json.dumps(json.dumps(wanted))
    raise ApiError(500, f'invalid format: {shown}; expected "json" or a valid JSON Schema object')


def texts_of(request: Json) -> list[str]:
    """Return the texts to embed, from one text or a list."""
    value = request.get("input")
    if value is None or value == "":
        return []
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ApiError(400, "invalid input type")
    return texts


def _refuse_constant(text: str) -> None:
    raise ValueError(f"{text} is not JSON")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text} is too large")
    return number


def _check_types(struct: str, fields: dict[str, str], request: Json) -> None:
    for field, go_type in fields.items():
        value = request.get(field)
        if value is not None and _json_type(value) != _expected(go_type, value):
            raise _mismatch(value, f"{struct}.{field}", go_type)


def _expected(go_type: str, value: Any) -> str:
    if go_type == _WHOLE:
        return "number" if not isinstance(value, float) else "whole number"
    if go_type in (_TEXT, _SWITCH):
        return go_type
    return "object" if go_type == _MAP else "array"


def _json_type(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    kinds: dict[type, str] = {str: "string", int: "number", float: "number", list: "array", dict: "object"}
    return kinds[type(value)]


def _mismatch(value: Any, field: str, go_type: str) -> ApiError:
    kind = "null" if value is None else _json_type(value)
    return ApiError(400, f"json: cannot unmarshal {kind} into Go struct field {field} of type {go_type}")


def _wrong_option(name: str, go_type: str) -> ApiError:
    return ApiError(500, f'option "{name}" must be of type {go_type}')
