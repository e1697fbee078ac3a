"""Which tasks: the query string of a list and the filter of a bulk request, with the same names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar, cast

import msgspec

from oq.core.ids import format_id, parse_id
from oq.core.model import TASK_TYPES, Status, TaskType
from oq.errors import InvalidTask
from oq.ports import Query
from oq.wire.problems import as_problem
from oq.wire.scalars import parse_priority

LIMIT_DEFAULT, LIMIT_MAX = 100, 1000
OFFSET_MAX = 2**53
SORTS = ("-created", "created", "-priority", "priority")
FILTERS = ("status", "type", "priority", "model", "host", "tag", "q")
PARAMETERS = (*FILTERS, "limit", "offset", "cursor", "anchor", "sort")
VIEWS = ("whole", "summary")
ACTIONS = ("cancel", "retry", "delete", "priority")

T = TypeVar("T", bound=str)


def parse_query(given: Mapping[str, Sequence[str]], known: Sequence[str] = PARAMETERS) -> Query:
    """Return the query of parameters, each with its values; values may be several, or joined by commas.

    `cursor` is the id of the last task of the page before. `anchor` is the id of the newest task to show: tasks
    submitted later do not move the rows; only for the newest-first order. Raises `InvalidTask`.
    """
    for name in given:
        if name not in known:
            raise InvalidTask(f"there is no parameter {name[:60]!r}; known are {', '.join(known)}", name[:60])
    sort = _one(given, "sort") or "-created"
    if sort not in SORTS:
        raise InvalidTask(f"sort must be one of {', '.join(SORTS)}, not {sort[:60]!r}", "sort")
    before = _id(given, "cursor")
    anchor = _id(given, "anchor")
    if anchor is not None:
        if sort != "-created":
            raise InvalidTask("anchor goes only with sort=-created", "anchor")
        before = anchor + 1 if before is None else min(before, anchor + 1)
    priorities = _many(given, "priority")
    return Query(
        status=_words(given, "status", tuple(Status)),
        type=cast("frozenset[TaskType] | None", _words(given, "type", TASK_TYPES)),
        priority=frozenset(parse_priority(value) for value in priorities) or None,
        model=frozenset(_many(given, "model")) or None,
        host=frozenset(_many(given, "host")) or None,
        tag=frozenset(_many(given, "tag")) or None,
        text=_one(given, "q"),
        sort=sort,
        limit=_number(given, "limit", LIMIT_DEFAULT, 0, LIMIT_MAX),
        offset=_number(given, "offset", 0, 0, OFFSET_MAX),
        before=before,
        anchor=anchor,
    )


def query_parameters(query: Query) -> list[tuple[str, str]]:
    """Return *query* as parameters; `parse_query` reads them back."""
    found: list[tuple[str, str]] = []
    for name in ("status", "type", "priority", "model", "host", "tag"):
        found += [(name, str(value)) for value in sorted(getattr(query, name) or ())]
    if query.text is not None:
        found.append(("q", query.text))
    found += [("sort", query.sort), ("limit", str(query.limit))]
    if query.offset:
        found.append(("offset", str(query.offset)))
    if query.anchor is not None:
        found.append(("anchor", format_id(query.anchor)))
    if query.before is not None and query.before != (query.anchor or 0) + 1:
        found.append(("cursor", format_id(query.before)))
    return found


class BulkRequest(msgspec.Struct, frozen=True):
    """What to do with many tasks: *ids*, or all that match *query*.

    *expect* is the number of matches the sender saw; another number is a conflict.
    """

    action: str
    ids: tuple[str, ...] | None
    query: Query | None
    expect: int | None
    priority: int | None


class _BulkIn(msgspec.Struct, forbid_unknown_fields=True):
    action: str
    ids: list[str] | None = None
    filter: dict[str, str | int | list[str | int] | None] | None = None
    expect: int | None = None
    priority: int | str | None = None


_decode_bulk = msgspec.json.Decoder(_BulkIn).decode


def parse_bulk(body: bytes) -> BulkRequest:
    """Return the request in ``{"action", "ids" or "filter", "expect"?, "priority"?}``."""
    try:
        given = _decode_bulk(body)
    except (ValueError, RecursionError) as exc:
        raise as_problem(exc, known=_BulkIn.__struct_fields__, whole="the request") from None
    if given.action not in ACTIONS:
        raise InvalidTask(f"action must be one of {', '.join(ACTIONS)}, not {given.action[:60]!r}", "action")
    if (given.ids is None) == (given.filter is None):
        raise InvalidTask("give either ids or filter", "ids")
    if (given.action == "priority") != (given.priority is not None):
        raise InvalidTask("priority goes with the action priority, and only there", "priority")
    query = None
    if given.filter is not None:
        wanted: dict[str, list[str]] = {}
        for name, value in given.filter.items():
            if value is not None:
                wanted[name] = [str(v) for v in (value if isinstance(value, list) else [value])]
        query = parse_query(wanted, FILTERS)
    return BulkRequest(
        action=given.action,
        ids=None if given.ids is None else tuple(given.ids),
        query=query,
        expect=given.expect,
        priority=None if given.priority is None else parse_priority(given.priority),
    )


def _many(given: Mapping[str, Sequence[str]], name: str) -> list[str]:
    return [part for value in given.get(name, ()) for part in value.split(",") if part]


def _one(given: Mapping[str, Sequence[str]], name: str) -> str | None:
    values = given.get(name, ())
    if len(values) > 1:
        raise InvalidTask(f"{name} is given more than once", name)
    return values[0] if values and values[0] else None


def _words(given: Mapping[str, Sequence[str]], name: str, allowed: Sequence[T]) -> frozenset[T] | None:
    by_text = {str(word): word for word in allowed}
    found = set()
    for value in _many(given, name):
        if value not in by_text:
            raise InvalidTask(f"{name} must be one of {', '.join(by_text)}, not {value[:60]!r}", name)
        found.add(by_text[value])
    return frozenset(found) or None


def _number(given: Mapping[str, Sequence[str]], name: str, default: int, low: int, high: int) -> int:
    text = _one(given, name)
    if text is None:
        return default
    if text.isascii() and text.isdigit() and len(text) <= 16 and low <= int(text) <= high:
        return int(text)
    raise InvalidTask(f"{name} must be a whole number from {low} to {high}, not {text[:60]!r}", name)


def _id(given: Mapping[str, Sequence[str]], name: str) -> int | None:
    text = _one(given, name)
    try:
        return None if text is None else parse_id(text)
    except ValueError as exc:
        raise InvalidTask(f"{name}: {str(exc)[:200]}", name) from None


class Watch(msgspec.Struct):
    """What a WebSocket client wants to see: the rows on its screen, and the task it has open.

    *since* is the number of the newest event that its rows contain: what happened to them later is told.
    """

    ids: list[str] = []
    task: str | None = None
    since: int | None = None


class _WatchIn(Watch, tag_field="type", tag="watch"):
    pass


_decode_watch = msgspec.json.Decoder(_WatchIn).decode


def parse_watch(text: str | bytes) -> Watch:
    """Return a client's message; `InvalidTask` if it is no ``watch``."""
    try:
        return _decode_watch(text)
    except (ValueError, RecursionError) as exc:
        error = as_problem(exc, whole="the message")
        if type(error) is InvalidTask and error.field in (None, "type"):
            raise InvalidTask('a message must be an object with the type "watch"', "type") from None
        raise error from None
