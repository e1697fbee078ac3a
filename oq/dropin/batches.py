"""An OpenAI batch: its record, the lines of its input, and the lines of its output. Times are whole Unix seconds."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from oq.core.model import Status
from oq.core.task import Task
from oq.dropin.openai_errors import openai_error
from oq.dropin.refusals import Refused, refusal_of
from oq.errors import InvalidTask
from oq.wire.scalars import parse_duration

ENDPOINTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings")
UNFINISHED = frozenset({"validating", "in_progress", "finalizing", "cancelling"})
ERRORS_SHOWN = 100  # problems named of an input file; the rest are as many lines more of the same
WINDOW_MAX = 366 * 86_400.0  # seconds a batch may take at most
CUSTOM_ID_MAX = 512
METADATA_MAX = 16  # pairs, as at OpenAI


class FileRecord(msgspec.Struct, frozen=True, tag_field="object", tag="file"):
    """What OpenAI says of a file."""

    id: str
    bytes: int
    created_at: int
    filename: str
    purpose: str
    status: str = "processed"


class Counts(msgspec.Struct, frozen=True):
    total: int = 0
    completed: int = 0
    failed: int = 0


class BatchRecord(msgspec.Struct, frozen=True, tag_field="object", tag="batch"):
    """What OpenAI says of a batch."""

    id: str
    endpoint: str
    input_file_id: str
    completion_window: str
    status: str
    created_at: int
    expires_at: int
    errors: dict[str, Any] | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: Counts = Counts()
    metadata: dict[str, str] | None = None


class KeptBatch(msgspec.Struct, frozen=True):
    """A batch as it lies on disk: with the terms its lines become tasks under, which OpenAI knows nothing of."""

    record: BatchRecord
    priority: int
    tags: tuple[str, ...]
    timeout: float | None = None
    guard: str = "report"
    idempotency_key: str | None = None
    fingerprint: bytes | None = None  # of the request that the key stands for

    def now(self, status: str, at: float, **changed: Any) -> KeptBatch:
        """Return the batch in another status, and when that began."""
        fields = {f"{status}_at": int(at), **changed} if status != "validating" else changed
        return msgspec.structs.replace(
            self, record=msgspec.structs.replace(self.record, status=status, **fields)
        )


class _Asked(msgspec.Struct):
    input_file_id: str
    endpoint: str
    completion_window: str = "24h"
    metadata: dict[str, str] | None = None


def read_batch(body: bytes) -> tuple[_Asked, float]:
    """Return what is asked for, and the window in seconds; `InvalidTask` names what is wrong."""
    try:
        asked = msgspec.json.decode(body, type=_Asked)
        unknown = set(msgspec.json.decode(body)) - set(_Asked.__struct_fields__)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidTask(f"the body must be a JSON object with input_file_id and endpoint: {exc}") from None
    if unknown:
        name = min(unknown)[:100]
        raise InvalidTask(f"there is no field {name}; known are {', '.join(_Asked.__struct_fields__)}", name)
    if asked.endpoint not in ENDPOINTS:
        raise InvalidTask(f"endpoint must be one of {', '.join(ENDPOINTS)}", "endpoint")
    window = parse_duration(asked.completion_window, "completion_window")
    if not 0 < window <= WINDOW_MAX:
        raise InvalidTask(
            "completion_window must be a duration such as 24h, at most 366 days", "completion_window"
        )
    if asked.metadata is not None and len(asked.metadata) > METADATA_MAX:
        raise InvalidTask(f"metadata may have at most {METADATA_MAX} pairs", "metadata")
    return asked, window


class BatchLine(msgspec.Struct, frozen=True):
    """One request of a batch; *number* counts from 1."""

    number: int
    custom_id: str
    body: bytes


class _Line(msgspec.Struct):
    custom_id: str
    body: msgspec.Raw
    url: str
    method: str = "POST"


_decode_line = msgspec.json.Decoder(_Line).decode


class LineProblem(Exception):
    """What is wrong with a line: *code* and *param* as OpenAI says them."""

    def __init__(self, message: str, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.message, self.code, self.param = message, code, param


def read_line(text: bytes, number: int, endpoint: str) -> BatchLine:
    """Return the request in a line; raises `LineProblem`. What its body says is looked at when it runs."""
    try:
        found = _decode_line(text if text.isascii() else text.decode().encode())
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise LineProblem(f"not a request with custom_id, url and body: {exc}", "invalid_json_line") from None
    if not found.custom_id or len(found.custom_id) > CUSTOM_ID_MAX:
        raise LineProblem(
            f"custom_id must have 1 to {CUSTOM_ID_MAX} characters", "invalid_custom_id", "custom_id"
        )
    if found.method.upper() != "POST":
        raise LineProblem("method must be POST", "invalid_method", "method")
    if found.url != endpoint:
        raise LineProblem(f"url must be {endpoint}, the batch's endpoint", "mismatched_url", "url")
    if bytes(found.body)[:1] != b"{":
        raise LineProblem("body must be an object", "invalid_body", "body")
    return BatchLine(number, found.custom_id, bytes(found.body))


def check_lines(lines: Iterable[bytes], endpoint: str, max_lines: int) -> tuple[int, list[dict[str, Any]]]:
    """Return how many requests an input has, and what is wrong with it, in OpenAI's form."""
    seen: set[str] = set()
    problems: list[dict[str, Any]] = []
    count = 0

    def note(code: str, message: str, line: int | None, param: str | None = None) -> None:
        if len(problems) < ERRORS_SHOWN:
            problems.append({"code": code, "message": message, "line": line, "param": param})

    for number, text in enumerate(lines, 1):
        if not text.strip():
            continue
        count += 1
        if count > max_lines:
            note(
                "too_many_tasks",
                f"a batch may have at most {max_lines} requests (dropin.max_batch_lines)",
                number,
            )
            break
        try:
            line = read_line(text, number, endpoint)
        except LineProblem as problem:
            note(problem.code, problem.message, number, problem.param)
            continue
        if line.custom_id in seen:
            note(
                "duplicate_custom_id",
                f"custom_id {line.custom_id[:100]!r} is there twice",
                number,
                "custom_id",
            )
        seen.add(line.custom_id)
    if not count:
        note("empty_file", "the input file holds no request", None)
    return count, problems


