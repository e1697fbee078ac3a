"""Where a model server is."""

from __future__ import annotations

import base64
import urllib.parse

OLLAMA_PORT = 11434  # Ollama's default when its address names neither a scheme nor a port


class Address:
    """Where a model server is, from what people write in OLLAMA_HOST.

    >>> Address("gpu1").url, Address("https://user:secret@gpu2/ollama/").url
    ('http://gpu1:11434', 'https://gpu2:443/ollama')
    """

    def __init__(self, text: str) -> None:
        has_scheme = "://" in text
        parts = urllib.parse.urlsplit(text if has_scheme else f"http://{text}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"not the address of a model server: {text!r}")
        self.tls = parts.scheme == "https"
        self.host = parts.hostname
        self.port = parts.port or (443 if self.tls else 80 if has_scheme else OLLAMA_PORT)
        self.prefix = parts.path.rstrip("/")
        shown = f"[{self.host}]" if ":" in self.host else self.host
        self.url = f"{parts.scheme}://{shown}:{self.port}{self.prefix}"  # without credentials: it is logged
        usual = self.port == (443 if self.tls else 80)
        self.headers = [
            (b"Host", (shown if usual else f"{shown}:{self.port}").encode()),
            (b"User-Agent", b"oq"),
        ]
        if parts.username is not None:
            pair = f"{urllib.parse.unquote(parts.username)}:{urllib.parse.unquote(parts.password or '')}"
            self.headers.append((b"Authorization", b"Basic " + base64.b64encode(pair.encode())))
