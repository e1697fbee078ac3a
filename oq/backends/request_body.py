"""The body of a request: a task's payload as it came, with model and options put beside it; no I/O here."""

from __future__ import annotations

import msgspec

from oq.core.model import TaskSpec

PATHS = {"chat": "/api/chat", "generate": "/api/generate", "embed": "/api/embed"}
LEGACY_EMBED = (
    "/api/embeddings"  # one prompt, and a vector that is not normalized: another answer than /api/embed's
)

_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_messages = msgspec.json.Decoder(list[msgspec.Raw]).decode
_encode = msgspec.json.encode


class _Prompt(msgspec.Struct):
    prompt: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    input: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_decode_prompt = msgspec.json.Decoder(_Prompt).decode


class _Role(msgspec.Struct):
    role: str = ""


def path_of(spec: TaskSpec) -> str:
    """Return where the request goes: an embed task with a prompt in place of an input is the older kind."""
    if spec.type == "embed" and b'"prompt"' in spec.payload:
        given = _decode_prompt(spec.payload)
        if given.prompt is not msgspec.UNSET and given.input is msgspec.UNSET:
            return LEGACY_EMBED
    return PATHS[spec.type]


def request_body(spec: TaskSpec) -> bytes:
    """Return the JSON the model server gets.

    The payload's own bytes go out unchanged; it is taken apart only where one of its fields is really one of
    ours (``stream``, ``model``, …) or, in a chat, ``system``, which Ollama knows for generate only.

    >>> request_body(TaskSpec(type="generate", model="m", payload=b'{"prompt": "Hi"}', options=b"{}"))
    b'{"model":"m","options":{},"prompt": "Hi","stream":true}'
    """
    payload = spec.payload.strip()
    if b'"system"' in payload and spec.type == "chat":
        payload = _with_system_message(payload)
    ours = [b'"model":' + _encode(spec.model)]
    if spec.options is not None:
        ours.append(b'"options":' + spec.options)
    if spec.keep_alive is not None:
        ours.append(b'"keep_alive":' + spec.keep_alive)
    payload = _without_ours(payload, spec)
    inner = payload[1:-1].strip()
    if inner:
        ours.append(inner)
    if spec.type != "embed":
        ours.append(b'"stream":true')
    return b"{" + b",".join(ours) + b"}"


def _without_ours(payload: bytes, spec: TaskSpec) -> bytes:
    """Leave out of *payload* what the request says itself; values of other fields keep their bytes."""
    names = ["model"]
    if spec.type != "embed":
        names.append("stream")
    if spec.options is not None:
        names.append("options")
    if spec.keep_alive is not None:
        names.append("keep_alive")
    if not any(b'"%s"' % name.encode() in payload for name in names):
        return payload
    fields = _decode_object(payload)
    # Go's JSON, hence Ollama, takes field names in any case.
    kept = {name: value for name, value in fields.items() if name.lower() not in names}
    return payload if len(kept) == len(fields) else _encode(kept)


def _with_system_message(payload: bytes) -> bytes:
    """Turn a chat's ``system`` field into its first message, unless a message has that role already."""
    fields = _decode_object(payload)
    system = fields.pop("system", None)
    if system is None:
        return payload  # the word stood elsewhere, most often as a message's role
    messages = _decode_messages(fields.get("messages", msgspec.Raw(b"[]")))
    roles = [msgspec.json.decode(message, type=_Role).role for message in messages]
    # Without messages a chat only loads the model, and must stay so.
    if messages and "system" not in roles and bytes(system) not in (b'""', b"null"):
        first = msgspec.Raw(b'{"role":"system","content":' + bytes(system) + b"}")
        fields["messages"] = msgspec.Raw(_encode([first, *messages]))
    return _encode(fields)
