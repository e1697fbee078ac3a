"""Answers that a browser reads again and again, compressed if it can take that."""

from __future__ import annotations

import gzip

from quart import Response, request

LEAST = 1000  # bytes: below, the header costs what compression saves
MOST = 64 * 1024  # bytes: a screenful; a larger one would hold up the others for milliseconds


def takes_gzip() -> bool:
    return bool(request.accept_encodings["gzip"] > 0)


def pack(answer: Response, data: bytes) -> Response:
    """Return *answer*, whose body is *data*, with the body compressed where that pays."""
    answer.headers["Vary"] = "Accept-Encoding"
    if LEAST <= len(data) <= MOST and takes_gzip():
        answer.set_data(gzip.compress(data, 1, mtime=0))
        answer.headers["Content-Encoding"] = "gzip"
    return answer
