"""Requests to a model server as a plain client makes them, and a look at its processes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from waiting import DEADLINE

SHORT = {"num_predict": 8, "temperature": 0, "seed": 1}
# An answer that takes minutes, up to Ollama's limit of 10 contexts: the grammar lets it end no sooner, and its
# letters alternate, so that it is not cut off for its repetitions.
ENDLESS = {
    "prompt": "Write letters.",
    "options": {"num_predict": -1, "temperature": 0, "seed": 1},
    "format": {"type": "string", "pattern": "^(([a-m] [n-z] ){50}!){1900}$"},
}


def post(url: str, path: str, body: object) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(url + path, content=content, timeout=DEADLINE)


def generate(url: str, model: str = "smollm2", **more: object) -> httpx.Response:
    """Ask for a short answer, in one piece."""
    return post(
        url, "/api/generate", {"model": model, "prompt": "Hi", "stream": False, "options": SHORT} | more
    )


@contextmanager
def endless(url: str, model: str = "smollm2") -> Iterator[Iterator[dict[str, Any]]]:
    """Ask for an endless answer; give its lines, of which the first has come. The block's end hangs up."""
    body = {"model": model} | ENDLESS
    with httpx.stream("POST", f"{url}/api/generate", json=body, timeout=DEADLINE) as answer:
        lines = (json.loads(line) for line in answer.iter_lines())
        first = next(lines)
        assert first["done"] is False
        yield lines


def loaded(url: str) -> list[str]:
    """Return the names of the models that are loaded."""
    return [model["name"] for model in httpx.get(f"{url}/api/ps", timeout=DEADLINE).json()["models"]]


def children(pid: int) -> list[int]:
    """Return the living processes that *pid* started."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            state, parent = _stat(int(folder.name))
            if parent == pid and state != "Z":
                found.append(int(folder.name))
    return found


def is_alive(pid: int) -> bool:
    return _stat(pid)[0] not in ("", "Z")


def _stat(pid: int) -> tuple[str, int]:
    """Return state and parent of a process; ("", 0) when there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "", 0
    return fields[0], int(fields[1])
