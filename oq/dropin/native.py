"""Ollama's own requests as tasks. The payload's bytes stay what the client sent.

Whatever is wrong in a request is left to the model server, whose words the client knows: nothing is refused here.
What names no model, or is no JSON object, cannot be queued and is passed on as it is.
"""

from __future__ import annotations

from typing import Any

import msgspec

from oq.core.model import TaskType
from oq.dropin.terms import OURS
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
        named = {name.lower(): name for name in fields}
        model = _decode(fields[named["model"]])
    except (msgspec.MsgspecError, KeyError, RecursionError):
        return None
    if not isinstance(model, str) or not model.strip() or len(model) > MODEL_MAX or "\0" in model:
        return None
    del fields[named["model"]]
    ours = {name: _decode(fields.pop(name)) for name in OURS if name in fields}
    keep_alive = _taken(fields, named.get("keep_alive"))
    options = None
    given = named.get("options")
    if given is not None and bytes(fields[given]).lstrip()[:1] in (b"{", b"n"):
        options = _taken(fields, given)
    stream = type_ != "embed"
    if type_ != "embed" and "stream" in named:
        stream = bytes(fields.pop(named["stream"])) != b"false"
    if type_ == "chat":
        # The model server does not know it here; a task's payload does (oq.backends.request_body).
        fields.pop(named.get("system", ""), None)
    if path == "/api/embeddings":
        fields.setdefault("prompt", msgspec.Raw(b'""'))  # the mark of the older kind
        fields.pop("input", None)
    return NativeCall(type_, model, _encode(fields), options, keep_alive, stream, ours)


def _taken(fields: dict[str, msgspec.Raw], name: str | None) -> bytes | None:
    """Take a field out; None for null."""
    value = bytes(fields.pop(name)) if name is not None else _NULL
    return None if value == _NULL else value


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
