"""`Queue`: the handle that a Trio program holds; its verbs are those of `oq.Client`.

Ids here are text, whole or a unique beginning or end, as on the command line. What takes integer keys is in
`oq.access`.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import msgspec
import trio

from oq.access import Access, Page
from oq.bulk import run_bulk
from oq.core.ids import format_id
from oq.core.model import PRIORITIES, Status, TaskSpec, TaskState
from oq.core.task import Task
from oq.errors import InvalidTask, OqError, TaskCancelled, TaskFailed
from oq.following import StreamEnd, StreamItem, StreamRestart, StreamText
from oq.ports import Query
from oq.stats import HostStatus, Stats
from oq.wire import BulkAnswer, bulk_json, decode_bulk, parse_bulk

__all__ = [
    "Callback", "HostStatus", "Page", "Queue", "Stats", "StreamEnd", "StreamItem", "StreamRestart", "StreamText",
    "TaskHandle",
]  # fmt: skip

log = logging.getLogger(__name__)

Callback = Callable[[Task], Awaitable[None] | None]
"""Called once with the finished task, from a child of the queue's nursery."""

Names = str | int | Status | Iterable[str | int | Status] | None


class TaskHandle:
    """A submitted task. It is on disk already."""

    def __init__(self, queue: Queue, key: int) -> None:
        self._queue = queue
        self.key = key
        self.id = format_id(key)

    def __repr__(self) -> str:
        return f"<TaskHandle {self.id}>"

    async def task(self) -> Task:
        """Return the task as it is now."""
        return await self._queue.get_task(self.key)

    async def wait(self, timeout: float | None = None) -> Task:
        """Return the task when it is finished, however it ended; `WaitTimeout` after *timeout* seconds."""
        return await self._queue.wait(self.key, timeout)

    async def result(self, timeout: float | None = None) -> dict[str, Any]:
        """Return the model server's final JSON; raises `TaskFailed`, `TaskCancelled`, `WaitTimeout`."""
        return result_of(await self._queue.wait(self.key, timeout))

    refresh = task

    def stream(self, offset: int = 0) -> AsyncGenerator[str, None]:
        """As `Queue.stream`."""
        return self._queue.stream(self.key, offset)

    def follow(self, offset: int = 0) -> AsyncGenerator[StreamItem, None]:
        """As `Queue.follow`."""
        return self._queue.follow(self.key, offset)

    async def cancel(self) -> TaskState:
        return await self._queue.cancel(self.id)


