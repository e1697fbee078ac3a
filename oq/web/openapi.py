"""/openapi.json: what is really served. Schemas of tasks come from the very structs that write them."""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec

from oq.core.events import EventType
from oq.core.model import Status
from oq.core.waiting import TEXTS
from oq.web.errors import STATUS
from oq.web.openapi_dropin import DROPIN_PATHS
from oq.web.scopes import needed
from oq.web.series import FIELDS, WINDOWS
from oq.wire import schemas
from oq.wire.queries import ACTIONS, LIMIT_DEFAULT, LIMIT_MAX, SORTS, VIEWS

Json = dict[str, Any]

SECURITY = (
    "Where a server asks for tokens. x-scope of a route is what its token must be allowed at least: read, submit or admin, "
    "each including those before it."
)

_REF = "#/components/schemas/{name}"
_TEXT: Json = {"type": "string"}
_COUNT: Json = {"type": "integer", "minimum": 0}
_TIME: Json = {"type": "string", "format": "date-time"}
_FLAG: Json = {"type": "boolean"}


def _ref(name: str) -> Json:
    return {"$ref": _REF.format(name=name)}


def _object(required: str, **properties: Json) -> Json:
    return {"type": "object", "required": required.split(), "properties": properties}


def _list(item: Json) -> Json:
    return {"type": "array", "items": item}


_ERROR = _object("error code", error=_TEXT, code=_TEXT, field=_TEXT)
_SCHEMAS: Json = {
    "Error": _ERROR,
    "Submitted": _object("task_id status", task_id=_TEXT, status={"type": "string", "enum": list(map(str, Status))}),
    "BatchItem": _object("index", index=_COUNT, task_id=_TEXT, error=_TEXT, code=_TEXT, field=_TEXT),
    "BatchAnswer": _object(
        "submitted failed items", submitted=_COUNT, failed=_COUNT, items=_list(_ref("BatchItem")),
        error=_TEXT, code=_TEXT,
    ),
    "BulkAnswer": _object(
        "matched done skipped errors", matched=_COUNT, done=_COUNT, skipped=_COUNT,
        errors=_list(_object("id error code", id=_TEXT, error=_TEXT, code=_TEXT)),
    ),
    "Deleted": _object("id deleted", id=_TEXT, deleted=_FLAG),
    "Paused": _object("paused", paused=_FLAG),
    "Draining": _object("draining", draining=_FLAG),
    "Host": _object(
        "name url slots busy up models", name=_TEXT, url=_TEXT, slots=_COUNT, busy=_COUNT, up=_FLAG,
        models=_list(_TEXT), version=_TEXT, available=_list(_TEXT), loaded=_list(_TEXT), error=_TEXT, checked_at=_TIME,
    ),
    "Model": _object("name hosts loaded", name=_TEXT, hosts=_list(_TEXT), loaded=_list(_TEXT)),
    "Waiting": _object(
        "reason text", reason={"type": "string", "enum": list(TEXTS)}, text=_TEXT, until=_TIME, error=_TEXT,
        hosts=_list(_TEXT),
    ),
    "Series": _object(
        "window step " + " ".join(FIELDS), window={"type": "string", "enum": list(WINDOWS)}, step=_COUNT,
        **{name: _list({"type": "number", "nullable": True}) for name in FIELDS},
    ),
    "Health": _object(
        "status live ready storage_ok draining paused", status=_TEXT, live=_FLAG, ready=_FLAG, storage_ok=_FLAG,
        draining=_FLAG, paused=_FLAG,
    ),
    "Status": _object(
        "pending_tasks running_tasks completed_tasks failed_tasks cancelled_tasks total_tasks queues_by_priority "
        "workers_active workers_idle scheduled_tasks paused draining storage_ok started_at finished_since_start hosts",
        pending_tasks=_COUNT, running_tasks=_COUNT, completed_tasks=_COUNT, failed_tasks=_COUNT,
        cancelled_tasks=_COUNT, total_tasks=_COUNT, scheduled_tasks=_COUNT,
        queues_by_priority={"type": "object", "additionalProperties": _COUNT},
        workers_active=_COUNT, workers_idle=_COUNT,
        by_type={"type": "object", "additionalProperties": _COUNT},
        by_model={"type": "object", "additionalProperties": _COUNT},
        paused=_FLAG, draining=_FLAG, storage_ok=_FLAG,
        oldest_waiting_at={**_TIME, "nullable": True}, started_at=_TIME, finished_since_start=_COUNT,
        hosts=_list(_ref("Host")),
    ),
    "Event": _object(
        "seq type timestamp", seq=_COUNT, type={"type": "string", "enum": list(map(str, EventType))},
        timestamp=_TIME, task_id=_TEXT, status=_TEXT, task=_ref("TaskState"), subject=_TEXT, detail=_TEXT,
    ),
    "StreamLine": _object(
        "type", type={"type": "string", "enum": ["text", "restart", "end"]}, kind=_TEXT, attempt=_COUNT,
        offset=_COUNT, text=_TEXT, task=_ref("Task"), error=_TEXT, code=_TEXT,
    ),
    "Priority": _object("priority", priority={"oneOf": [{"type": "integer"}, {"type": "string"}]}),
    "Bulk": _object(
        "action", action={"type": "string", "enum": list(ACTIONS)}, ids=_list(_TEXT), filter={"type": "object"},
        expect=_COUNT, priority={"oneOf": [{"type": "integer"}, {"type": "string"}]},
    ),
}  # fmt: skip


