"""Every verb of the client as a flow: which calls it makes and what it makes of the answers.

`oq.client.Client` and `oq.client.AsyncClient` have the same methods and only run these.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from oq import wire
from oq.client.calls import JSON, Answer, Call, named_error, task_path
from oq.client.flows import Emit, Flow, Now, Patience, Pause, exchange
from oq.core.model import TaskSpec
from oq.errors import (
    InvalidTask,
    OqError,
    ServerError,
    TaskCancelled,
    TaskFailed,
    TooLarge,
    WaitTimeout,
)
from oq.wire import BatchAnswer, BulkAnswer, RemoteHost, RemoteStats, RemoteTask, Submitted, check_text

T = TypeVar("T")
Hosts = list[RemoteHost]
Spec = TaskSpec | Mapping[str, Any]
"""What can be submitted: a builder's task, or an object shaped as the body of POST /api/tasks."""

HOLD = 30.0  # seconds of one long poll; below the idle limits of common proxies
CHUNK_TASKS = 5_000  # tasks in one request of a large batch
CHUNK_BYTES = 8 * 1024 * 1024  # far below the server's max_body_bytes
DRAIN_HOLD = 600.0  # seconds to wait for a drain whose grace is the server's setting
SPIN = 0.2  # seconds at least between two polls that were answered at once
FILTERS = ("status", "type", "priority", "model", "host", "tag", "q")


class Page(msgspec.Struct, frozen=True):
    """A part of a list: *total* tasks match, these are the asked for ones."""

    total: int
    tasks: list[RemoteTask]


