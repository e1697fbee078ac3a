"""The monitor's files, from frontend/, as they are; nothing in them is private."""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
from functools import lru_cache
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING

from quart import Response, request

from oq.web.errors import NoSuchRoute
from oq.web.packing import takes_gzip

if TYPE_CHECKING:
    from oq.web.app import OqApp

LINE = "Ollama is running"  # word for word: clients of Ollama look for it
CSP = (
    "default-src 'self'; base-uri 'none'; object-src 'none'; frame-ancestors 'none'; form-action 'self'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".svg": "image/svg+xml", ".woff2": "font/woff2"}
SHOWN = frozenset(
    {".html", ".js", ".mjs", ".css", ".svg", ".png", ".ico", ".json", ".webmanifest", ".woff2", ".txt"}
)

NAME_MAX = 255  # bytes: a file system answers a longer name with an error


def add_routes(app: OqApp) -> None:
    app.add_url_rule("/", "GET /", index, methods=["GET"])
    app.add_url_rule("/static/<path:name>", "GET /static/<path:name>", static, methods=["GET"])


def folder() -> Traversable:
    """Return frontend/: inside the wheel, or beside oq/ in a checkout."""
    try:
        return resources.files("oq.web.frontend")
    except ModuleNotFoundError:
        return Path(__file__).parents[2] / "frontend"


async def index() -> Response:
    """The monitor for a browser, one line of text for anything else."""
    if "text/html" in request.headers.get("Accept", ""):
        page = folder() / "index.html"
        if page.is_file():
            return _file(page, "no-cache")
    return Response(LINE, content_type="text/plain; charset=utf-8")


async def static(name: str) -> Response:
    found = folder()
    if len(name.encode()) > NAME_MAX:
        raise NoSuchRoute(f"there is no file {name[:100]!r}")
    for part in name.split("/"):
        if not part or part.startswith(".") or "\\" in part or "\0" in part:
            raise NoSuchRoute(f"there is no file {name[:100]!r}")
        found = found / part
    if Path(name).suffix not in SHOWN or not found.is_file():
        raise NoSuchRoute(f"there is no file {name[:100]!r}")
    return _file(found, "no-cache")


def _file(file: Traversable, cache: str) -> Response:
    kind = (
        TYPES.get(Path(file.name).suffix) or mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    )
    data = file.read_bytes()
    # The files never change while the server runs, except for who works on them: hence no-cache and a tag.
    tag = hashlib.blake2b(data, digest_size=12).hexdigest()
    packs = kind.startswith(("text/", "image/svg")) or kind == "application/json"
    if kind.startswith("text/") or kind == "application/json":
        kind += "; charset=utf-8"
    if tag in request.if_none_match:
        response = Response(b"", 304)
    elif packs and takes_gzip():
        response = Response(_packed(data), content_type=kind)
        response.headers["Content-Encoding"] = "gzip"
    else:
        response = Response(data, content_type=kind)
    response.set_etag(tag)
    response.headers["Vary"] = "Accept-Encoding"
    response.headers["Cache-Control"] = cache
    response.headers["Content-Security-Policy"] = CSP
    return response


@lru_cache(maxsize=200)  # more than frontend/ has files; each is compressed once
def _packed(data: bytes) -> bytes:
    return gzip.compress(data, 9, mtime=0)
