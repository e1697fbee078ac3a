"""From what a model server sends to pieces of text and one final JSON; no I/O here.

Ollama streams chat and generate as one JSON object a line, the last one with ``"done": true`` and the
figures. The result a task keeps has the shape of an answer that was not streamed: the last object, with the
text, thinking, tool calls and log probabilities of all lines put together. An answer that really was not
streamed is a stream of one line, and comes out unchanged.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from oq.backends.verdicts import INCOMPLETE, TOO_LARGE, UNREADABLE, failure, judge
from oq.core.output import NOT_JSON
from oq.errors import BackendError
from oq.ports import Piece

_ABSENT = msgspec.Raw(b"null")


class _Message(msgspec.Struct, gc=False):
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[msgspec.Raw] | None = None


class _Line(msgspec.Struct, gc=False):
    message: _Message | None = None
    response: str | None = None
    thinking: str | None = None
    tool_calls: list[msgspec.Raw] | None = None
    logprobs: list[msgspec.Raw] | None = None
    done: bool = False
    error: msgspec.Raw = _ABSENT


class _Embedding(msgspec.Struct, gc=False):
    embeddings: msgspec.Raw = _ABSENT
    embedding: msgspec.Raw = _ABSENT
    error: msgspec.Raw = _ABSENT


_decode_line = msgspec.json.Decoder(_Line).decode
_decode_embedding = msgspec.json.Decoder(_Embedding).decode
_decode_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_encode = msgspec.json.encode


class AnswerReader:
    """Reads one answer. Feed it what comes, then ask for `result`; both raise `BackendError`.

    Args:
        streams: lines as in chat and generate; otherwise one object, as in embed.
        model: for messages.
        max_bytes: an answer that needs more memory than this is refused.
        relay: give the lines themselves with the pieces, too (`oq.ports.Piece.line`).
    """

    def __init__(self, *, streams: bool, model: str, max_bytes: int, relay: bool = False) -> None:
        self.done = False
        self._streams = streams
        self._model = model
        self._max_bytes = max_bytes
        self._relay = relay
        self._buffer = bytearray()  # the line that has not ended yet
        self._kept = 0
        self._content: list[str] = []
        self._thinking: list[str] = []
        self._tool_calls: list[msgspec.Raw] = []
        self._logprobs: list[msgspec.Raw] = []
        self._last = b""
        self._is_chat = False

    def feed(self, data: bytes) -> Iterator[Piece]:
        """Take the next bytes; yield the text in the lines they complete, up to a line that is an error."""
        if self.done:
            return
        self._buffer += data
        if not self._streams or b"\n" not in data:
            if self._kept + len(self._buffer) > self._max_bytes:
                raise self._too_large()
            return
        *lines, self._buffer = self._buffer.split(b"\n")
        for line in lines:
            if len(line) > 1:  # an empty line may still hold its carriage return
                yield from self._take(line)
                if self.done:
                    break

    def end(self) -> Iterator[Piece]:
        """Take the last line, which need not end with a newline."""
        if self.done:
            return
        rest = self._buffer.strip()
        if not self._streams:
            self._last = bytes(rest)
            self._check_embedding()
        elif rest:
            try:
                yield from self._take(rest)
            except BackendError as exc:
                if exc.code != UNREADABLE.code or not _is_cut(rest):
                    raise
                raise self._incomplete() from exc  # a line cut in two
        if not self.done:
            raise self._incomplete()

    def result(self) -> bytes:
        """Return the final JSON."""
        try:
            merged = self._merge() if self._has_parts() else self._last
        except NOT_JSON as exc:
            raise self._unreadable() from exc
        if len(merged) > self._max_bytes:
            raise self._too_large()
        return merged

    def _take(self, line: bytearray) -> list[Piece]:
        try:
            found = _decode_line(line)
            _check_text(line)
        except NOT_JSON as exc:
            raise self._unreadable() from exc
        if found.error is not _ABSENT and bytes(found.error) != b"null":
            raise self._error_line(found.error)
        message = found.message
        if message is not None:
            self._is_chat = True
            content, thinking, tool_calls = message.content, message.thinking, message.tool_calls
        else:
            content, thinking, tool_calls = found.response, found.thinking, found.tool_calls
        if found.done:
            self.done = True
            self._last = bytes(line.strip())
        pieces: list[Piece] = []
        if thinking:
            pieces.append(Piece(thinking, "thinking"))
        if content:
            pieces.append(Piece(content))
        if self._relay:
            pieces = self._with_line(pieces, bytes(line.strip()))
        if found.done and not self._has_parts():
            return pieces  # the only line with anything in it: it is the whole answer already
        if thinking:
            self._thinking.append(thinking)
            self._kept += len(thinking)
        if content:
            self._content.append(content)
            self._kept += len(content)
        if tool_calls:
            self._tool_calls += map(_copied, tool_calls)
            self._kept += len(line)
        if found.logprobs:
            self._logprobs += map(_copied, found.logprobs)
            self._kept += len(line)
        if self._kept > self._max_bytes:
            raise self._too_large()
        return pieces

    def _with_line(self, pieces: list[Piece], line: bytes) -> list[Piece]:
        """Put *line* on the last of its pieces; `done: true` is a piece of its own."""
        if self.done:
            return [*pieces, Piece("", "end", line)]
        last = pieces.pop() if pieces else Piece("")
        return [*pieces, Piece(last.text, last.kind, line)]

    def _has_parts(self) -> bool:
        return bool(self._content or self._thinking or self._tool_calls or self._logprobs)

    def _merge(self) -> bytes:
        answer = _decode_object(self._last)
        target = answer
        if self._is_chat:
            message = answer.get("message", _ABSENT)
            target = {} if bytes(message) == b"null" else _decode_object(message)
            target.setdefault("role", msgspec.Raw(b'"assistant"'))
        target["content" if self._is_chat else "response"] = msgspec.Raw(_encode("".join(self._content)))
        if self._thinking:
            target["thinking"] = msgspec.Raw(_encode("".join(self._thinking)))
        if self._tool_calls:
            target["tool_calls"] = msgspec.Raw(_encode(self._tool_calls))
        if self._is_chat:
            answer["message"] = msgspec.Raw(_encode(target))
        if self._logprobs:
            answer["logprobs"] = msgspec.Raw(_encode(self._logprobs))
        return _encode(answer)

    def _check_embedding(self) -> None:
        try:
            found = _decode_embedding(self._last)
            _check_text(self._last)
        except NOT_JSON as exc:
            raise (self._incomplete() if _is_cut(self._last) else self._unreadable()) from exc
        if found.error is not _ABSENT and bytes(found.error) != b"null":
            raise self._error_line(found.error)
        if bytes(found.embeddings) == bytes(found.embedding) == b"null":
            raise failure(UNREADABLE, "the model server's answer holds no embeddings")
        self.done = True

    def _error_line(self, raw: msgspec.Raw) -> BackendError:
        body = b'{"error":' + bytes(raw) + b"}"
        text = error_text(body)
        what = f"the model server gave up: {text}"
        return failure(judge(None, text), what, model=self._model, status=500, body=body)

    def _unreadable(self) -> BackendError:
        return failure(UNREADABLE, "the model server's answer is not what Ollama sends")

    def _incomplete(self) -> BackendError:
        return failure(INCOMPLETE, "the answer ended before it was done")

    def _too_large(self) -> BackendError:
        return failure(TOO_LARGE, f"the answer is larger than {self._max_bytes} bytes")


def error_text(body: bytes) -> str:
    """Return the words in an error answer, be it ``{"error": "words"}``, a nested message, or plain text.

    >>> error_text(b'{"error": "no such model"}'), error_text(b"404 page not found")
    ('no such model', '404 page not found')
    """
    try:
        found = msgspec.json.decode(body)
    except NOT_JSON:
        return body.decode(errors="replace").strip()
    if isinstance(found, dict):
        found = found.get("error", found)
    if isinstance(found, dict):
        found = found.get("message", found)
    return found if isinstance(found, str) else _encode(found).decode()


def _check_text(data: bytes | bytearray) -> None:
    """Raise `UnicodeDecodeError` if it is not UTF-8: msgspec looks only at the fields that it takes."""
    if not data.isascii():
        data.decode()


def _is_cut(rest: bytes | bytearray) -> bool:
    """Return whether it may be the beginning of an answer, rather than something else.

    >>> _is_cut(b'{"response": "Hel'), _is_cut(b"<html></html>")
    (True, False)
    """
    return not rest or (rest.startswith(b"{") and not rest.endswith(b"}"))


def _copied(raw: msgspec.Raw) -> msgspec.Raw:
    return raw.copy()  # a Raw is a view that would keep its whole line in memory
