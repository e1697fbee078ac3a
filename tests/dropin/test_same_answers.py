"""The same requests to the model server directly and through oq: the same status, type of content, fields and types.

What differs on purpose is in docs/reference/dropin.md.
"""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from .conftest import Place

SHORT = {"num_predict": 4, "temperature": 0, "seed": 1}
HI = [{"role": "user", "content": "Hi"}]
CHAT: dict[str, Any] = {"model": "smollm2", "messages": HI, "options": SHORT}
GENERATE: dict[str, Any] = {"model": "smollm2", "prompt": "Once", "options": SHORT}
EMBED: dict[str, Any] = {"model": "smollm2-embed", "input": "Hi"}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}

REQUESTS: list[tuple[str, str, Any]] = [
    ("POST", "/api/chat", CHAT),
    ("POST", "/api/chat", {**CHAT, "stream": False}),
    ("POST", "/api/chat", {**CHAT, "stream": True}),
    ("POST", "/api/chat", {**CHAT, "messages": [{"role": "system", "content": "Be brief"}, *HI]}),
    ("POST", "/api/chat", {**CHAT, "system": "not a field of chat", "stream": False}),
    ("POST", "/api/chat", {**CHAT, "format": "json", "stream": False}),
    (
        "POST",
        "/api/chat",
        {**CHAT, "format": SCHEMA, "stream": False, "options": {**SHORT, "num_predict": 20}},
    ),
    ("POST", "/api/chat", {**CHAT, "keep_alive": "5m", "unknown": [1, {"a": None}]}),
    ("POST", "/api/chat", {**CHAT, "options": {**SHORT, "unknown": 1}}),
    ("POST", "/api/chat", {**CHAT, "think": False}),
    ("POST", "/api/chat", {**CHAT, "think": True}),
    ("POST", "/api/chat", {**CHAT, "think": "sometimes"}),
    ("POST", "/api/chat", {**CHAT, "tools": [{"type": "function", "function": {"name": "f"}}]}),
    ("POST", "/api/chat", {**CHAT, "messages": [{"role": "user", "content": "See", "images": ["aGk="]}]}),
    ("POST", "/api/chat", {**CHAT, "messages": []}),
    ("POST", "/api/chat", {"model": "smollm2"}),
    ("POST", "/api/chat", {"model": "no-such-model", "messages": HI}),
    ("POST", "/api/chat", {"model": "no-such-model", "messages": HI, "stream": False}),
    ("POST", "/api/chat", {"messages": HI}),
    ("POST", "/api/chat", {"model": "", "messages": HI}),
    ("POST", "/api/chat", {"model": 5, "messages": HI}),
    ("POST", "/api/chat", {**CHAT, "messages": "Hi"}),
    ("POST", "/api/chat", {**CHAT, "options": {"seed": "x"}}),
    ("POST", "/api/chat", {**CHAT, "options": {"temperature": "hot"}, "stream": False}),
    ("POST", "/api/chat", {**CHAT, "keep_alive": "soon"}),
    ("POST", "/api/chat", {**CHAT, "model": "smollm2-embed"}),
    ("POST", "/api/generate", GENERATE),
    ("POST", "/api/generate", {**GENERATE, "stream": False}),
    ("POST", "/api/generate", {**GENERATE, "raw": True, "stream": False}),
    ("POST", "/api/generate", {**GENERATE, "raw": True, "system": "x"}),
    ("POST", "/api/generate", {**GENERATE, "system": "Be brief", "format": "json"}),
    ("POST", "/api/generate", {**GENERATE, "format": "xml"}),
    ("POST", "/api/generate", {**GENERATE, "suffix": "end"}),
    ("POST", "/api/generate", {"model": "smollm2"}),
    ("POST", "/api/generate", {"model": "no-such-model", "prompt": "x"}),
    ("POST", "/api/generate", {}),
    ("POST", "/api/embed", EMBED),
    ("POST", "/api/embed", {**EMBED, "input": ["a", "b"], "dimensions": 8}),
    ("POST", "/api/embed", {**EMBED, "input": []}),
    ("POST", "/api/embed", {**EMBED, "input": 5}),
    ("POST", "/api/embed", {"model": "smollm2", "input": "Hi"}),
    ("POST", "/api/embed", {"model": "no-such-model", "input": "Hi"}),
    ("POST", "/api/show", {"model": "smollm2"}),
    ("POST", "/api/show", {"model": "no-such-model"}),
    ("GET", "/api/tags", None),
    ("GET", "/api/version", None),
    ("GET", "/", None),
    ("GET", "/api/chat", None),
    ("POST", "/api/generate", {"model": "smollm2", "keep_alive": 0}),
]


def shape(value: Any) -> Any:
    """Return the fields and types of a JSON value."""
    if isinstance(value, dict):
        return {name: shape(item) for name, item in value.items()}
    if isinstance(value, list):
        return sorted({json.dumps(shape(item), sort_keys=True) for item in value})
    return "number" if isinstance(value, float) else type(value).__name__


def shapes(answer: httpx.Response) -> Any:
    """Return what must be the same: everything of an error, the shape of all else."""
    if answer.status_code >= 400 or not answer.headers["content-type"].startswith("application/"):
        return answer.text
    lines = [shape(json.loads(line)) for line in answer.text.splitlines()]
    return {"first": lines[0], "last": lines[-1], "inner": sorted({json.dumps(line) for line in lines[:-1]})}


@pytest.mark.slow
async def test_the_same_requests_have_the_same_answers(real: Place, model_server: str) -> None:
    different = []
    for method, path, body in REQUESTS:
        content = None if body is None else json.dumps(body).encode()
        direct = await real.client.request(method, f"{model_server}{path}", content=content)
        through = await real.client.request(method, path, content=content)
        for what, one, other in (
            ("status", direct.status_code, through.status_code),
            ("content-type", direct.headers["content-type"], through.headers["content-type"]),
            ("answer", shapes(direct), shapes(through)),
        ):
            if one != other:
                different.append(f"{method} {path} {body}: {what} {one!r} directly, {other!r} through oq")
    assert different == []
    assert len(REQUESTS) >= 40