def result_line(line: BatchLine, id: str, status: int, body: bytes) -> bytes:
    """Return a line of the output or error file, with its newline. *body* is JSON."""
    return msgspec.json.encode({
        "id": f"batch_req_{id}", "custom_id": line.custom_id,
        "response": {"status_code": status, "request_id": id, "body": msgspec.Raw(body)}, "error": None,
    }) + b"\n"  # fmt: skip


def missed_line(line: BatchLine, code: str, message: str) -> bytes:
    """Return the line of a request that was never answered, with its newline."""
    return msgspec.json.encode({
        "id": f"batch_req_{line.number}", "custom_id": line.custom_id, "response": None,
        "error": {"code": code, "message": message},
    }) + b"\n"  # fmt: skip


def refused_line(
    line: BatchLine, status: int, message: str, code: str | None, param: str | None = None
) -> bytes:
    """Return the line of a request that is answered with an error of ours, with its newline."""
    return result_line(line, str(line.number), status, openai_error(status, message, param=param, code=code))


def failed_line(line: BatchLine, task: Task) -> bytes:
    """Return the line of a request whose task failed, with its newline."""
    why: Refused = refusal_of(task.state)
    return result_line(line, task.id, why.status, openai_error(why.status, why.words, code=why.code))


class _Known(msgspec.Struct):
    custom_id: str


def known_ids(lines: Iterable[bytes]) -> set[str]:
    """Return the custom ids in a file of results."""
    return {msgspec.json.decode(line, type=_Known).custom_id for line in lines}


def succeeded(task: Task) -> bool:
    return task.status is Status.COMPLETED
