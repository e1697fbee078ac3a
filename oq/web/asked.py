"""What a route reads of its request, and what it answers with."""

from __future__ import annotations

from typing import cast

from quart import Response, request
from werkzeug.datastructures import MultiDict

from oq.errors import InvalidTask
from oq.web.errors import JSON


def reply(text: bytes, status: int = 200, **headers: str) -> Response:
    found = Response(text, status, content_type=JSON)
    for name, value in headers.items():
        found.headers[name.replace("_", "-")] = value
    return found


def arguments(*known: str) -> MultiDict[str, str]:
    """Return the query string's parameters; an unknown one is refused rather than ignored."""
    for name in request.args:
        if name not in known:
            hint = f"known are {', '.join(known)}" if known else "this route takes none"
            raise InvalidTask(f"there is no parameter {name[:60]!r}; {hint}", name[:60])
    return request.args


async def body() -> bytes:
    return cast(bytes, await request.get_data())


def flag(text: str, name: str) -> bool:
    if text.lower() in ("true", "1", "yes", "on", ""):
        return True
    if text.lower() in ("false", "0", "no", "off"):
        return False
    raise InvalidTask(f"{name} must be true or false, not {text[:60]!r}", name)
