"""The HTTP face: REST, streams, events, WebSocket, metrics, and the server that carries them."""

from __future__ import annotations

from oq.web.assembly import make_app
from oq.web.serve import serve_app

__all__ = ["make_app", "serve_app"]
