"""What a client hears of a task that did not end well: a status and words, the model server's own if it spoke."""

from __future__ import annotations

import msgspec

from oq.core.model import Status, TaskState
from oq.core.output import NOT_JSON

CLOSED = 499  # as nginx and Ollama say it: somebody ended the request; clients do not try such a one again
# The failure's code when the model server gave no answer of its own → an HTTP status.
_STATUS = {"timeout": 504, "idle_timeout": 504, "connection_lost": 502, "incomplete": 502, "bad_answer": 502,
           "unreachable": 502, "result_too_large": 502}  # fmt: skip


class Refused(msgspec.Struct, frozen=True):
    """An error answer: *words* for a person; *body* and *content_type* the model server's own, or empty."""

    status: int
    words: str
    body: bytes = b""
    code: str | None = None
    content_type: str = ""


def refusal_of(state: TaskState) -> Refused:
    """Return why a task has no result: it failed, was cancelled, or an attempt of it broke off."""
    if state.status is Status.CANCELLED:
        return Refused(CLOSED, "the task was cancelled before it was done", code="cancelled")
    words = state.error or "the task did not end well"
    said = state.refusal
    if said is not None and said.status >= 400:
        return Refused(
            said.status, said_in(said.body) or words, said.body, state.error_code, said.content_type
        )
    return Refused(_STATUS.get(state.error_code or "", 500), words, code=state.error_code)


def said_in(body: bytes) -> str:
    """Return the words of an error answer.

    >>> said_in(b'{"error": "no such model"}'), said_in(b"404 page not found")
    ('no such model', '404 page not found')
    """
    try:
        found = msgspec.json.decode(body)
    except NOT_JSON:
        return body.decode(errors="replace").strip()
    for name in ("error", "message"):
        if isinstance(found, dict):
            found = found.get(name, found)
    return found if isinstance(found, str) else msgspec.json.encode(found).decode()


def error_line(refused: Refused) -> bytes:
    """Return ``{"error": …}``, the form of Ollama's errors, without newline."""
    return msgspec.json.encode({"error": refused.words})
