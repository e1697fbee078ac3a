"""`oq batch` for the lines of an OpenAI batch: the server runs them, this brings the file there and the results back."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any, NoReturn

import click
import msgspec

from oq.cli import exits
from oq.cli.batch_run import Fields, Run
from oq.cli.output import progress
from oq.cli.session import Session
from oq.errors import InvalidTask, OqError, TaskFailed

LIST_MAX = 10_000  # of one page: more files or batches than a server keeps by its settings
POLL_SECONDS = 1.0
OVER = ("completed", "failed", "expired", "cancelled")
RUN = "oq_run"  # the metadata that names the run
_decode = msgspec.json.decode


def is_openai_batch(tasks: Sequence[Fields | InvalidTask]) -> bool:
    """Return whether these are an OpenAI batch's lines rather than tasks."""
    first = next((task for task in tasks if isinstance(task, dict)), {})
    return "url" in first and "body" in first


def run_openai_batch(session: Session, tasks: Sequence[Fields | InvalidTask], run: Run) -> int:
    """Have the server run the batch, write its results in the order of the lines; return the exit code."""
    wrong = next((task for task in tasks if isinstance(task, InvalidTask)), None)
    if wrong is not None:
        raise wrong
    lines = [task for task in tasks if isinstance(task, dict)]
    if run.kept.batch is None:
        run.kept.batch = _begun(session, run) or _begin(session, lines, run)
        run.keep()
    session.say(f"batch {run.kept.batch} of {len(lines)} requests")
    batch = _wait(session, run.kept.batch, len(lines))
    if batch["status"] == "failed":
        _complain(batch, run)
    results: dict[str, bytes] = {}
    for name in ("output_file_id", "error_file_id"):
        if batch.get(name):
            body = session.client.request("GET", f"/v1/files/{batch[name]}/content").body
            results |= {_name_of(line): line for line in body.splitlines()}
    with run.part.open("wb") as part:
        for line in lines:
            part.write(results[_decode(line["custom_id"])] + b"\n")
    run.finish()
    _tidy_up(session, batch)
    return exits.TASK_FAILED if batch.get("error_file_id") else exits.OK


def _begun(session: Session, run: Run) -> str | None:
    """Return the batch that this run has begun before, should the answer have been lost."""
    found = _decode(session.client.request("GET", f"/v1/batches?limit={LIST_MAX}").body)["data"]
    return next((one["id"] for one in found if (one.get("metadata") or {}).get(RUN) == run.kept.run), None)


def _begin(session: Session, lines: list[Fields], run: Run) -> str:
    name = f"oq-batch-{run.kept.run}.jsonl"
    found = _decode(session.client.request("GET", f"/v1/files?limit={LIST_MAX}").body)["data"]
    file = next((one["id"] for one in found if one["filename"] == name), None)
    if file is None:
        content = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
        file = _upload(session, name, content)
    asked = {
        "input_file_id": file, "endpoint": _decode(lines[0]["url"]), "completion_window": "24h",
        "metadata": {RUN: run.kept.run},
    }  # fmt: skip
    answer = session.client.request("POST", "/v1/batches", msgspec.json.encode(asked))
    id: str = _decode(answer.body)["id"]
    return id


def _upload(session: Session, name: str, content: bytes) -> str:
    mark = secrets.token_hex(16)
    head = (
        f'--{mark}\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        f'--{mark}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n'
        "Content-Type: application/jsonl\r\n\r\n"
    )
    body = head.encode() + content + f"\r\n--{mark}--\r\n".encode()
    kind = {"Content-Type": f"multipart/form-data; boundary={mark}"}
    id: str = _decode(session.client.request("POST", "/v1/files", body, kind).body)["id"]
    return id


def _wait(session: Session, id: str, total: int) -> dict[str, Any]:
    """Return the batch once it is over."""
    with progress(session, "batch", total) as forward:
        done = 0
        while True:
            batch: dict[str, Any] = _decode(session.client.request("GET", f"/v1/batches/{id}").body)
            counts = batch["request_counts"]
            forward(counts["completed"] + counts["failed"] - done)
            done = counts["completed"] + counts["failed"]
            if batch["status"] in OVER:
                return batch
            time.sleep(POLL_SECONDS)


def _complain(batch: dict[str, Any], run: Run) -> NoReturn:
    for problem in (batch.get("errors") or {}).get("data", []):
        line = f"line {problem['line']}: " if problem.get("line") else ""
        click.echo(f"error: {line}{problem['message']}", err=True)
    run.forget()
    raise TaskFailed("the server refused the batch; nothing of it has run", "batch_failed")


class _Named(msgspec.Struct):
    custom_id: str


def _name_of(line: bytes) -> str:
    return _decode(line, type=_Named).custom_id


def _tidy_up(session: Session, batch: dict[str, Any]) -> None:
    """Delete at the server what was uploaded for this run and what is here now."""
    for name in ("input_file_id", "output_file_id", "error_file_id"):
        if batch.get(name):
            try:
                session.client.request("DELETE", f"/v1/files/{batch[name]}", repeatable=True)
            except OqError:
                pass  # the results are here; what is left there is only space
