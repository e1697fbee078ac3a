"""A batch that can be gone on with: its results in a file, in the order of its lines, and what a later run must know.

Beside the results OUT lie, until they are whole, ``OUT.run`` (which run it is, and of what input) and ``OUT.part`` (the
results so far). The run's name is on disk before anything is submitted, and everything is submitted under it. So a run
that is gone on with finds what was submitted before, at whatever point it ended.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from oq.cli import exits
from oq.cli.output import plain, progress
from oq.cli.session import Session
from oq.client import TaskHandle
from oq.durable import replace_file
from oq.errors import InvalidTask, OqError
from oq.wire import RemoteTask

Fields = dict[str, msgspec.Raw]
GROUP = 250  # tasks submitted together
# Submitted, and not gathered yet: far below the finished tasks that a server keeps (queue.max_finished is 10,000), so
# that no result is cleaned away before it is read.
AHEAD = 1000


class Kept(msgspec.Struct):
    """What ``OUT.run`` holds. *batch* is the server's id of an OpenAI batch, once it is known."""

    run: str
    sha256: str
    batch: str | None = None


class Run:
    """One run towards the results *target*."""

    def __init__(self, target: str, text: str, resume: bool) -> None:
        """Begin a run, or go on with one. `click.UsageError` says what is in the way."""
        self.target = Path(target)
        self.part = Path(f"{target}.part")
        self._path = Path(f"{target}.run")
        digest = hashlib.sha256(text.encode()).hexdigest()
        try:
            self.complete = self.target.exists() and not self._path.exists()
            if self.complete and not resume:
                raise click.UsageError(
                    f"{target} is there already: name another file, or give --resume if it is this batch's"
                )
            if self.complete:
                return
            if self._path.exists():
                self._go_on(digest, resume)
            else:
                self.part.unlink(missing_ok=True)
                self.kept = Kept(secrets.token_hex(12), digest)
                self.keep()
        except OSError as error:
            raise click.UsageError(f"cannot write {target!r}: {error.strerror}") from error

    def _go_on(self, digest: str, resume: bool) -> None:
        if not resume:
            raise click.UsageError(
                f"a batch with the results {self.target} is not finished: give --resume to go on with it, "
                f"or delete {self._path} to forget it"
            )
        try:
            self.kept = msgspec.json.decode(self._path.read_bytes(), type=Kept)
        except (ValueError, RecursionError) as error:
            raise click.UsageError(f"{self._path} is damaged; delete it to begin anew: {error}") from error
        if self.kept.sha256 != digest:
            raise click.UsageError(
                f"the batch's file has changed since the run towards {self.target} began: "
                f"restore it, or delete {self._path} to begin anew"
            )

    def keep(self) -> None:
        """Put on disk which run it is."""
        replace_file(self._path, msgspec.json.encode(self.kept))

    def finish(self) -> None:
        """The results so far are all: give them their name."""
        with self.part.open("ab") as file:
            os.fsync(file.fileno())
        self.part.replace(self.target)
        self._path.unlink()

    def forget(self) -> None:
        """Nothing will come of it."""
        self.part.unlink(missing_ok=True)
        self._path.unlink()

    def gathered(self) -> list[bytes]:
        """Return the results of an earlier run; a line that was cut short is cut off."""
        if not self.part.exists():
            return []
        data = self.part.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            os.truncate(self.part, len(whole))
        return whole.splitlines()


class _Outcome(msgspec.Struct):
    status: str


def run_tasks(session: Session, tasks: Sequence[Fields | InvalidTask], run: Run) -> int:
    """Submit what has no result yet and gather results in order; return the exit code."""
    seen = [msgspec.json.decode(line, type=_Outcome).status for line in run.gathered()]
    waiting: deque[tuple[int, TaskHandle | OqError]] = deque()
    with progress(session, "batch", len(tasks)) as forward, run.part.open("ab") as part:
        forward(len(seen))

        def gather() -> None:
            index, handle = waiting.popleft()
            line = _result(session, tasks[index], index + 1, handle)
            seen.append(line["status"])
            part.write(msgspec.json.encode(line) + b"\n")
            part.flush()
            forward(1)

        for first in range(len(seen), len(tasks), GROUP):
            numbers = range(first, min(first + GROUP, len(tasks)))
            waiting.extend(zip(numbers, _submit(session, tasks, numbers, run), strict=True))
            while len(waiting) > AHEAD - GROUP:
                gather()
        while waiting:
            gather()
    run.finish()
    if "refused" in seen:
        return exits.ERROR
    return exits.OK if all(status == "completed" for status in seen) else exits.TASK_FAILED


def _submit(
    session: Session, tasks: Sequence[Fields | InvalidTask], numbers: range, run: Run
) -> list[TaskHandle | OqError]:
    asked: list[Fields] = []
    for index in numbers:
        task = tasks[index]
        if isinstance(task, dict):
            key = msgspec.json.encode(f"batch:{run.kept.run}:{index + 1}")
            asked.append({**_without_name(task), "idempotency_key": msgspec.Raw(key)})
    answers = iter(session.client.submit_many(asked))
    return [task if isinstance(task := tasks[index], InvalidTask) else next(answers) for index in numbers]


def _without_name(task: Fields) -> Fields:
    return {name: value for name, value in task.items() if name != "custom_id"}


def _result(
    session: Session, task: Fields | InvalidTask, number: int, handle: TaskHandle | OqError
) -> dict[str, Any]:
    line: dict[str, Any] = {"line": number}
    if isinstance(task, dict) and "custom_id" in task:
        line["custom_id"] = task["custom_id"]
    if isinstance(handle, OqError):
        return line | {"status": "refused", "error": {"code": handle.code, "message": handle.message}}
    line["task_id"] = handle.id
    try:
        ended: RemoteTask = session.client.wait(handle.id)
    except OqError as error:
        if error.code != "not_found":
            raise
        return line | {"status": "lost", "error": {"code": "not_found", "message": error.message}}
    line["status"] = str(ended.status)
    if ended.status == "completed":
        return line | {"result": plain(ended).get("result")}
    return line | {"error": {"code": ended.error_code, "message": ended.error}}