def _content(schema: Json, kind: str = "application/json") -> Json:
    return {kind: {"schema": schema}}


def _answers(good: dict[int, tuple[str, Json]], *bad: int) -> Json:
    found: Json = {str(s): {"description": text, "content": content} for s, (text, content) in good.items()}
    names = {
        400: "not JSON", 404: "no such task", 405: "wrong method", 409: "the task's state does not allow it",
        413: "too large", 415: "not JSON by its Content-Type", 422: "wrong content", 429: "full, or too many wrong tokens; see Retry-After",
        503: "busy, draining, or the disk refuses writes; see Retry-After", 507: "the disk is full",
    }  # fmt: skip
    for status in (*bad, 401, 403):
        text = (
            names.get(status)
            or {401: "no or wrong token", 403: "foreign Host or Origin, or the token's scope is too low"}[
                status
            ]
        )
        found.setdefault(str(status), {"description": text, "content": _content(_ref("Error"))})
    return found


def _parameter(name: str, schema: Json, text: str, where: str = "query") -> Json:
    found = {"name": name, "in": where, "schema": schema, "description": text}
    return found | ({"required": True} if where == "path" else {})


_ID = _parameter("id", _TEXT, "the task's id, or a unique beginning or end of it", "path")
_LIST_PARAMETERS = [
    *(
        _parameter(name, _list(_TEXT), "repeat it, or separate by commas: any of them")
        for name in ("status", "type", "priority", "model", "host", "tag")
    ),
    _parameter(
        "q", _TEXT, "text in the prompt's beginning or the model's name, or the beginning or end of an id"
    ),
    _parameter(
        "limit", {"type": "integer", "default": LIMIT_DEFAULT, "maximum": LIMIT_MAX}, "tasks in one answer"
    ),
    _parameter("offset", _COUNT, "tasks to skip"),
    _parameter("cursor", _TEXT, "the id of the last task of the page before"),
    _parameter("anchor", _TEXT, "the id of the newest task to show: later ones do not move the rows"),
    _parameter("sort", {"type": "string", "enum": list(SORTS)}, "the order"),
]
_CHANGE = (404, 409, 429, 503, 507)
_WRITE = (400, 413, 415, 422, 429, 503, 507)


def _task_change(summary: str, schema: str = "TaskState", **more: Any) -> Json:
    good = {200: ("done, and on disk", _content(_ref(schema)))}
    return {"summary": summary, "parameters": [_ID], "responses": _answers(good, *_CHANGE), **more}