class Queue(Access):
    """A running queue, made by `oq.open_queue`."""

    _callbacks: trio.Nursery  # set by oq.engine; ends with the queue

    # --- submit --------------------------------------------------------------------------------------------------
    async def submit(self, spec: TaskSpec, *, callback: Callback | None = None) -> TaskHandle:
        """Take a task, made with `oq.chat`, `oq.generate` or `oq.embed`; return when it is on disk.

        Raises `QueueFull`, `QueueBusy`, `QueueClosed`, `IdempotencyConflict`, `StorageError`.
        """
        (key,) = await self.submit_keys([spec])
        if isinstance(key, OqError):
            raise key
        if callback is not None:
            self._callbacks.start_soon(self._call_back, key, callback)
        return TaskHandle(self, key)

    async def submit_many(
        self, specs: Iterable[TaskSpec], *, atomic: bool = False
    ) -> list[TaskHandle | OqError]:
        """Take many tasks; a handle or an error for each, in order. With *atomic*, all or one raised error."""
        keys = await self.submit_keys(specs, atomic=atomic)
        return [key if isinstance(key, OqError) else TaskHandle(self, key) for key in keys]

    async def submit_to_channel(self, spec: TaskSpec, channel: trio.MemorySendChannel[Task]) -> TaskHandle:
        """As `submit`; the finished task is sent to *channel*, which stays open."""
        return await self.submit(spec, callback=channel.send)

    async def run_batch(
        self, specs: Iterable[TaskSpec], callback: Callback | None = None, timeout: float | None = None
    ) -> list[dict[str, Any] | OqError]:
        """Submit all, wait for all; results in the order given, an error in place of a result that there is not.

        *callback* is called with each finished task in that order; *timeout* bounds the whole in seconds.
        """
        deadline = float("inf") if timeout is None else trio.current_time() + timeout
        results: list[dict[str, Any] | OqError] = []
        for handle in await self.submit_many(specs):
            if isinstance(handle, OqError):
                results.append(handle)
                continue
            try:
                left = None if timeout is None else deadline - trio.current_time()
                task = await handle.wait(left)
                if callback is not None:
                    await _call(callback, task)
                results.append(result_of(task))
            except OqError as error:
                results.append(error)
        return results

    async def _call_back(self, key: int, callback: Callback) -> None:
        try:
            await _call(callback, await self.wait(key))
        except Exception:
            log.exception("the callback of task %s failed", format_id(key))

    # --- read ----------------------------------------------------------------------------------------------------
    async def get(self, id: str) -> Task:
        return await self.get_task(self.resolve(id))

    async def list(
        self,
        *,
        status: Names = None,
        type: Names = None,
        priority: Names = None,
        model: Names = None,
        tag: Names = None,
        host: Names = None,
        q: str | None = None,
        limit: int = 100,
        offset: int = 0,
        sort: str = "-created",
    ) -> Sequence[Task]:
        """Return tasks without their results, newest first; each filter takes one value or several."""
        page = await self.page(
            status=status, type=type, priority=priority, model=model, tag=tag, host=host, q=q, limit=limit,
            offset=offset, sort=sort,
        )  # fmt: skip
        return page.tasks

    async def page(
        self,
        *,
        status: Names = None,
        type: Names = None,
        priority: Names = None,
        model: Names = None,
        tag: Names = None,
        host: Names = None,
        q: str | None = None,
        limit: int = 100,
        offset: int = 0,
        sort: str = "-created",
    ) -> Page:
        """As `list`, with the number of all that match."""
        priorities = [
            PRIORITIES.get(value, value) if isinstance(value, str) else value for value in _many(priority)
        ]
        try:
            query = Query(
                status=frozenset(Status(value) for value in _many(status)) or None,
                type=frozenset(_many(type)) or None,  # type: ignore[arg-type]
                priority=frozenset(int(value) for value in priorities) or None,
                model=frozenset(map(str, _many(model))) or None,
                tag=frozenset(map(str, _many(tag))) or None,
                host=frozenset(map(str, _many(host))) or None,
                text=q, limit=limit, offset=offset, sort=sort,
            )  # fmt: skip
        except ValueError as error:
            raise InvalidTask(f"no such filter value: {error}") from None
        return await self.find(query)

    async def status(self) -> Stats:
        return self.stats()

    async def result(self, id: str, timeout: float | None = None) -> dict[str, Any]:
        return result_of(await self.wait(self.resolve(id), timeout))

    async def wait(self, id: int | str, timeout: float | None = None) -> Task:
        """Return the task, named by its key or id, when it is finished; `WaitTimeout` after *timeout* seconds."""
        return await super().wait(self._key(id), timeout)

    async def follow(self, id: int | str, offset: int = 0) -> AsyncGenerator[StreamItem, None]:
        """Yield the text of a task, named by its key or id: see `Access.follow`."""
        async with aclosing(super().follow(self._key(id), offset)) as items:
            async for item in items:
                yield item

    async def stream(self, id: int | str, offset: int = 0) -> AsyncGenerator[str, None]:
        """Yield the answer's text as it comes, from character *offset* on; raises as `result` does.

        When an attempt broke off and a new one begins, its text follows from the start; `follow` tells.
        """
        async with aclosing(super().follow(self._key(id), offset)) as items:
            async for item in items:
                if isinstance(item, StreamText) and item.kind == "content":
                    yield item.text
                elif isinstance(item, StreamEnd):
                    result_of(item.task)

    def _key(self, name: int | str) -> int:
        return self.resolve(name) if isinstance(name, str) else name

    async def hosts(self) -> Sequence[HostStatus]:
        return self.stats().hosts

    # --- change --------------------------------------------------------------------------------------------------
    async def cancel(self, id: str) -> TaskState:
        """Cancel a waiting or running task; `TaskConflict` if it is finished."""
        return _only(await self.cancel_many([self.resolve(id)]))

    async def retry(self, id: str) -> TaskState:
        """Run a finished task again."""
        return _only(await self.retry_many([self.resolve(id)]))

    async def priority(self, id: str, level: int | str) -> TaskState:
        """Change a waiting task's priority: a name, or 0 to 1000."""
        number = PRIORITIES.get(level) if isinstance(level, str) else level
        if number is None:
            raise InvalidTask(
                f"no priority is called {level!r}; use {', '.join(PRIORITIES)} or 0-1000", "priority"
            )
        return _only(await self.reprioritize_many([self.resolve(id)], number))

    async def delete(self, id: str) -> None:
        """Forget a finished task."""
        (answer,) = await self.delete_many([self.resolve(id)])
        if answer is not None:
            raise answer

    async def bulk(
        self,
        action: str,
        *,
        ids: Sequence[str] | None = None,
        filter: Mapping[str, Any] | None = None,
        priority: int | str | None = None,
        expect: int | None = None,
    ) -> BulkAnswer:
        """``cancel``, ``retry``, ``delete`` or ``priority`` (with *priority*) all of *ids*, or all that *filter* names.

        *expect* makes it a `TaskConflict`, and nothing is done, when another number of tasks matches.
        """
        given = {"action": action, "ids": ids, "filter": filter, "priority": priority, "expect": expect}
        asked = msgspec.json.encode({name: value for name, value in given.items() if value is not None})
        matched, done, skipped = await run_bulk(self, parse_bulk(asked))
        return decode_bulk(bulk_json(matched, done, skipped))

    async def drain(self, grace: float | None = None) -> None:
        """As `Access.drain`."""
        await super().drain(grace)


def result_of(task: Task) -> dict[str, Any]:
    """Return a finished task's result as an object; raises `TaskFailed` or `TaskCancelled`."""
    if task.status is Status.CANCELLED:
        raise TaskCancelled(f"task {task.id} was cancelled")
    if task.status is Status.FAILED:
        raise TaskFailed(f"task {task.id} failed: {task.state.error}", task.state.error_code)
    return task.result or {}


def _only(answers: Sequence[TaskState | OqError]) -> TaskState:
    (answer,) = answers
    if isinstance(answer, OqError):
        raise answer
    return answer


def _many(value: Names) -> Sequence[str | int | Status]:
    if value is None:
        return []
    return [value] if isinstance(value, (str, int)) else [*value]


async def _call(callback: Callback, task: Task) -> None:
    waiting = callback(task)
    if inspect.isawaitable(waiting):
        await waiting
