"""JSON schemas of tasks, from the structs that read and write them."""

from __future__ import annotations

from typing import Any

import msgspec

from oq.wire.answers import _StateOut, _TaskOut
from oq.wire.requests import _SERVER_FIELDS, _TaskIn


def schemas(ref_template: str) -> dict[str, Any]:
    """Return the schemas ``Task``, ``TaskSummary``, ``TaskView``, ``TaskState``, ``Attempt`` and ``NewTask``."""
    # A copy of what is read, as msgspec cannot describe a field whose default is raw JSON.
    fields = [
        (f.name, f.type) if f.required else (f.name, f.type, None) for f in msgspec.structs.fields(_TaskIn)
    ]
    new_task = msgspec.defstruct("NewTask", fields, forbid_unknown_fields=True)
    _, found = msgspec.json.schema_components((_TaskOut, _StateOut, new_task), ref_template=ref_template)
    names = {"_TaskOut": "Task", "_StateOut": "TaskState", "NewTask": "NewTask", "_AttemptOut": "Attempt"}
    renamed = {names[name]: _plain(schema, names, ref_template) for name, schema in found.items()}
    task = renamed["Task"]
    properties = dict(task["properties"])
    properties["queue_position"] = {"type": "integer", "minimum": 1}
    properties["expected_start_at"] = {"type": "string", "format": "date-time"}
    properties["waiting"] = {"$ref": ref_template.format(name="Waiting")}
    summary = {
        name: value for name, value in properties.items() if name not in ("payload", "result", "attempts")
    }
    renamed["TaskSummary"] = {**task, "title": "TaskSummary", "properties": summary}
    renamed["Task"] = {**task, "properties": properties, "required": [*task["required"], "payload"]}
    count, texts = {"type": "integer", "minimum": 0}, {"type": "string"}
    view = {
        **properties,
        "prompt": texts,
        "payload_bytes": count,
        "result_bytes": count,
        "output_chars": count,
        "thinking": texts,
        "elided": {"type": "object", "additionalProperties": count},
        "embeddings": {
            "type": "object",
            "required": ["count", "dimensions", "first"],
            "properties": {
                "count": count,
                "dimensions": count,
                "first": {"type": "array", "items": {"type": "number"}},
            },
        },
    }
    renamed["TaskView"] = {
        **task, "title": "TaskView", "properties": view, "required": [*task["required"], "payload_bytes"],
    }  # fmt: skip
    new = renamed["NewTask"]["properties"]
    renamed["NewTask"]["properties"] = {n: s for n, s in new.items() if n not in _SERVER_FIELDS}
    renamed["NewTask"]["properties"]["payload"] = {"type": "object"}
    return renamed


def _plain(value: Any, names: dict[str, str], template: str) -> Any:
    """Rename the structs and leave out what says "null": absent is how null is written."""
    if isinstance(value, list):
        return [_plain(item, names, template) for item in value]
    if not isinstance(value, dict):
        return value
    if "$ref" in value:
        for private, public in names.items():
            if value["$ref"] == template.format(name=private):
                return {"$ref": template.format(name=public)}
    if "anyOf" in value:
        options = [item for item in value["anyOf"] if item != {"type": "null"}]
        rest = {key: item for key, item in value.items() if key not in ("anyOf", "default")}
        if len(options) == 1:
            return {**rest, **_plain(options[0], names, template)}
        return {**rest, "anyOf": [_plain(item, names, template) for item in options]}
    return {
        key: names.get(item, item) if key == "title" else _plain(item, names, template)
        for key, item in value.items()
        if not (key == "default" and item is None)
    }