class Verbs:
    """The verbs for one server. Each method returns a flow."""

    def __init__(self, url: str, token: str | None, patience: Patience) -> None:
        self.url = url
        self.patience = patience
        self.headers = {"Accept": JSON} | ({"Authorization": f"Bearer {token}"} if token else {})

    def call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        params: Iterable[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        repeatable: bool | None = None,
        patient: bool = True,
        hold: float = 0.0,
    ) -> Call:
        said = {"Content-Type": JSON} if body is not None else {}
        params = tuple(params)
        for name, value in params:
            check_text(value, name)
        return Call(
            method=method, path=path, params=params, body=body, hold=hold, patient=patient,
            headers=self.headers | said | dict(headers or {}),
            repeatable=method == "GET" if repeatable is None else repeatable,
        )  # fmt: skip

    def ask(self, method: str, path: str, body: bytes | None = None, **more: Any) -> Flow[Answer]:
        return exchange(self.call(method, path, body, **more), self.patience, self.url)

    def ask_for(
        self, read: Callable[[bytes], T], method: str, path: str, value: Any = None, **more: Any
    ) -> Flow[T]:
        """Ask and *read* the answer; *value* is the body, as an object."""
        body = None if value is None else _json(value, "the request")
        return read((yield from self.ask(method, path, body, **more)).body)

    # --- submit

    def submit(self, spec: Spec) -> Flow[Submitted]:
        # Always with a key, so that a repeat after a lost answer is the same task and not a second one.
        key = _key(spec) or uuid.uuid4().hex
        headers = {"Idempotency-Key": key} if key.isascii() else {}  # the body has the caller's own
        answer = yield from self.ask("POST", "/api/tasks", body_of(spec), headers=headers, repeatable=True)
        return wire.decode_submitted(answer.body)

    def submit_many(self, specs: Iterable[Spec], atomic: bool = False) -> Flow[list[Submitted | OqError]]:
        bodies = [body_of(spec) for spec in specs]
        done: list[Submitted | OqError] = []
        for chunk in [bodies] if atomic else chunks(bodies):
            if chunk:
                done += yield from self._post_many(chunk, atomic)
        return done

    def _post_many(self, bodies: list[bytes], atomic: bool) -> Flow[list[Submitted | OqError]]:
        body = b"[" + b",".join(bodies) + b"]"
        params = [("atomic", "true")] if atomic else []
        headers = {"Idempotency-Key": uuid.uuid4().hex}  # stands for each task of this request
        call = self.call("POST", "/api/tasks/batch", body, params=params, headers=headers, repeatable=True)
        try:
            answer = yield from exchange(call, self.patience, self.url)
        except TooLarge:
            if atomic or len(bodies) == 1:
                raise
            half = len(bodies) // 2  # the server's limits are its own settings
            first = yield from self._post_many(bodies[:half], atomic)
            return first + (yield from self._post_many(bodies[half:], atomic))
        return _outcomes(wire.decode_batch(answer.body), len(bodies))

    def run_batch(
        self, specs: Iterable[Spec], timeout: float | None = None
    ) -> Flow[list[dict[str, Any] | OqError]]:
        """Submit all, wait for all; in the order given, an error in the place of a missing result.

        Emits each finished task, in that order.
        """
        began = yield Now()
        results: list[dict[str, Any] | OqError] = []
        for submitted in (yield from self.submit_many(specs)):
            if isinstance(submitted, OqError):
                results.append(submitted)
                continue
            left = None if timeout is None else max(0.0, began + timeout - (yield Now()))
            try:
                task = yield from self.wait(submitted.task_id, left)
                yield Emit(task)
                results.append(result_of(task))
            except (TaskFailed, TaskCancelled, WaitTimeout) as error:
                results.append(error)
        return results

    # --- read

    def get(self, id: str) -> Flow[RemoteTask]:
        return wire.decode_task((yield from self.ask("GET", task_path(id))).body)

    def page(
        self,
        *,
        limit: int | None = None,
        offset: int | None = None,
        sort: str | None = None,
        cursor: str | None = None,
        **filters: Any,
    ) -> Flow[Page]:
        where = {"limit": limit, "offset": offset, "sort": sort, "cursor": cursor}
        params = query(filters) + [(name, str(value)) for name, value in where.items() if value is not None]
        answer = yield from self.ask("GET", "/api/tasks", params=params)
        tasks = wire.decode_tasks(answer.body)
        total = answer.headers.get("x-total-count", "")
        return Page(int(total) if total.isdecimal() else len(tasks), tasks)

    def wait(self, id: str, timeout: float | None = None) -> Flow[RemoteTask]:
        """Return the task once it is finished, whatever its end; `WaitTimeout` when that takes too long."""
        began = asked = yield Now()
        while True:
            hold = HOLD if timeout is None else min(HOLD, max(0.0, began + timeout - asked))
            params = [("wait", f"{hold:.3f}")]
            answer = yield from self.ask("GET", task_path(id, "result"), params=params, hold=hold)
            if answer.status == 200:
                return wire.decode_task(answer.body)
            now = yield Now()
            if timeout is not None and now >= began + timeout:
                raise WaitTimeout(f"task {id} is not finished yet; it goes on, ask again later")
            if now - asked < SPIN:
                yield Pause(SPIN)
            asked = yield Now()

    def result(self, id: str, timeout: float | None = None) -> Flow[dict[str, Any]]:
        return result_of((yield from self.wait(id, timeout)))

    def status(self) -> Flow[RemoteStats]:
        return self.ask_for(wire.decode_status, "GET", "/api/status")

    def hosts(self) -> Flow[Hosts]:
        return self.ask_for(wire.decode_hosts, "GET", "/api/hosts")

    def health(self) -> Flow[dict[str, Any]]:
        return self.ask_for(_object, "GET", "/health", patient=False)

    # --- change

    def switch(self, action: str) -> Flow[dict[str, Any]]:
        """Pause or resume the queue."""
        return self.ask_for(_object, "POST", f"/api/queue/{action}", repeatable=True)

    def drain(self, grace: float | None) -> Flow[dict[str, Any]]:
        # Answered when nothing runs any more.
        params = [] if grace is None else [("grace", f"{grace:.3f}")]
        hold = DRAIN_HOLD if grace is None else grace
        return self.ask_for(_object, "POST", "/api/queue/drain", params=params, hold=hold, repeatable=True)

    def act(self, action: str, id: str) -> Flow[RemoteTask]:
        answer = yield from self.ask("POST", task_path(id, action))
        return wire.decode_task(answer.body)

    def delete(self, id: str) -> Flow[None]:
        yield from self.ask("DELETE", task_path(id))

    def priority(self, id: str, level: int | str) -> Flow[RemoteTask]:
        body = _json({"priority": level}, "the request")
        return wire.decode_task(
            (yield from self.ask("POST", task_path(id, "priority"), body, repeatable=True)).body
        )

    def bulk(
        self,
        action: str,
        *,
        ids: Sequence[str] | None = None,
        filter: Mapping[str, Any] | None = None,
        priority: int | str | None = None,
        expect: int | None = None,
    ) -> Flow[BulkAnswer]:
        """Do *action* to many; *expect* makes it fail when another number of tasks matches."""
        body = {"action": action, "ids": ids, "filter": filter, "priority": priority, "expect": expect}
        given = {name: value for name, value in body.items() if value is not None}
        return self.ask_for(wire.decode_bulk, "POST", "/api/tasks/bulk", given)


