"""One request and its answer: a JSON object, or lines of JSON as they come."""

from __future__ import annotations

import json
import time
from http.server import BaseHTTPRequestHandler

from oq.demo.caller import Caller
from oq.demo.models import Json
from oq.demo.refusals import ApiError

JSON_TYPE = "application/json; charset=utf-8"
LINES_TYPE = "application/x-ndjson"


class Exchange:
    """What an endpoint has to do with. Times are `time.perf_counter_ns()`."""

    def __init__(self, handler: BaseHTTPRequestHandler) -> None:
        self._handler = handler
        self._begun = False
        self.caller = Caller(handler.connection)
        self.request: Json = {}
        self.streams = False  # whether the answer goes out in lines; endpoints set it
        self.generating = False
        self.arrived_at = time.perf_counter_ns()

    def answer(self, value: Json) -> None:
        send_whole(self._handler, 200, compact(value))

    def line(self, value: Json) -> None:
        """Send one line of the answer."""
        data = compact(value) + b"\n"
        if not self._begun:
            self._begun = True
            self._handler.send_response(200)
            self._handler.send_header("Content-Type", LINES_TYPE)
            self._handler.send_header("Transfer-Encoding", "chunked")
            self._handler.end_headers()
        self._handler.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def end(self) -> None:
        """Say that there are no more lines."""
        self._handler.wfile.write(b"0\r\n\r\n")

    def refuse(self, error: ApiError) -> None:
        """Answer with the error; after the first line only a line can still tell it."""
        if self._begun:
            self.line({"error": error.message})
            self.end()
            return
        # Ollama's two ways to send an error differ in this.
        content_type = "application/json" if self.generating and self.streams else JSON_TYPE
        send_whole(self._handler, error.status, compact({"error": error.message}), content_type)


def compact(value: object) -> bytes:
    """Return JSON as Ollama writes it; half a surrogate pair, which UTF-8 cannot say, becomes a question mark."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


def send_whole(
    handler: BaseHTTPRequestHandler, status: int, body: bytes, content_type: str = JSON_TYPE
) -> None:
    handler.send_response(status)
    handler.send_header("Content-Type", content_type)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    if handler.command != "HEAD":
        handler.wfile.write(body)
