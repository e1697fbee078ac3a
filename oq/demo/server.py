"""The HTTP side: a thread per connection, Ollama's routes and its plain answers."""

from __future__ import annotations

import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

from oq.demo.endpoints import ENDPOINTS
from oq.demo.exchange import Exchange, compact, send_whole
from oq.demo.loading import LoadedModels
from oq.demo.refusals import ApiError, Gone
from oq.demo.requests import parse_request

VERSION = "0.32.15"  # of the Ollama whose behaviour this has
TEXT_TYPE = "text/plain"
_READ_ONLY = ("/", "/api/version", "/api/tags", "/api/ps")


class ModelServer(ThreadingHTTPServer):
    """Answers for *models* on *host* and *port* (0: any free one) while `serve_forever` runs."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, host: str, port: int, models: LoadedModels) -> None:
        self.models = models
        super().__init__((host, port), Handler)

    @property
    def url(self) -> str:
        host, port = self.server_address[:2]
        return f"http://{host!s}:{port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Say what went wrong, but nothing of clients that hang up."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server_version = "oq-demo"
    disable_nagle_algorithm = True  # a token is a small packet, and must not wait for the one before
    server: ModelServer

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing: who is asked to show a demo is not asked for a log."""

    def do_GET(self) -> None:
        path, models = urlsplit(self.path).path, self.server.models
        if path == "/":
            send_whole(self, 200, b"Ollama is running", f"{TEXT_TYPE}; charset=utf-8")
        elif path == "/api/version":
            send_whole(self, 200, compact({"version": VERSION}))
        elif path == "/api/tags":
            send_whole(self, 200, compact({"models": [model.tag() for model in models.models.values()]}))
        elif path == "/api/ps":
            send_whole(self, 200, compact({"models": models.listing()}))
        else:
            self._refuse(path)

    do_HEAD = do_GET

    def do_POST(self) -> None:
        path = urlsplit(self.path).path
        body = self._body()
        if body is None:
            return
        endpoint = ENDPOINTS.get(path)
        if endpoint is None:
            self._refuse(path)
            return
        exchange = Exchange(self)
        try:
            exchange.request = parse_request(path, body)
            endpoint(exchange, self.server.models)
        except ApiError as error:
            exchange.refuse(error)
        except (Gone, ConnectionError):
            self.close_connection = True

    def do_PUT(self) -> None:
        if self._body() is not None:
            self._refuse(urlsplit(self.path).path)

    do_DELETE = do_PATCH = do_PUT

    def _refuse(self, path: str) -> None:
        if path in ENDPOINTS or path in _READ_ONLY:
            send_whole(self, 405, b"405 method not allowed", TEXT_TYPE)
        else:
            send_whole(self, 404, b"404 page not found", TEXT_TYPE)

    def _body(self) -> bytes | None:
        """Return the request's body; None, with the refusal sent, when its length is not said."""
        length = self.headers.get("Content-Length") or "0"
        if length.isascii() and length.isdigit() and "Transfer-Encoding" not in self.headers:
            return self.rfile.read(int(length))
        self.close_connection = True  # where the next request begins is unknown
        send_whole(self, 411, b"411 Length Required", TEXT_TYPE)
        return None
