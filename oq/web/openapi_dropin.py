"""The OpenAPI description of the APIs of Ollama and OpenAI: which routes there are, and what each is here.

Their requests and answers are described by their makers; only what oq adds is described in full.
"""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]

_OBJECT: Json = {"type": "object"}
_TEXT: Json = {"type": "string"}
_HEADERS = (
    ("X-Queue-Priority", "low, normal, high, critical, or 0 to 1000"),
    (
        "X-Queue-Guard",
        "report, retry or fail: what to do about an answer that is cut or not the JSON asked for",
    ),
    ("X-Client-ID", "who calls: a tag, and the name of a client in the settings"),
    ("Idempotency-Key", "the same key and request again are the same task"),
    ("Prefer", "respond-async: answer 202 with the task's URL at once"),
)


def _content(*kinds: str) -> Json:
    return {kind: {"schema": _OBJECT} for kind in kinds}


def _answers(kinds: tuple[str, ...], *bad: int) -> Json:
    found: Json = {"200": {"description": "as the API answers", "content": _content(*kinds)}}
    for status in (*bad, 401, 403):
        found[str(status)] = {
            "description": "an error in the API's own form",
            "content": _content("application/json"),
        }
    return found


def _queued(summary: str, *kinds: str) -> Json:
    answers = _answers(
        ("application/json", *kinds), 400, 404, 409, 413, 422, 429, 499, 500, 502, 503, 504, 507
    )
    answers["202"] = {
        "description": "asked for with Prefer: respond-async", "content": {"application/json": {"schema": {
            "type": "object", "required": ["task_id", "url"], "properties": {"task_id": _TEXT, "url": _TEXT}}}},
    }  # fmt: skip
    return {
        "summary": summary,
        "parameters": [
            {"name": name, "in": "header", "schema": _TEXT, "description": text} for name, text in _HEADERS
        ],
        "requestBody": {"required": True, "content": _content("application/json")},
        "responses": answers,
    }


def _direct(
    summary: str, *names: str, body: str | None = None, kinds: tuple[str, ...] = ("application/json",)
) -> Json:
    found: Json = {"summary": summary, "responses": _answers(kinds, 400, 404, 409, 413, 429, 502, 503, 507)}
    if names:
        found["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": _TEXT, "description": f"the {name}"}
            for name in names
        ]
    if body is not None:
        found["requestBody"] = {"required": True, "content": _content(body)}
    return found


_NDJSON = "application/x-ndjson"
_JSON = "application/json"
_BYTES = "application/octet-stream"

DROPIN_PATHS: Json = {
    "/api/chat": {"post": _queued("Ollama's chat, queued", _NDJSON)},
    "/api/generate": {"post": _queued("Ollama's generate, queued", _NDJSON)},
    "/api/embed": {"post": _queued("Ollama's embed, queued")},
    "/api/embeddings": {"post": _queued("Ollama's older embeddings, queued")},
    "/api/tags": {"get": _direct("The models of the hosts")},
    "/api/ps": {"get": _direct("The models that are loaded on the hosts")},
    "/api/version": {"get": _direct("The version of the first host that answers")},
    "/api/show": {"post": _direct("A model, by the first host that has it", body=_JSON)},
    "/api/pull": {"post": _direct("Passed on to a host", body=_JSON, kinds=(_JSON, _NDJSON))},
    "/api/push": {"post": _direct("Passed on to a host", body=_JSON, kinds=(_JSON, _NDJSON))},
    "/api/create": {"post": _direct("Passed on to a host", body=_JSON, kinds=(_JSON, _NDJSON))},
    "/api/copy": {"post": _direct("Passed on to a host", body=_JSON)},
    "/api/delete": {"delete": _direct("Passed on to a host", body=_JSON)},
    "/api/blobs/{digest}": {
        "head": _direct("Passed on to a host", "digest"),
        "post": _direct("Passed on to a host, of any size", "digest", body=_BYTES),
    },
    "/v1/chat/completions": {"post": _queued("OpenAI's chat completions, queued", "text/event-stream")},
    "/v1/completions": {"post": _queued("OpenAI's completions, queued", "text/event-stream")},
    "/v1/embeddings": {"post": _queued("OpenAI's embeddings, queued")},
    "/v1/models": {"get": _direct("The models of the hosts, in OpenAI's form")},
    "/v1/models/{id}": {"get": _direct("One model, in OpenAI's form", "id")},
    "/v1/files": {
        "get": _direct("The files for batches and their results"),
        "post": _direct("Upload a file for a batch", body="multipart/form-data"),
    },
    "/v1/files/{id}": {"get": _direct("One file", "id"), "delete": _direct("Delete a file", "id")},
    "/v1/files/{id}/content": {"get": _direct("The bytes of a file", "id", kinds=(_BYTES,))},
    "/v1/batches": {
        "get": _direct("The batches"),
        "post": _direct("Begin a batch", body=_JSON),
    },
    "/v1/batches/{id}": {"get": _direct("One batch", "id")},
    "/v1/batches/{id}/cancel": {"post": _direct("Cancel a batch", "id")},
}
