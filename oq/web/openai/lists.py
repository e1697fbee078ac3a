"""OpenAI's lists: a page, and where it ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar
from urllib.parse import parse_qs

import msgspec

from oq.errors import InvalidTask

JSON = {"Content-Type": "application/json"}
LIMIT_DEFAULT, LIMIT_MAX = 20, 10_000
LIMIT_DIGITS = 15  # Python makes no number of thousands of them


class _Listed(Protocol):
    @property
    def id(self) -> str: ...

    @property
    def created_at(self) -> int: ...


T = TypeVar("T", bound=_Listed)


def page_of(items: Sequence[T], query: bytes, also: Sequence[str] = ()) -> bytes:
    """Return the page of *items* that *query* asks for, newest first, as JSON.

    *also* are fields that may be filtered by. `InvalidTask` names a parameter that is wrong.
    """
    given = {name: values[-1] for name, values in parse_qs(query.decode("latin-1")).items()}
    after, limit, order = (
        given.pop("after", None),
        given.pop("limit", str(LIMIT_DEFAULT)),
        given.pop("order", "desc"),
    )
    if not limit.isdecimal() or len(limit) > LIMIT_DIGITS or not 1 <= int(limit) <= LIMIT_MAX:
        raise InvalidTask(f"limit must be 1 to {LIMIT_MAX}", "limit")
    if order not in ("asc", "desc"):
        raise InvalidTask("order must be asc or desc", "order")
    for name in given:
        if name not in also:
            raise InvalidTask(f"there is no parameter {name[:60]!r}", name[:60])
    found = [item for item in items if all(getattr(item, name) == value for name, value in given.items())]
    found.sort(key=lambda item: (item.created_at, item.id), reverse=order == "desc")
    if after is not None:
        places = [place for place, item in enumerate(found) if item.id == after]
        if not places:
            raise InvalidTask(f"there is nothing with the id {after[:100]!r} to go on after", "after")
        found = found[places[0] + 1 :]
    page = found[: int(limit)]
    return msgspec.json.encode({
        "object": "list", "data": page, "first_id": page[0].id if page else None,
        "last_id": page[-1].id if page else None, "has_more": len(found) > len(page),
    })  # fmt: skip
