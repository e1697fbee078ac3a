"""Requests and answers as values: what is sent where, and which error an answer is. No I/O here."""

from __future__ import annotations

from urllib.parse import quote

import msgspec

from oq import errors
from oq.errors import OqError, ServerError, ServerUnreachable
from oq.wire import BatchItem, RemoteError, check_text, decode_batch, decode_error

NDJSON = "application/x-ndjson"
SSE = "text/event-stream"
JSON = "application/json"


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """One HTTP request to the oq server.

    Attributes:
        repeatable: sending it twice does no harm, so it is sent again when the connection breaks.
        patient: an answer that says "later" (429, 502, 503) is waited out.
        hold: seconds the server may take on purpose before it answers (a long poll).
    """

    method: str
    path: str
    params: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None
    headers: dict[str, str] = {}
    repeatable: bool = False
    patient: bool = True
    hold: float = 0.0


class Answer(msgspec.Struct, frozen=True):
    """What came back: `headers` have lower-case names; `body` is empty while a stream is still open."""

    status: int
    headers: dict[str, str]
    body: bytes = b""


class Lost(msgspec.Struct, frozen=True):
    """No answer: the connection failed. *sent* is False when the server cannot have seen the request."""

    reason: str
    sent: bool = True
    idle: bool = False  # a stream that was only silent for long; nothing says that it broke


def task_path(id: str, *rest: str) -> str:
    """Return the path of a task: ids come from people, so nothing in them may change the path.

    >>> task_path("0f7x/../../queue", "cancel")
    '/api/tasks/0f7x%2F..%2F..%2Fqueue/cancel'
    """
    if id in (".", "..", ""):
        raise errors.TaskNotFound(f"there is no task {id!r}")
    return "/".join(["/api/tasks", quote(check_text(id, "id"), safe=""), *rest])


def _by_code() -> dict[str, type[OqError]]:
    classes = [OqError]
    for known in classes:
        classes.extend(known.__subclasses__())
    return {known.code: known for known in classes if "code" in vars(known)}


BY_CODE = _by_code()
BY_STATUS: dict[int, type[OqError]] = {
    409: errors.TaskConflict,
    413: errors.TooLarge,
    429: errors.QueueFull,
    503: errors.QueueBusy,
    507: errors.StorageFull,
}  # for an answer that carries no code of ours, such as a proxy's


def named_error(code: str, message: str, field: str | None = None, status: int | None = None) -> OqError:
    """Return the error of class *code*; a code this client does not know makes a `ServerError`."""
    kind = BY_CODE.get(code) or (BY_STATUS.get(status) if status and not code else None)
    if kind is None or kind in (OqError, ServerError, ServerUnreachable):
        unknown = ServerError(message, status)
        if code:
            unknown.code = code
        return unknown
    if issubclass(kind, errors.InvalidTask):
        return kind(message, field)
    return kind(message)


def error_of(answer: Answer) -> OqError:
    """Return what an answer that is not 2xx means."""
    if answer.status < 400:  # not followed: the token and the tasks are for the address that was given
        place = answer.headers.get("location", "")[:200]
        return ServerError(f"the server is at {place!r} now: use that address", answer.status)
    said = decode_error(answer.body) or _of_first(answer.body) or RemoteError("", "")
    text = answer.body[:200].decode("utf-8", "replace")
    message = said.error or f"the server answered {answer.status}: {text!r}. Is it an oq server?"
    error = named_error(said.code, message, said.field, answer.status)
    if isinstance(error, errors.Busy):
        error.retry_after = retry_after(answer) or error.retry_after
    return error


def _of_first(body: bytes) -> RemoteError | None:
    """Return what is wrong with the first wrong task of an atomic batch; its answer has no error but those of its items."""
    try:
        items: tuple[BatchItem, ...] = decode_batch(body).items
    except ServerError:
        return None
    for item in items:
        if item.error is not None:
            field = f"{item.field}: " if item.field and item.field not in item.error else ""
            return RemoteError(f"task {item.index + 1}: {field}{item.error}", item.code or "", item.field)
    return None


def retry_after(answer: Answer) -> float | None:
    """Return the seconds that the server asks to wait, if it does."""
    try:
        return max(0.0, float(answer.headers.get("retry-after", "")))
    except ValueError:
        return None
