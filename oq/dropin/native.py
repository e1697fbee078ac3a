"""Ollama's own requests as tasks. The payload's bytes stay what the client sent.

Whatever is wrong in a request is left to the model server, whose words the client knows: nothing is refused here.
What names no model, or is no JSON object, cannot be queued and is passed on as it is.
"""

from __future__ import annotations

from typing import Any

import msgspec

from oq.core.model import TaskType
from oq.dropin.terms import OURS
from oq.errors import InvalidTask
from oq.wire.requests import MODEL_MAX

TYPES: dict[str, TaskType] = {
    "/api/chat": "chat", "/api/generate": "generate", "/api/embed": "embed", "/api/embeddings": "embed",
}  # fmt: skip
_NULL = b"null"

_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode = msgspec.json.decode
_encode = msgspec.json.encode


class NativeCall(msgspec.Struct, frozen=True):
    """A request to the model server. *options* and *keep_alive* are JSON; *ours* are the fields of `OURS`."""

    type: TaskType
    model: str
    payload: bytes
    options: bytes | None
    keep_alive: bytes | None
    stream: bool
    ours: dict[str, Any]


def read_call(path: str, body: bytes) -> NativeCall | None:
    """Return the request in *body*; None if only the model server can say what is wrong with it.

    Go's JSON, hence Ollama, takes field names in any case and replaces what is not UTF-8; so does this.
    """
    type_ = TYPES[path]
    try:
        fields = _decode_object(body if body.isascii() else body.decode("utf-8", "replace").encode())
        model = _decode(_taken(fields, "model") or _NULL)
    except (msgspec.MsgspecError, RecursionError):
        return None
    if not isinstance(model, str) or not model.strip() or len(model) > MODEL_MAX or "\0" in model:
        return None
    ours = {name: _ours(name, fields.pop(name)) for name in OURS if name in fields}
    stream = type_ != "embed"
    if type_ != "embed":
        said = _taken(fields, "stream") or b"true"
        if said not in (b"true", b"false"):
            return None
        stream = said == b"true"
    keep_alive = _taken(fields, "keep_alive")
    options = None
    if all(bytes(fields[name]).lstrip()[:1] in (b"{", b"n") for name in _spellings(fields, "options")):
        options = _taken(fields, "options")
    if type_ == "chat":
        # The model server does not know it here; a task's payload does (oq.backends.request_body).
        _taken(fields, "system")
    elif path == "/api/embeddings":
        fields["prompt"] = msgspec.Raw(_taken(fields, "prompt") or b'""')  # the mark of the older kind
        _taken(fields, "input")
    elif path == "/api/embed":
        _taken(fields, "prompt")  # which it does not know, and which would be that mark
    return NativeCall(type_, model, _encode(fields), options, keep_alive, stream, ours)


def _spellings(fields: dict[str, msgspec.Raw], name: str) -> list[str]:
    return [key for key in fields if key.lower() == name]


def _taken(fields: dict[str, msgspec.Raw], name: str) -> bytes | None:
    """Take a field out, in whatever case: of several the last counts. None for null."""
    value = _NULL
    for key in _spellings(fields, name):
        value = bytes(fields.pop(key))
    return None if value == _NULL else value


def _ours(name: str, value: msgspec.Raw) -> Any:
    try:
        return _decode(value)
    except (msgspec.MsgspecError, RecursionError):
        raise InvalidTask(f"{name} holds no value that can be read", name) from None


class _Done(msgspec.Struct):
    done_reason: str = ""


def only_loads(line: bytes) -> bool:
    """Return whether an answer of one line says that a model was loaded or unloaded, nothing more."""
    if b'"done_reason"' not in line:
        return False
    return msgspec.json.decode(line, type=_Done).done_reason in ("load", "unload")


class _Head(msgspec.Struct):
    model: str = ""


def waiting_line(type: TaskType, model: str, now: str) -> bytes:
    """Return a line with no text in it, for a client that must hear something while its task waits.

    *now* is RFC 3339. Blank lines would not do: most clients parse every line.
    """
    head: dict[str, object] = {"model": model, "created_at": now}
    said: dict[str, object] = (
        {"message": {"role": "assistant", "content": ""}} if type == "chat" else {"response": ""}
    )
    return _encode({**head, **said, "done": False})
