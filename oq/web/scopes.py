"""What each route needs: one row a route, and nothing by default, so that a new one is closed until it has a row.

Paths are written as in /openapi.json; a test holds the table to it.
"""

from __future__ import annotations

import re

from oq.tokens import Scope

READ, SUBMIT, ADMIN = Scope.READ, Scope.SUBMIT, Scope.ADMIN

OPEN: dict[str, tuple[str, ...]] = {
    # No token, because there is no data in them: the page itself, and what a load balancer asks.
    "GET": ("/", "/health", "/favicon.ico", "/static/{name}"),
}
NEEDS: dict[Scope, dict[str, tuple[str, ...]]] = {
    READ: {
        "GET": (
            "/api/tasks", "/api/tasks/{id}", "/api/tasks/{id}/result", "/api/tasks/{id}/result.json",
            "/api/tasks/{id}/payload", "/api/tasks/{id}/stream", "/api/status", "/api/hosts", "/api/models", "/api/series",
            "/api/events", "/ws", "/metrics", "/openapi.json",
            # Ollama's and OpenAI's
            "/api/tags", "/api/ps", "/api/version", "/v1/models", "/v1/models/{id}", "/v1/files", "/v1/files/{id}",
            "/v1/files/{id}/content", "/v1/batches", "/v1/batches/{id}",
        ),
        "POST": ("/api/show",),
        "HEAD": ("/api/blobs/{digest}",),
    },
    SUBMIT: {
        "POST": (
            "/api/tasks", "/api/tasks/batch",
            "/api/chat", "/api/generate", "/api/embed", "/api/embeddings", "/v1/chat/completions", "/v1/completions",
            "/v1/embeddings", "/v1/files", "/v1/batches", "/v1/batches/{id}/cancel",
        ),
        "DELETE": ("/v1/files/{id}",),
    },
    ADMIN: {
        "POST": (
            "/api/tasks/bulk", "/api/tasks/{id}/cancel", "/api/tasks/{id}/retry", "/api/tasks/{id}/priority",
            "/api/queue/pause", "/api/queue/resume", "/api/queue/drain",
            "/api/pull", "/api/push", "/api/create", "/api/copy", "/api/blobs/{digest}",
        ),
        "DELETE": ("/api/tasks/{id}", "/api/delete"),
    },
}  # fmt: skip


def _pattern(path: str) -> str:
    """Return a regular expression: a name takes the rest of the path at its end, one part of it elsewhere."""
    text = re.escape(path)
    text = re.sub(
        r"\\\{\w+\\\}$",
        ".+" if path.startswith(("/static/", "/v1/models/", "/api/blobs/")) else "[^/]+",
        text,
    )
    return re.sub(r"\\\{\w+\\\}", "[^/]+", text)


_EXACT: dict[tuple[str, str], Scope | None] = {}
_PATTERNS: dict[str, list[tuple[re.Pattern[str], Scope | None]]] = {}
for _scope, _methods in ((None, OPEN), *NEEDS.items()):
    for _method, _paths in _methods.items():
        for _path in _paths:
            if "{" in _path:
                _PATTERNS.setdefault(_method, []).append((re.compile(_pattern(_path)), _scope))
            else:
                _EXACT[_method, _path] = _scope


def row_of(method: str, path: str) -> tuple[Scope | None] | None:
    """Return the row of a request as a tuple of one, None inside for no token; None if there is no row."""
    if method == "HEAD" and not path.startswith("/api/blobs/"):
        method = "GET"
    if len(path) > 1 and path.endswith("/"):
        path = path[:-1]  # Quart takes both
    if (method, path) in _EXACT:
        return (_EXACT[method, path],)
    for pattern, scope in _PATTERNS.get(method, ()):
        if pattern.fullmatch(path):
            return (scope,)
    return None


def needed(method: str, path: str) -> Scope | None:
    """Return what a request needs, None for no token. What has no row needs most."""
    row = row_of(method, path)
    return ADMIN if row is None else row[0]
