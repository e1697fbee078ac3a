"""A whole task, for readers."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from oq.core.ids import created_at, format_id
from oq.core.model import Attempt, Status, TaskSpec, TaskState, TaskType
from oq.core.output import output_text


class Task(msgspec.Struct, frozen=True):
    """A whole task as a reader sees it: one consistent snapshot.

    Besides its parts it has what `oq.client` gives of a task, under the same names, so that a program reads both
    alike. `result_json` are the bytes that the model server sent.
    """

    key: int
    spec: TaskSpec
    state: TaskState
    result_json: bytes | None = None

    @property
    def id(self) -> str:
        return format_id(self.key)

    @property
    def created_at(self) -> float:
        return created_at(self.key)

    @property
    def output(self) -> str:
        """The text the model wrote; empty for embeddings and while there is no result."""
        return output_text(self.result_json)

    @property
    def result(self) -> dict[str, Any] | None:
        """The model server's final JSON; None while there is none."""
        return None if self.result_json is None else object_of(self.result_json)

    @property
    def payload(self) -> dict[str, Any]:
        return object_of(self.spec.payload)

    @property
    def options(self) -> dict[str, Any] | None:
        return None if self.spec.options is None else object_of(self.spec.options)

    @property
    def keep_alive(self) -> str | int | float | None:
        given = self.spec.keep_alive
        return None if given is None else msgspec.json.decode(given, type=str | int | float)

    @property
    def type(self) -> TaskType:
        return self.spec.type

    @property
    def model(self) -> str:
        return self.spec.model

    @property
    def max_retries(self) -> int:
        return self.spec.max_retries

    @property
    def timeout(self) -> float | None:
        return self.spec.timeout

    @property
    def tags(self) -> tuple[str, ...]:
        return self.spec.tags

    @property
    def guard(self) -> str:
        return self.spec.guard

    @property
    def warnings(self) -> tuple[str, ...]:
        return self.state.warnings

    @property
    def status(self) -> Status:
        return self.state.status

    @property
    def finished(self) -> bool:
        return self.state.status.finished

    @property
    def priority(self) -> int:
        return self.state.priority

    @property
    def revision(self) -> int:
        return self.state.revision

    @property
    def run_at(self) -> float | None:
        return self.state.run_at

    @property
    def started_at(self) -> float | None:
        return self.state.started_at

    @property
    def completed_at(self) -> float | None:
        return self.state.finished_at

    @property
    def host(self) -> str | None:
        return self.state.host

    @property
    def error(self) -> str | None:
        return self.state.error

    @property
    def error_code(self) -> str | None:
        return self.state.error_code

    @property
    def tokens(self) -> int | None:
        """How many the model counted, of a completed task."""
        return self.state.tokens

    @property
    def tokens_per_second(self) -> float | None:
        return self.state.tokens_per_second

    @property
    def output_start(self) -> str:
        return self.state.output_start

    @property
    def retry_count(self) -> int:
        return self.state.retry_count

    @property
    def attempts(self) -> tuple[Attempt, ...]:
        return self.state.attempts


def object_of(text: bytes) -> dict[str, Any]:
    """Return the JSON object in *text*; a number past the range of a double reads as infinity."""
    try:
        found: dict[str, Any] = msgspec.json.decode(text)
    except msgspec.DecodeError:
        found = json.loads(text)
    return found
