"""The text in a model server's final JSON."""

from __future__ import annotations

import msgspec

OUTPUT_SHOWN = 200  # characters of an answer in lists

# What msgspec raises for bytes that are no JSON, or JSON of another shape; not UTF-8; nested too deep, as the
# arguments of a tool call can be, which a model writes.
NOT_JSON = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class _Message(msgspec.Struct):
    content: str | None = None


class _Result(msgspec.Struct):
    message: _Message | None = None
    response: str | None = None
    eval_count: int | float | None = None


_decode_result = msgspec.json.Decoder(_Result, strict=False)


def output_text(result: bytes | None) -> str:
    """Return the text in a model server's final JSON.

    >>> output_text(b'{"message": {"role": "assistant", "content": "Hi"}, "done": true}')
    'Hi'
    """
    if result is None:
        return ""
    try:
        found = _decode_result.decode(result)
    except NOT_JSON:
        return ""
    if found.message is not None:
        return found.message.content or ""
    return found.response or ""


def gist(result: bytes) -> tuple[int | None, str]:
    """Return the tokens that a final JSON counts, None if it does not, and the beginning of its text.

    >>> gist(b'{"response": "Hi", "eval_count": 2}')
    (2, 'Hi')
    """
    try:
        found = _decode_result.decode(result)
    except NOT_JSON:
        return None, ""
    text = (found.message.content if found.message is not None else found.response) or ""
    count = found.eval_count
    return (int(count) if count is not None and 0 <= count < 2**63 else None), text[:OUTPUT_SHOWN]
