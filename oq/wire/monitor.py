"""What only the monitor reads: messages of the WebSocket, patches of rows, and tasks without their bulk.

The exact wire is docs/reference/websocket.md.
"""

from __future__ import annotations

from typing import Any, Protocol

import msgspec
from msgspec import Raw

from oq.core.model import TaskState
from oq.core.output import output_text
from oq.core.task import Task
from oq.wire.answers import Progress, prompt_of, rate_of, task_json
from oq.wire.scalars import optional_time

FIELD_SHOWN = 4096  # bytes of one field of a payload or result
OUTPUT_MAX = 262_144  # characters of an answer, or of thinking
NUMBERS_SHOWN = 8  # of the first embedding

_encode = msgspec.json.Encoder().encode
_decode_fields = msgspec.json.Decoder(dict[str, Raw]).decode


def frame_json(kind: str, /, **fields: object) -> bytes:
    """Return one message: *kind* and its fields (`from` is written `from_`)."""
    return _encode({"type": kind, **{name.rstrip("_"): value for name, value in fields.items()}})


def patch_of(state: TaskState) -> dict[str, object]:
    """Return all of a row that can change; null clears a field."""
    return {
        "status": state.status.value,
        "priority": state.priority,
        "revision": state.revision,
        "retry_count": state.retry_count,
        "run_at": optional_time(state.run_at),
        "started_at": optional_time(state.started_at),
        "completed_at": optional_time(state.finished_at),
        "host": state.host,
        "error": state.error or None,
        "error_code": state.error_code,
        "tokens": state.tokens,
        "output_start": state.output_start or None,
        "tokens_per_second": rate_of(state),
    }


def progress_patch(progress: Progress) -> dict[str, object]:
    """Return the patch of a running row."""
    pieces, rate = progress
    return {"tokens": pieces, "tokens_per_second": None if rate is None else round(rate, 1)}


class Waiting(Protocol):
    """`oq.core.waiting.Waiting`."""

    @property
    def reason(self) -> str: ...
    @property
    def text(self) -> str: ...
    @property
    def until(self) -> float | None: ...
    @property
    def error(self) -> str | None: ...
    @property
    def hosts(self) -> tuple[str, ...]: ...


def waiting_dict(waiting: Waiting | None) -> dict[str, object] | None:
    """Return why a task waits."""
    if waiting is None:
        return None
    found = {
        "reason": waiting.reason,
        "text": waiting.text,
        "until": optional_time(waiting.until),
        "error": waiting.error,
        "hosts": waiting.hosts,
    }
    return {name: value for name, value in found.items() if value}


def summary_json(task: Task, progress: Progress = (0, None), **extra: object) -> bytes:
    """Return a task without what is too large to show; `elided` names what is left out, with its size in bytes.

    Numbers stay the JSON text that they were. Costs some 10 ms for each 10 MB.
    """
    spec, result = task.spec, task.result_json
    payload, elided = _shortened(spec.payload, "payload")
    about: dict[str, object] = {"prompt": prompt_of(spec.payload), "payload_bytes": len(spec.payload)}
    light = msgspec.structs.replace(
        task, spec=msgspec.structs.replace(spec, payload=_encode(payload)), result_json=None
    )
    if result is not None:
        fields, cut = _shortened(result, "result")
        elided |= cut
        output, thinking = output_text(result), _thinking(result)
        about |= {
            "result": fields,
            "result_bytes": len(result),
            "output": output[:OUTPUT_MAX] or None,
            "output_chars": len(output),
            "thinking": thinking[:OUTPUT_MAX] or None,
            "embeddings": _embeddings(result) if spec.type == "embed" else None,
        }
    return task_json(light, progress, **about, elided=elided or None, **extra)


def _shortened(text: bytes, name: str) -> tuple[dict[str, Raw], dict[str, int]]:
    """Return the fields that are short enough, and the sizes of the others."""
    try:
        fields = _decode_fields(text)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return {}, {name: len(text)}
    sizes = {field: len(bytes(value)) for field, value in fields.items()}
    kept = {field: value for field, value in fields.items() if sizes[field] <= FIELD_SHOWN}
    return kept, {f"{name}.{field}": size for field, size in sizes.items() if size > FIELD_SHOWN}


class _Thought(msgspec.Struct):
    thinking: str | None = None


class _Thinks(_Thought):
    message: _Thought | None = None


class _Embedded(msgspec.Struct):
    embeddings: list[Raw] = []
    embedding: Raw | None = None


_decode_thinks = msgspec.json.Decoder(_Thinks).decode
_decode_embedded = msgspec.json.Decoder(_Embedded).decode
_decode_numbers = msgspec.json.Decoder(list[Raw]).decode


def _thinking(result: bytes) -> str:
    try:
        found = _decode_thinks(result)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return ""
    return (found.message.thinking if found.message is not None else found.thinking) or ""


def _embeddings(result: bytes) -> dict[str, Any] | None:
    try:
        found = _decode_embedded(result)
        all_of_them = found.embeddings or ([found.embedding] if found.embedding is not None else [])
        first = _decode_numbers(all_of_them[0]) if all_of_them else []
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
    return {"count": len(all_of_them), "dimensions": len(first), "first": first[:NUMBERS_SHOWN]}