def _body(schema: Json) -> Json:
    return {"required": True, "content": _content(schema)}


def _paths() -> Json:
    task_get: dict[int, tuple[str, Json]] = {200: ("the task", _content(_ref("Task")))}
    streamed = {
        **_content(_ref("StreamLine"), "application/x-ndjson"),
        **_content(_ref("StreamLine"), "text/event-stream"),
    }
    key = _parameter("Idempotency-Key", _TEXT, "the same key and body again are the same task", "header")
    return {
        "/": {"get": {"summary": "The monitor, or a line of text", "responses": {
            "200": {"description": "by Accept", "content": {"text/html": {}, "text/plain": {}}}}}},
        "/static/{name}": {"get": {
            "summary": "A file of the monitor", "parameters": [_parameter("name", _TEXT, "its path", "path")],
            "responses": {"200": {"description": "the file"}, "404": {"description": "no such file"}}}},
        "/ws": {"get": {
            "summary": "Live updates over a WebSocket", "responses": {"101": {"description": "the WebSocket opens"}}}},
        "/api/tasks": {
            "get": {
                "summary": "List tasks", "parameters": [*_LIST_PARAMETERS, _parameter(
                    "X-Event-Id", _TEXT, "an answer of a moment ago will do if it contains this event", "header")],
                "responses": _answers({200: ("a page", _content(_list(_ref("TaskSummary"))))}, 422),
            },
            "post": {
                "summary": "Submit one task; answered when it is on disk", "parameters": [key],
                "requestBody": _body(_ref("NewTask")),
                "responses": _answers({201: ("it is on disk", _content(_ref("Submitted")))}, *_WRITE, 409),
            },
        },
        "/api/tasks/batch": {"post": {
            "summary": "Submit many tasks",
            "parameters": [_parameter("atomic", _FLAG, "all or none"), key],
            "requestBody": {"required": True, "content": {
                **_content(_list(_ref("NewTask"))), **_content(_ref("NewTask"), "application/x-ndjson")}},
            "responses": _answers({
                200: ("each item's id, or what is wrong with it", _content(_ref("BatchAnswer"))),
                422: ("atomic, and an item is wrong: none was taken", _content(_ref("BatchAnswer"))),
            }, *_WRITE),
        }},
        "/api/tasks/bulk": {"post": {
            "summary": "Cancel, retry, delete or reprioritize many tasks", "requestBody": _body(_ref("Bulk")),
            "responses": _answers({200: ("how many", _content(_ref("BulkAnswer")))}, *_WRITE, 409),
        }},
        "/api/tasks/{id}": {
            "get": {
                "summary": "One task",
                "parameters": [_ID, _parameter(
                    "view", {"type": "string", "enum": list(VIEWS), "default": "whole"}, "summary: without what is large"
                )],
                "responses": _answers(
                    {200: ("the task", _content({"oneOf": [_ref("Task"), _ref("TaskView")]}))}, 404, 409, 422
                ),
            },
            "delete": _task_change("Delete a finished task", "Deleted"),
        },
        "/api/tasks/{id}/result": {"get": {
            "summary": "Wait for the end",
            "parameters": [_ID, _parameter("wait", _TEXT, "seconds or a duration, at most 5 minutes")],
            "responses": _answers({**task_get, 202: ("not finished yet", _content(_ref("Task")))}, 404, 409, 422),
        }},
        "/api/tasks/{id}/stream": {"get": {
            "summary": "The text so far, and then live",
            "parameters": [_ID, _parameter("offset", _COUNT, "characters to leave out at the beginning")],
            "responses": _answers({200: ("NDJSON, or server-sent events by Accept", streamed)}, 404, 409, 422),
        }},
        "/api/tasks/{id}/cancel": {"post": _task_change("Cancel a task that is not finished")},
        "/api/tasks/{id}/retry": {"post": _task_change("Run a finished task again")},
        "/api/tasks/{id}/priority": {"post": {
            **_task_change("Change the priority of a waiting task", requestBody=_body(_ref("Priority"))),
            "responses": _answers({200: ("done", _content(_ref("TaskState")))}, *_WRITE, *_CHANGE),
        }},
        "/api/status": {"get": {
            "summary": "The queue in numbers", "responses": _answers({200: ("from memory", _content(_ref("Status")))})}},
        "/api/hosts": {"get": {
            "summary": "The model servers",
            "responses": _answers({200: ("as they say themselves", _content(_list(_ref("Host"))))})}},
        "/api/models": {"get": {
            "summary": "All models of the model servers",
            "responses": _answers({200: ("by name", _content(_list(_ref("Model"))))}, 422)}},
        "/api/series": {"get": {
            "summary": "The queue over time, in columns",
            "parameters": [_parameter("window", {"type": "string", "enum": list(WINDOWS), "default": "5m"}, "how far back")],
            "responses": _answers({200: ("oldest first", _content(_ref("Series")))}, 422)}},
        "/api/tasks/{id}/payload": {"get": {
            "summary": "The exact payload as it was submitted", "parameters": [_ID],
            "responses": _answers({200: ("its bytes", _content({"type": "object"}))}, 404, 409, 422)}},
        "/api/tasks/{id}/result.json": {"get": {
            "summary": "The exact final JSON of the model server", "parameters": [_ID],
            "responses": _answers({200: ("its bytes", _content({"type": "object"}))}, 404, 409, 422)}},
        "/api/events": {"get": {
            "summary": "Server-sent events",
            "parameters": [
                _parameter("type", _list(_TEXT), "only these"),
                _parameter("Last-Event-ID", _TEXT, "go on after this one", "header"),
            ],
            "responses": _answers({200: ("for ever", _content(_ref("Event"), "text/event-stream"))}, 422, 429),
        }},
        "/api/queue/pause": {"post": {
            "summary": "Start no more tasks", "responses": _answers({200: ("", _content(_ref("Paused")))}, 503, 507)}},
        "/api/queue/resume": {"post": {
            "summary": "Go on", "responses": _answers({200: ("", _content(_ref("Paused")))}, 503, 507)}},
        "/api/queue/drain": {"post": {
            "summary": "Take and start nothing more; answered when nothing runs",
            "parameters": [_parameter("grace", _TEXT, "seconds or a duration, then what runs goes back to pending")],
            "responses": _answers({200: ("", _content(_ref("Draining")))}, 422, 503)}},
        "/health": {"get": {
            "summary": "Live and ready",
            "responses": {
                "200": {"description": "ready", "content": _content(_ref("Health"))},
                "503": {"description": "draining, or the disk refuses writes", "content": _content(_ref("Health"))},
            }}},
        "/metrics": {"get": {
            "summary": "Prometheus metrics",
            "responses": {"200": {"description": "text", "content": {"text/plain": {}}}}}},
        "/openapi.json": {"get": {
            "summary": "This description",
            "responses": {"200": {"description": "OpenAPI 3", "content": _content({"type": "object"})}}}},
    }  # fmt: skip


def _with_scopes(paths: Json) -> Json:
    """Say of each route which token it takes: OpenAPI 3.0 has scopes for OAuth alone, so they are in ``x-scope``."""
    for path, item in paths.items():
        for method, operation in item.items():
            scope = needed(method.upper(), path)
            operation["security"] = [] if scope is None else [{}, {"token": []}]
            if scope is not None:
                operation["x-scope"] = scope.word
    return paths


@cache
def openapi_dict() -> Json:
    """Return the whole description."""
    return {
        "openapi": "3.0.3",
        "info": {"title": "oq (Ollama Queue)", "version": _version(), "license": {"name": "MIT"}},
        "paths": _with_scopes(_paths() | DROPIN_PATHS),
        "components": {
            "schemas": {**schemas(_REF), **_SCHEMAS},
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": SECURITY}},
        },
        "x-error-codes": {kind.code: status for kind, status in STATUS.items()},
    }


@cache
def openapi_json() -> bytes:
    return msgspec.json.encode(openapi_dict())


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    for name in ("ollama-queue", "oq"):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return "0"