def _object(body: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(body, type=dict[str, Any])
    except (ValueError, RecursionError) as error:
        raise ServerError(f"the answer is not what this client knows: {error}") from error


def result_of(task: RemoteTask) -> dict[str, Any]:
    """Return a finished task's result; raises `TaskFailed` or `TaskCancelled`."""
    if task.status == "completed":
        return task.result or {}
    if task.status == "cancelled":
        raise TaskCancelled(f"task {task.id} was cancelled")
    raise TaskFailed(f"task {task.id} failed: {task.error or 'no reason given'}", task.error_code)


def _key(spec: Spec) -> str | None:
    if isinstance(spec, TaskSpec):
        return spec.idempotency_key
    key = spec.get("idempotency_key")
    return key if isinstance(key, str) else None


def body_of(spec: Spec) -> bytes:
    """Return the JSON to post for one task."""
    if isinstance(spec, TaskSpec):
        return _json(spec, "the task", wire.spec_json)
    if not isinstance(spec, Mapping):
        raise InvalidTask(
            f"a task is made with oq.chat, oq.generate or oq.embed, not from {type(spec).__name__}"
        )
    return _json(dict(spec), "the task")


def _json(value: Any, what: str, encode: Callable[[Any], bytes] = msgspec.json.encode) -> bytes:
    try:
        return encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidTask(f"{what} cannot be written as JSON: {error}") from error


def chunks(bodies: list[bytes]) -> list[list[bytes]]:
    """Cut a batch into requests of bounded size."""
    cut: list[list[bytes]] = [[]]
    size = 0
    for body in bodies:
        if cut[-1] and (len(cut[-1]) >= CHUNK_TASKS or size + len(body) > CHUNK_BYTES):
            cut.append([])
            size = 0
        cut[-1].append(body)
        size += len(body)
    return cut


def _outcomes(said: BatchAnswer, count: int) -> list[Submitted | OqError]:
    found: list[Submitted | OqError] = [ServerError("the server said nothing about this task")] * count
    for item in said.items:
        if 0 <= item.index < count:
            if item.task_id is not None:
                found[item.index] = Submitted(item.task_id)
            elif item.error is not None:
                found[item.index] = named_error(item.code or "", item.error, item.field)
    return found


def query(filters: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the query parameters of a filter: one value or several each, None for "any"."""
    params = []
    for name, value in filters.items():
        if name not in FILTERS:
            raise InvalidTask(f"there is no filter {name!r}; there are {', '.join(FILTERS)}", name)
        if value is None:
            continue
        values = value if isinstance(value, list | tuple | set | frozenset) else [value]
        params += [(name, str(one)) for one in values]
    return params
