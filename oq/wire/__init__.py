"""JSON, both ways: the only place that spells its names.

`requests` and `queries` read what clients send, strictly; `answers` writes what the server says; `remote` is what a
client reads of it, leniently; `scalars` are priorities, durations and times.
"""

from __future__ import annotations

from oq.wire.answers import (
    batch_json,
    bulk_json,
    changed_json,
    error_json,
    event_json,
    prompt_of,
    resync_json,
    stream_line,
    submitted_json,
    task_json,
    tasks_json,
)
from oq.wire.monitor import frame_json, patch_of, progress_patch, summary_json, waiting_dict
from oq.wire.numbers import (
    counts_dict,
    host_dict,
    hosts_json,
    models_json,
    status_dict,
    status_json,
    system_dict,
)
from oq.wire.problems import NotJson
from oq.wire.queries import VIEWS, BulkRequest, Watch, parse_bulk, parse_query, parse_watch, query_parameters
from oq.wire.remote import (
    BatchAnswer,
    BatchItem,
    BulkAnswer,
    RemoteAttempt,
    RemoteError,
    RemoteEvent,
    RemoteHost,
    RemoteLine,
    RemoteStats,
    RemoteTask,
    Submitted,
    decode_batch,
    decode_bulk,
    decode_error,
    decode_event,
    decode_hosts,
    decode_line,
    decode_status,
    decode_submitted,
    decode_task,
    decode_tasks,
)
from oq.wire.requests import (
    LineParser,
    fingerprint,
    parse_lines,
    parse_priority_body,
    parse_task,
    parse_tasks,
    spec_json,
)
from oq.wire.scalars import (
    check_text,
    optional_time,
    parse_duration,
    parse_priority,
    parse_time,
    priority_name,
    rfc3339,
)
from oq.wire.schemas import schemas

__all__ = [
    "VIEWS",
    "BatchAnswer", "BatchItem", "BulkAnswer", "BulkRequest", "LineParser", "NotJson", "RemoteAttempt",
    "RemoteError", "RemoteEvent", "RemoteHost", "RemoteLine", "RemoteStats", "RemoteTask", "Submitted",
    "Watch", "batch_json", "bulk_json", "changed_json", "check_text", "counts_dict", "decode_batch", "decode_bulk",
    "decode_error", "decode_event", "decode_hosts", "decode_line", "decode_status", "decode_submitted",
    "decode_task", "decode_tasks", "error_json", "event_json", "fingerprint", "frame_json", "host_dict", "hosts_json", "models_json",
    "optional_time", "parse_bulk", "parse_duration", "parse_lines", "parse_priority", "parse_priority_body", "parse_query",
    "parse_task", "parse_tasks", "parse_time", "parse_watch", "patch_of", "priority_name", "progress_patch", "prompt_of",
    "query_parameters", "resync_json", "rfc3339", "schemas", "spec_json", "status_dict", "status_json",
    "stream_line", "submitted_json", "summary_json", "system_dict", "task_json", "tasks_json", "waiting_dict",
]  # fmt: skip
