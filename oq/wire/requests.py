"""A task as a client sends it: strict, with a field path in every complaint.

The original Ollama Queue's task JSON is accepted: its client posts a whole task, with the fields that only the
server may set left at Go's zero values. Those count as absent; given ones are refused.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal, Protocol

import msgspec
from msgspec import Raw

from oq.core.model import NORMAL, PRIORITY_MAX, SETTING, TASK_TYPES, TaskSpec
from oq.errors import InvalidTask, TooLarge
from oq.wire.payloads import ABSENT, check_keep_alive, check_options, check_payload
from oq.wire.problems import NotJson, as_problem
from oq.wire.scalars import parse_duration, parse_guard, parse_priority, parse_time, rfc3339

MODEL_MAX, TAG_MAX, TAGS_MAX, KEY_MAX = 500, 200, 100, 500  # characters, characters, tags, characters
RETRIES_MAX = 2**31 - 1


class _ServerLimits(Protocol):
    @property
    def max_batch(self) -> int: ...


class Limits(Protocol):
    """The setting that reading tasks needs; `oq.config.Settings` has it."""

    @property
    def server(self) -> _ServerLimits: ...


class _TaskIn(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    type: str
    model: str
    payload: Raw
    priority: int | str | None = None
    options: Raw = ABSENT
    max_retries: int | None = None
    keep_alive: Raw = ABSENT
    tags: list[str] | None = None
    timeout: int | float | str | None = None
    run_at: str | int | float | None = None
    delay: int | float | str | None = None
    idempotency_key: str | None = None
    guard: str | None = None
    # Only the server sets these.
    id: Any = None
    status: Any = None
    result: Any = None
    created_at: Any = None
    started_at: Any = None
    completed_at: Any = None
    error: Any = None
    retry_count: Any = None


_SERVER_FIELDS = (
    "id", "status", "result", "created_at", "started_at", "completed_at", "error", "retry_count",
)  # fmt: skip
_EMPTY = ("", None, 0, "0001-01-01T00:00:00Z")  # Go's zero values
_KNOWN = tuple(f for f in _TaskIn.__struct_fields__ if f not in _SERVER_FIELDS)
_decode = msgspec.json.Decoder(_TaskIn).decode
_decode_array = msgspec.json.Decoder(list[Raw]).decode


def parse_task(body: bytes, *, idempotency_key: str | None = None) -> TaskSpec:
    """Return the task in *body*; `NotJson` or `InvalidTask`.

    *idempotency_key* is the key of the request, for a task that names none itself.
    """
    _check_text(body)
    return _parse(body, idempotency_key)


def parse_tasks(
    body: bytes, settings: Limits, *, idempotency_key: str | None = None
) -> list[TaskSpec | InvalidTask]:
    """Return the tasks in a JSON array, each item its task or what is wrong with it.

    Raises `NotJson` or `InvalidTask` when it is no array, `TooLarge` past `server.max_batch`.
    With *idempotency_key* each item's key is that and its index.
    """
    _check_text(body)
    try:
        items = _decode_array(body)
    except msgspec.ValidationError:
        raise InvalidTask("the body must be a JSON array of tasks") from None
    except (ValueError, RecursionError) as exc:
        raise as_problem(exc) from None
    check_batch(len(items), settings)
    found = []
    for index, item in enumerate(items):
        key = None if idempotency_key is None else f"{idempotency_key}#{index}"
        found.append(_parse_item(item, key))
    return found


class LineParser:
    """NDJSON as it arrives: feed pieces, get the tasks of the lines that are complete. Empty lines are skipped."""

    def __init__(self, settings: Limits, *, idempotency_key: str | None = None) -> None:
        self._settings, self._key = settings, idempotency_key
        self._rest: list[bytes] = []
        self.count = 0

    def feed(self, piece: bytes) -> list[TaskSpec | InvalidTask]:
        """Return the items of the lines that *piece* completes; `TooLarge` past `server.max_batch`."""
        head, newline, tail = piece.rpartition(b"\n")
        if not newline:
            if tail:
                self._rest.append(tail)
            return []
        whole = b"".join([*self._rest, head])
        self._rest = [tail] if tail else []
        return self._lines(whole)

    def close(self) -> list[TaskSpec | InvalidTask]:
        """Return the item of a last line without newline, if there is one."""
        whole, self._rest = b"".join(self._rest), []
        return self._lines(whole)

    def _lines(self, text: bytes) -> list[TaskSpec | InvalidTask]:
        found: list[TaskSpec | InvalidTask] = []
        for line in text.split(b"\n"):
            if not line or line.isspace():
                continue
            key = None if self._key is None else f"{self._key}#{self.count}"
            self.count += 1
            check_batch(self.count, self._settings)
            try:
                _check_text(line)
                found.append(_parse_item(line, key))
            except InvalidTask as problem:
                found.append(problem)
        return found


def parse_lines(body: bytes, settings: Limits) -> list[TaskSpec | InvalidTask]:
    """Return the tasks of a whole NDJSON text."""
    parser = LineParser(settings)
    return parser.feed(body) + parser.close()


def check_batch(count: int, settings: Limits) -> None:
    """Refuse a batch past the limit with `TooLarge`."""
    if count > settings.server.max_batch:
        raise TooLarge(f"a batch may hold at most {settings.server.max_batch} tasks; send it in parts")


def _check_text(body: bytes) -> None:
    """Refuse what is not UTF-8: msgspec skips over the inside of a payload without looking."""
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError as exc:
            raise NotJson(f"the body is not UTF-8 text (byte {exc.start})") from None


def _parse_item(item: bytes | Raw, key: str | None) -> TaskSpec | InvalidTask:
    try:
        return _parse(item, key)
    except InvalidTask as problem:
        return problem


def _parse(body: bytes | Raw, key: str | None) -> TaskSpec:
    try:
        given = _decode(body)
    except (ValueError, RecursionError) as exc:
        raise as_problem(exc, known=_KNOWN, text=bytes(body)) from None
    type_, model = given.type, given.model
    if type_ not in TASK_TYPES:
        raise InvalidTask(f"type must be one of {', '.join(TASK_TYPES)}, not {type_[:60]!r}", "type")
    if not model or len(model) > MODEL_MAX or model.isspace() or "\0" in model:
        raise InvalidTask(f"model must be a name of 1 to {MODEL_MAX} characters", "model")
    payload, options, keep_alive = check_payload(type_, bytes(given.payload))
    if given.options is not ABSENT:
        if options is not None:
            raise InvalidTask("options are given twice, beside the payload and in it", "payload.options")
        options = check_options(bytes(given.options))
    if given.keep_alive is not ABSENT:
        if keep_alive is not None:
            raise InvalidTask("keep_alive is given twice, beside the payload and in it", "payload.keep_alive")
        keep_alive = check_keep_alive(bytes(given.keep_alive))
    priority = given.priority
    if priority is None or priority == "":
        priority = NORMAL
    elif type(priority) is not int or not 0 <= priority <= PRIORITY_MAX:
        priority = parse_priority(priority)
    if (
        given.id or given.status or given.result or given.error or given.retry_count
        or given.created_at or given.started_at or given.completed_at
    ):  # fmt: skip
        _refuse_server_fields(given)
    run_at, delay = _times(given)
    return TaskSpec(
        type=type_,
        model=model,
        payload=payload,
        options=options,
        keep_alive=keep_alive,
        priority=priority,
        max_retries=SETTING if given.max_retries is None else _retries(given.max_retries),
        timeout=None if given.timeout in (None, "") else parse_duration(given.timeout, "timeout"),
        run_at=run_at,
        tags=() if given.tags is None else _tags(given.tags),
        idempotency_key=_key(given.idempotency_key or key),
        delay=delay,
        guard=parse_guard(given.guard or "report", "guard"),
    )


def _refuse_server_fields(given: _TaskIn) -> None:
    for name in _SERVER_FIELDS:
        if getattr(given, name) not in _EMPTY:
            raise InvalidTask(f"{name} is set by the server; leave it out", name)


def _retries(value: int) -> int:
    if 0 <= value <= RETRIES_MAX:
        return value
    raise InvalidTask("max_retries must be 0 (none) or more", "max_retries")


def _times(given: _TaskIn) -> tuple[float | None, float | None]:
    """Return `run_at` and `delay`, of which one at most is given."""
    delayed = given.delay is not None and given.delay != ""
    if given.run_at not in _EMPTY:
        if delayed:
            raise InvalidTask("give either run_at or delay, not both", "delay")
        return parse_time(given.run_at, "run_at"), None
    return None, parse_duration(given.delay, "delay") if delayed else None


def _tags(tags: list[str]) -> tuple[str, ...]:
    if len(tags) > TAGS_MAX:
        raise InvalidTask(f"a task may have at most {TAGS_MAX} tags", "tags")
    for index, tag in enumerate(tags):
        if not tag.strip() or len(tag) > TAG_MAX or "," in tag:
            raise InvalidTask(f"a tag has 1 to {TAG_MAX} characters and no comma", f"tags[{index}]")
    return tuple(dict.fromkeys(tags))


def _key(key: str | None) -> str | None:
    if key is not None and (len(key) > KEY_MAX or not key.strip() or not key.isprintable()):
        raise InvalidTask(f"an idempotency key has 1 to {KEY_MAX} printable characters", "idempotency_key")
    return key


def fingerprint(spec: TaskSpec) -> bytes:
    """Return a digest of what was asked, the same for two spellings of one request.

    *spec* is as it was asked for: a `delay` is not yet a time, so that a repeat of a delayed task is the same task,
    and `max_retries` is negative where the setting counts.
    """
    parts = [
        spec.type, spec.model, *(_plain(part) for part in (spec.payload, spec.options, spec.keep_alive)), spec.priority,
        max(-1, spec.max_retries), spec.tags, spec.timeout, spec.run_at, spec.delay,
    ]  # fmt: skip
    if spec.guard != "report":
        parts.append(spec.guard)
    return hashlib.blake2b(msgspec.json.encode(parts, order="sorted"), digest_size=16).digest()


def _plain(part: bytes | None) -> object:
    try:
        return None if part is None else msgspec.json.decode(part)
    except (ValueError, RecursionError):  # a number beyond every range, or very deep: compare the bytes
        return part


# --- what a client posts
class _TaskPosted(msgspec.Struct, omit_defaults=True, kw_only=True):
    type: Literal["chat", "generate", "embed"]
    model: str
    payload: Raw
    priority: int
    options: Raw | None = None
    keep_alive: Raw | None = None
    max_retries: int | None = None
    timeout: float | None = None
    run_at: str | None = None
    delay: float | None = None
    tags: tuple[str, ...] = ()
    idempotency_key: str | None = None
    guard: str = "report"


def spec_json(spec: TaskSpec) -> bytes:
    """Return *spec* as a client posts it; `parse_task` reads it back."""
    return msgspec.json.encode(
        _TaskPosted(
            type=spec.type,
            model=spec.model,
            payload=Raw(spec.payload),
            priority=spec.priority,
            options=None if spec.options is None else Raw(spec.options),
            keep_alive=None if spec.keep_alive is None else Raw(spec.keep_alive),
            max_retries=None if spec.max_retries < 0 else spec.max_retries,
            timeout=spec.timeout,
            run_at=None if spec.run_at is None else rfc3339(spec.run_at),
            delay=spec.delay,
            tags=spec.tags,
            idempotency_key=spec.idempotency_key,
            guard=spec.guard,
        )
    )


class _PriorityIn(msgspec.Struct, forbid_unknown_fields=True):
    priority: int | str


_decode_priority = msgspec.json.Decoder(_PriorityIn).decode


def parse_priority_body(body: bytes) -> int:
    """Return the level in ``{"priority": …}``."""
    _check_text(body)
    try:
        return parse_priority(_decode_priority(body).priority)
    except (ValueError, RecursionError) as exc:
        raise as_problem(exc, known=("priority",)) from None
