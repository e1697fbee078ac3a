"""/openapi.json describes what is really served, and the real answers fit its schemas."""

from __future__ import annotations

import json
import re
from typing import Any

from oq.config import settings_from
from oq.errors import BackendError
from oq.web.dropin import ROUTES
from oq.web.openapi import openapi_dict

from .conftest import TASK, FakeBackend, House, open_house

METHODS = {"head", "get", "post", "delete", "put", "patch"}


def described() -> set[tuple[str, str]]:
    return {
        (method.upper(), path)
        for path, item in openapi_dict()["paths"].items()
        for method in item
        if method in METHODS
    }


def served(house: House) -> set[tuple[str, str]]:
    found = set()
    for rule in house.app.url_map.iter_rules():
        path = re.sub(r"<(?:path:)?(\w+)>", r"{\1}", rule.rule)
        methods = (rule.methods or {"GET"}) - {"HEAD", "OPTIONS"}
        found |= {(method, path) for method in methods}
    return found | {(method, path) for method, path, _ in ROUTES}


async def test_every_route_is_described_and_everything_described_is_served(house: House) -> None:
    assert described() == served(house)


def test_every_route_says_which_token_it_takes() -> None:
    words = {
        f"{method.upper()} {path}": operation.get("x-scope")
        for path, item in openapi_dict()["paths"].items()
        for method, operation in item.items()
        if method in METHODS
    }
    assert words["GET /health"] is None
    assert (words["GET /api/tasks"], words["POST /api/tasks"], words["POST /api/chat"], words["DELETE /api/tasks/{id}"]) == (
        "read", "submit", "submit", "admin",
    )  # fmt: skip
    assert [route for route, word in words.items() if word is None] == [
        route for route in words if route in ("GET /", "GET /health", "GET /static/{name}")
    ]


def mismatches(value: Any, schema: dict[str, Any], where: str = "$") -> list[str]:
    """Return how *value* departs from *schema*: the part of JSON Schema that the description uses."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return mismatches(value, openapi_dict()["components"]["schemas"][name], where)
    if value is None and schema.get("nullable"):
        return []
    for word in ("anyOf", "oneOf"):
        if word in schema:
            fits = any(not mismatches(value, option, where) for option in schema[word])
            return [] if fits else [f"{where}: {value!r} fits none"]
    kinds = {
        "string": str,
        "integer": int,
        "number": (int, float),
        "boolean": bool,
        "array": list,
        "object": dict,
    }
    kind = schema.get("type")
    if kind and (not isinstance(value, kinds[kind]) or (isinstance(value, bool) and kind != "boolean")):
        return [f"{where}: {value!r} is no {kind}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{where}: {value!r} is not one of {schema['enum']}"]
    if isinstance(value, list):
        return [
            fault
            for i, item in enumerate(value)
            for fault in mismatches(item, schema.get("items", {}), f"{where}[{i}]")
        ]
    if not isinstance(value, dict):
        return []
    properties = schema.get("properties", {})
    faults = [f"{where}: {name} is missing" for name in schema.get("required", ()) if name not in value]
    for name, item in value.items():
        if name in properties:
            faults += mismatches(item, properties[name], f"{where}.{name}")
        elif isinstance(schema.get("additionalProperties"), dict):
            faults += mismatches(item, schema["additionalProperties"], f"{where}.{name}")
        elif properties:
            faults.append(f"{where}: {name} is not described")
    return faults


def check(method: str, path: str, answer: Any, body: bytes) -> None:
    operation = openapi_dict()["paths"][path][method.lower()]
    assert str(answer.status_code) in operation["responses"], (
        f"{method} {path}: {answer.status_code} is not described"
    )
    content = operation["responses"][str(answer.status_code)]["content"]
    schema = content[answer.content_type.partition(";")[0]]["schema"]
    texts = body.splitlines() if "ndjson" in answer.content_type else [body]
    for text in texts:
        if text:
            assert mismatches(json.loads(text), schema) == [], f"{method} {path}"


async def test_real_answers_fit_their_schemas(house: House) -> None:
    async def ask(method: str, path: str, value: Any = None, **parts: str) -> Any:
        headers = {} if value is None else {"Content-Type": "application/json"}
        place, _, query = path.partition("?")
        data = b"" if value is None else json.dumps(value).encode()
        real = place.format(**parts) + ("?" + query if query else "")
        answer = await house.client.open(real, method=method, data=data, headers=headers)
        body = await answer.get_data()
        check(method, place, answer, body)
        return json.loads(body) if "ndjson" not in answer.content_type else None

    await house.queue.pause()
    task = {
        **TASK,
        "tags": ["a"],
        "options": {"seed": 1},
        "keep_alive": "5m",
        "timeout": 60,
        "priority": "high",
    }
    id = (await ask("POST", "/api/tasks", task))["task_id"]
    later = (await ask("POST", "/api/tasks", {**TASK, "delay": "1h"}))["task_id"]
    await ask("GET", "/api/tasks/{id}", id=id)
    await ask("GET", "/api/tasks/{id}", id=later)
    await ask("GET", "/api/tasks/{id}/result", id=id)
    await ask("POST", "/api/tasks/{id}/priority", {"priority": 3}, id=id)
    await ask("GET", "/api/status")
    await ask("POST", "/api/queue/resume")
    await ask("GET", "/api/tasks/{id}/result?wait=30", id=id)
    for path in ("/api/tasks", "/api/hosts", "/health", "/api/status", "/openapi.json"):
        await ask("GET", path)
    await ask("GET", "/api/tasks/{id}/stream", id=id)
    await ask("POST", "/api/tasks/batch", [TASK, {}])
    await ask("POST", "/api/tasks/batch?atomic=true", [TASK, {}])
    await ask("POST", "/api/tasks/bulk", {"action": "cancel", "ids": [id, "nothing"]})
    await ask("POST", "/api/tasks/{id}/cancel", id=id)
    await ask("POST", "/api/tasks/{id}/cancel", id=later)
    await ask("POST", "/api/tasks/{id}/retry", id=id)
    await ask("GET", "/api/tasks/{id}/result?wait=30", id=id)
    await ask("DELETE", "/api/tasks/{id}", id=id)
    await ask("DELETE", "/api/tasks/{id}", id=id)
    await ask("POST", "/api/tasks", {"type": "x"})
    await ask("GET", "/api/tasks?limit=x")
    await ask("POST", "/api/queue/pause")
    await ask("POST", "/api/queue/drain?grace=0")
    await ask("GET", "/health")
    await ask("POST", "/api/tasks", TASK)


async def test_a_failed_task_fits_its_schema(autojump_clock: Any) -> None:
    backend = FakeBackend()
    backend.error = BackendError("no", "model_not_found")
    async with open_house(settings_from(), backend) as house:
        id = await house.submit()
        answer = await house.client.get(f"/api/tasks/{id}/result?wait=30")
        check("GET", "/api/tasks/{id}/result", answer, await answer.get_data())
