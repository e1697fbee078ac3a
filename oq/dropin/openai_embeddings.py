"""OpenAI's embeddings as embed requests of the model server, and back."""

from __future__ import annotations

import base64
import struct
from typing import Any

import msgspec

from oq.dropin.openai_fields import Fields, OpenAiCall
from oq.errors import InvalidTask

_encode = msgspec.json.encode


def read_embedding(body: bytes) -> OpenAiCall:
    """Return the request in *body*; `InvalidTask` names what is wrong or cannot be mapped."""
    fields = Fields(body)
    model = fields.model()
    given = fields.take("input")
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts or given == "":
        raise InvalidTask("input must be text or a list of texts, and not empty", "input")
    if not all(isinstance(text, str) for text in texts):
        raise InvalidTask("input must be text or a list of texts: tokens cannot be mapped", "input")
    payload: dict[str, Any] = {"input": given}
    dimensions = fields.whole("dimensions", 1, 2**31 - 1)
    if dimensions is not None:
        payload["dimensions"] = dimensions
    encoding = fields.text("encoding_format") or "float"
    if encoding not in ("float", "base64"):
        raise InvalidTask("encoding_format must be float or base64", "encoding_format")
    fields.take("user")
    options, keep_alive = fields.native()
    fields.finish()
    asked = {"base64": encoding == "base64"}
    return OpenAiCall("embed", model, _encode(payload), options, keep_alive, False, fields.ours, asked)


class _Vectors(msgspec.Struct):
    embeddings: list[msgspec.Raw] = []
    prompt_eval_count: int | None = None


_decode = msgspec.json.Decoder(_Vectors).decode
_numbers = msgspec.json.Decoder(list[float]).decode


def embeddings_answer(result: bytes, model: str, *, as_base64: bool) -> bytes:
    """Return the list of vectors; in base64 they are little-endian 32-bit floats."""
    found = _decode(result)
    data = [
        {"object": "embedding", "index": index, "embedding": _packed(vector) if as_base64 else vector}
        for index, vector in enumerate(found.embeddings)
    ]
    tokens = found.prompt_eval_count or 0
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return _encode({"object": "list", "data": data, "model": model, "usage": usage})


def _packed(vector: msgspec.Raw) -> str:
    numbers = _numbers(vector)
    return base64.b64encode(struct.pack(f"<{len(numbers)}f", *numbers)).decode()
