"""What a call says of itself, without its client being changed: headers, fields that begin with ``_``, and settings.

A field in the body beats a header, which beats what the settings say of the client, which beats the general setting.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

import msgspec

from oq.config import ClientSettings, Settings
from oq.core.model import TaskSpec, TaskType
from oq.errors import InvalidTask
from oq.tokens import digest
from oq.wire.requests import KEY_MAX, TAG_MAX
from oq.wire.scalars import parse_duration, parse_guard, parse_priority

OURS = ("_priority", "_source", "_timeout", "_guard")  # taken out of a body before the model server sees it
LEFT_TO_SETTING = -1  # `max_retries` of a task that leaves it to the queue's setting


class Terms(msgspec.Struct, frozen=True):
    """Under which terms a call becomes a task. *timeout* is in seconds for one attempt, None for the setting.

    `max_unfinished` bounds the unfinished tasks with the tag `client_tag`; 0: no bound.
    """

    priority: int
    tags: tuple[str, ...]
    timeout: float | None = None
    idempotency_key: str | None = None
    respond_async: bool = False
    client_tag: str | None = None
    max_unfinished: int = 0
    guard: str = "report"

    def for_line(self, ours: Mapping[str, Any], settings: Settings) -> Terms:
        """Return the terms of a batch's line: its own fields stand above those of the batch. Raises `InvalidTask`.

        Only a client that is known by its name alone can be named in a line.
        """
        changed: dict[str, Any] = {}
        if _given(ours, "_priority"):
            changed["priority"] = _read_priority(ours["_priority"], "_priority")
        if _given(ours, "_timeout"):
            changed["timeout"] = parse_duration(ours["_timeout"], "_timeout")
        if _given(ours, "_guard"):
            changed["guard"] = parse_guard(ours["_guard"], "_guard")
        name = _text(ours.get("_source"), "_source")
        before = [tag.removeprefix("client:") for tag in self.tags if tag.startswith("client:")]
        if name and not any(_has_token(known, settings) for known in (name, *before)):
            others = tuple(tag for tag in self.tags if not tag.startswith("client:"))
            changed["tags"] = (*others, _tag("client", name, "_source"))
        return msgspec.structs.replace(self, **changed)


def terms_of(
    headers: Mapping[str, str], ours: Mapping[str, Any], settings: Settings, via: str, *, batch: bool = False
) -> Terms:
    """Return the terms of a call.

    Args:
        headers: by lower-case name.
        ours: those of the fields `OURS` that the body had.
        via: the API's name, for the tag.
        batch: it is the line of a batch, which gives way to people.

    Raises `InvalidTask`, which names the header or the field.
    """
    name = _text(ours.get("_source"), "_source") or headers.get("x-client-id")
    client = _known_client(headers.get("authorization", ""), name, settings)
    if client is not None:
        name = client.name
    elif name and _has_token(name, settings):
        name = None  # said by somebody else: what is counted under it is that client's
    tags = [f"via:{via}"]
    client_tag = None
    if name:
        client_tag = _tag("client", name, "_source" if "_source" in ours else "X-Client-ID")
        tags.append(client_tag)
    # Several proxies may have written into it: a call does not fail for what is there to follow it.
    request_id = headers.get("x-request-id", "").partition(",")[0].strip()[: TAG_MAX - len("request:")]
    if request_id.isprintable() and request_id:
        tags.append(f"request:{request_id}")
    key = headers.get("idempotency-key")
    if key is not None and (len(key) > KEY_MAX or not key.strip() or not key.isprintable()):
        raise InvalidTask(f"Idempotency-Key must have 1 to {KEY_MAX} printable characters", "Idempotency-Key")
    timeout = client.timeout if client is not None else None
    if _given(ours, "_timeout"):
        timeout = parse_duration(ours["_timeout"], "_timeout")
    where = "_guard" if _given(ours, "_guard") else "X-Queue-Guard"
    guard = parse_guard(ours.get("_guard") or headers.get("x-queue-guard") or "report", where)
    return Terms(
        priority=_priority(headers, ours, client, settings, batch),
        tags=tuple(tags),
        timeout=timeout,
        idempotency_key=key,
        respond_async="respond-async" in _preferences(headers.get("prefer", "")),
        client_tag=client_tag,
        max_unfinished=client.max_unfinished if client is not None else 0,
        guard=guard,
    )


def task_of(
    type: TaskType,
    model: str,
    payload: bytes,
    options: bytes | None,
    keep_alive: bytes | None,
    terms: Terms,
    *,
    relay: bool = False,
) -> TaskSpec:
    """Return the task of a call. *payload*, *options* and *keep_alive* are JSON."""
    fingerprint = (
        None  # of what is asked alone: the request's own id, a tag, differs each time it is sent again
    )
    if terms.idempotency_key is not None:
        parts: tuple[bytes, ...] = (type.encode(), model.encode(), payload, options or b"", keep_alive or b"")
        if terms.guard != "report":
            parts += (terms.guard.encode(),)
        fingerprint = hashlib.sha256(b"\0".join(parts)).digest()[:16]
    return TaskSpec(
        type=type,
        model=model,
        payload=payload,
        options=options,
        keep_alive=keep_alive,
        priority=terms.priority,
        max_retries=LEFT_TO_SETTING,
        timeout=terms.timeout,
        tags=terms.tags,
        idempotency_key=terms.idempotency_key,
        fingerprint=fingerprint,
        relay=relay,
        guard=terms.guard,
    )


def _priority(
    headers: Mapping[str, str], ours: Mapping[str, Any], client: ClientSettings | None, settings: Settings, batch: bool
) -> int:  # fmt: skip
    for given, where in (
        (ours.get("_priority"), "_priority"), (headers.get("x-queue-priority"), "X-Queue-Priority"),
    ):  # fmt: skip
        if given not in (None, ""):
            return _read_priority(given, where)
    if batch:
        own = client.batch_priority if client is not None else None
        return settings.dropin.batch_priority if own is None else own
    own = client.priority if client is not None else None
    return settings.dropin.priority if own is None else own


def _read_priority(given: Any, where: str) -> int:
    try:
        return parse_priority(given)
    except InvalidTask as problem:
        raise InvalidTask(problem.message, where) from None


def _given(ours: Mapping[str, Any], name: str) -> bool:
    return ours.get(name) not in (None, "")


def _preferences(header: str) -> set[str]:
    """Return the names in a ``Prefer`` header; their values and parameters are left out (RFC 7240)."""
    return {part.partition(";")[0].strip() for part in header.lower().split(",")}


def _known_client(authorization: str, name: str | None, settings: Settings) -> ClientSettings | None:
    """Return the client by its token; by its name only if it has none, for a name is easily said."""
    scheme, _, token = authorization.partition(" ")
    found = None
    if scheme.lower() == "bearer" and settings.clients:
        given = digest(token.strip().encode("latin-1"))
        for client in settings.clients:  # all of them, and as hashes: as `oq.web.gate` compares
            if client.token and hmac.compare_digest(given, digest(client.token.encode())):
                found = client
    if found is not None or not name:
        return found
    return next((one for one in settings.clients if one.name == name.strip() and not one.token), None)


def _has_token(name: str, settings: Settings) -> bool:
    return any(client.token and client.name.strip() == name.strip() for client in settings.clients)


def _tag(kind: str, value: str, where: str) -> str:
    tag = f"{kind}:{value.strip()}"
    if not value.strip() or len(tag) > TAG_MAX or "," in tag or not tag.isprintable():
        raise InvalidTask(
            f"{where} must have 1 to {TAG_MAX - len(kind) - 1} printable characters and no comma", where
        )
    return tag


def _text(value: Any, field: str) -> str | None:
    if value is not None and not isinstance(value, str):
        raise InvalidTask(f"{field} must be text", field)
    return value
