"""The asynchronous client, on Trio and on asyncio."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import anyio
import httpx

from oq.client import transport as _transport
from oq.client.body import CLOSE_SECONDS, Body, answered_by
from oq.client.calls import Answer, Call, Lost
from oq.client.flows import Emit, Flow, Now, Open, Patience, Pause, Read, Send
from oq.client.streams import Connected, events, follow
from oq.client.verbs import Hosts, Page, Spec, Verbs, result_of
from oq.errors import OqError
from oq.wire import (
    BulkAnswer,
    RemoteEvent,
    RemoteLine,
    RemoteStats,
    RemoteTask,
    Submitted,
)

T = TypeVar("T")
Callback = Callable[[RemoteTask], object | Awaitable[object]]
log = logging.getLogger(__name__)


class Channel(Protocol):
    """Where finished tasks go."""

    async def send(self, value: Any, /) -> object: ...


class AsyncClient:
    """A queue on another process or machine; the same verbs and arguments as `oq.Client`, awaited.

    Use it as ``async with oq.AsyncClient(url) as client``: callbacks run inside that block.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        timeout: float = 30.0,
        patience: Patience | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url, token = _transport.place(url, token)
        self._timeout = timeout
        self._verbs = Verbs(self.url, token, patience or Patience())
        self._http = httpx.AsyncClient(transport=transport, **_transport.settings(self.url, timeout))
        self._children: anyio.abc.TaskGroup | None = None

    async def __aenter__(self) -> Self:
        self._children = anyio.create_task_group()
        await self._children.__aenter__()
        return self

    async def _leave(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        assert self._children is not None
        self._children.cancel_scope.cancel()
        try:
            # It waits for children that were cancelled one line above.
            return await self._children.__aexit__(kind, error, traceback)
        except BaseExceptionGroup:
            if error is None:
                raise
            return False  # the block's own error, not a group around it
        finally:
            self._children = None
            with anyio.move_on_after(CLOSE_SECONDS, shield=True):
                await self.close()

    __aexit__ = _leave

    async def close(self) -> None:
        await self._http.aclose()

    # --- submit

    async def submit(self, spec: Spec, *, callback: Callback | None = None) -> AsyncTaskHandle:
        """Submit a task; it is on the server's disk when this returns.

        *callback* is called with the finished task, as long as the ``async with`` block is open.
        """
        handle = AsyncTaskHandle(self, await self._run(self._verbs.submit(spec)))
        if callback is not None:
            if self._children is None:
                raise RuntimeError("a callback needs `async with oq.AsyncClient(…) as client:` around it")
            self._children.start_soon(self._call_back, handle.id, callback)
        return handle

    async def _call_back(self, id: str, callback: Callback) -> None:
        try:
            await _called(callback, await self.wait(id))
        except Exception:  # nobody else would hear of it
            log.exception("the callback of task %s failed", id)

    async def submit_to_channel(self, spec: Spec, channel: Channel) -> AsyncTaskHandle:
        """As `submit`; the finished task is sent to *channel*, of Trio or of anyio, which stays open."""
        return await self.submit(spec, callback=channel.send)

    async def submit_many(
        self, specs: Iterable[Spec], *, atomic: bool = False
    ) -> list[AsyncTaskHandle | OqError]:
        """Submit many at once; in the place of each refused one stands its error. *atomic*: all, or one raised error."""
        said = await self._run(self._verbs.submit_many(specs, atomic))
        return [one if isinstance(one, OqError) else AsyncTaskHandle(self, one) for one in said]

    async def run_batch(
        self, specs: Iterable[Spec], callback: Callback | None = None, timeout: float | None = None
    ) -> list[dict[str, Any] | OqError]:
        """Submit all and wait for all: results in the order given, an error in the place of each failure.

        *callback* is called with each finished task in that order; *timeout* bounds the whole, in seconds.
        """
        return await self._run(self._verbs.run_batch(specs, timeout), callback)

    # --- read

    async def get(self, id: str) -> RemoteTask:
        return await self._run(self._verbs.get(id))

    async def list(self, **filters: Any) -> list[RemoteTask]:
        """Return tasks, newest first; see `Client.page` for the filters."""
        return (await self.page(**filters)).tasks

    async def page(self, **filters: Any) -> Page:
        return await self._run(self._verbs.page(**filters))

    async def wait(self, id: str, timeout: float | None = None) -> RemoteTask:
        """Return the task once it is finished; `WaitTimeout` after *timeout* seconds."""
        return await self._run(self._verbs.wait(id, timeout))

    async def result(self, id: str, timeout: float | None = None) -> dict[str, Any]:
        """Return the model server's final answer; raises `TaskFailed`, `TaskCancelled` or `WaitTimeout`."""
        return await self._run(self._verbs.result(id, timeout))

    async def stream(self, id: str, offset: int = 0) -> AsyncIterator[str]:
        """Yield the text so far, then the rest as it comes; raises as `result` does.

        When an attempt broke off, the next one's text follows from its start; `follow` tells.
        """
        async with aclosing(self.follow(id, offset)) as lines:
            async for line in lines:
                if line.type == "text" and line.kind == "content":
                    yield line.text
                elif line.task is not None:
                    result_of(line.task)

    def follow(self, id: str, offset: int = 0) -> AsyncGenerator[RemoteLine, None]:
        """Yield lines: ``text``, ``restart`` when a new attempt voids it, and ``end``."""
        return self._iterate(follow(self._verbs, id, offset))

    async def status(self) -> RemoteStats:
        """Return the queue's statistics."""
        return await self._run(self._verbs.status())

    stats = status

    async def hosts(self) -> Hosts:
        """Return the model servers: their state, version and models."""
        return await self._run(self._verbs.hosts())

    async def health(self) -> dict[str, Any]:
        """Return what the server says of itself; raises while it is not ready."""
        return await self._run(self._verbs.health())

    async def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        repeatable: bool | None = None,
    ) -> Answer:
        """Make any call of the HTTP API and return status, headers and body; raises for 400 and above.

        *repeatable*: a second one does no harm, so it is made when the first one's answer is lost; None: if it is a GET.
        """
        return await self._run(self._verbs.ask(method, path, body, headers=headers, repeatable=repeatable))

    def subscribe(
        self, types: Iterable[str] | None = None, after: str | int | None = None
    ) -> AsyncSubscription:
        """Return events as they happen; live once the ``with`` block is entered.

        Reconnects by itself. An event of type ``resync`` says that some are lost, because the server was started
        anew or the reader fell behind: read again what you need to know.
        """
        return AsyncSubscription(self._iterate(events(self._verbs, types, after)))

    # --- change

    async def cancel(self, id: str) -> RemoteTask:
        """Cancel a waiting or running task; `TaskConflict` if it is finished. For many see `bulk`."""
        return await self._run(self._verbs.act("cancel", id))

    async def retry(self, id: str) -> RemoteTask:
        """Run a finished task again."""
        return await self._run(self._verbs.act("retry", id))

    async def delete(self, id: str) -> None:
        """Forget a finished task and its result."""
        await self._run(self._verbs.delete(id))

    async def priority(self, id: str, level: int | str) -> RemoteTask:
        """Change a waiting task's priority."""
        return await self._run(self._verbs.priority(id, level))

    async def bulk(self, action: str, **which: Any) -> BulkAnswer:
        """Act on all tasks of ``ids=`` or ``filter=``; *expect* guards against a surprise."""
        return await self._run(self._verbs.bulk(action, **which))

    async def pause(self) -> dict[str, Any]:
        """Start no further task until `resume`."""
        return await self._run(self._verbs.switch("pause"))

    async def resume(self) -> dict[str, Any]:
        return await self._run(self._verbs.switch("resume"))

    async def drain(self, grace: float | None = None) -> dict[str, Any]:
        """Take and start nothing more; returns when nothing runs, after *grace* seconds at the latest."""
        return await self._run(self._verbs.drain(grace))

    # --- the loops that do what a flow asks

    async def _run(self, flow: Flow[T], callback: Callback | None = None) -> T:
        outcome: Any = None
        try:
            while True:
                step = flow.send(outcome)
                match step:
                    case Send(call):
                        outcome = await self._send(call)
                    case Pause(seconds):
                        await anyio.sleep(seconds)
                        outcome = None
                    case Now():
                        outcome = anyio.current_time()
                    case Emit(item):
                        outcome = None
                        if callback is not None:
                            await _called(callback, item)
                    case _:
                        raise AssertionError(step)
        except StopIteration as end:
            value: T = end.value
            return value

    async def _send(self, call: Call) -> Answer | Lost:
        arriving = _transport.Arriving(call, self._timeout + call.hold, anyio.current_time)
        try:
            request = _transport.request(self._http, call, self._timeout, False)
            with answered_by(arriving) as scope:
                response = await self._http.send(request, stream=True)
                return _transport.answer(response, await Body(response).whole(arriving, scope))
            raise _transport.too_slow()
        except httpx.HTTPError as error:
            return _transport.lost(error)

    async def _open(self, call: Call) -> tuple[Body | None, Answer | Lost]:
        arriving = _transport.Arriving(call, _transport.SILENCE_SECONDS, anyio.current_time)
        try:
            request = _transport.request(self._http, call, self._timeout, True)
            with answered_by(arriving) as scope:
                response = await self._http.send(request, stream=True)
                body = Body(response)
                if response.is_success:
                    return body, _transport.answer(response)
                return None, _transport.answer(response, await body.whole(arriving, scope))
            raise _transport.too_slow()
        except httpx.HTTPError as error:
            return None, _transport.lost(error)

    async def _iterate(self, flow: Flow[None]) -> AsyncGenerator[Any, None]:
        body: Body | None = None
        flowing = _transport.Flowing(anyio.current_time)
        outcome: Any = None
        try:
            while True:
                try:
                    step = flow.send(outcome)
                except StopIteration:
                    return
                outcome = None
                match step:
                    case Emit(item):
                        yield item
                    case Read():
                        assert body is not None
                        try:
                            piece = await body.read()
                            outcome = None if piece is None else flowing.add(piece)
                        except httpx.HTTPError as error:
                            outcome = _transport.lost(error)
                    case Open(call):
                        if body is not None:
                            await body.close()
                        body, outcome = await self._open(call)
                        flowing = _transport.Flowing(anyio.current_time)
                    case Pause(seconds):
                        await anyio.sleep(seconds)
                    case _:
                        raise AssertionError(step)
        finally:
            if body is not None:
                with anyio.move_on_after(CLOSE_SECONDS, shield=True):
                    await body.close()


async def _called(callback: Callback, value: RemoteTask) -> None:
    said = callback(value)
    if isinstance(said, Awaitable):
        await said


class AsyncTaskHandle:
    """A submitted task."""

    def __init__(self, client: AsyncClient, submitted: Submitted) -> None:
        self._client = client
        self.id = submitted.task_id

    def __repr__(self) -> str:
        return f"<AsyncTaskHandle {self.id}>"

    async def task(self) -> RemoteTask:
        """Return the task as it stands now."""
        return await self._client.get(self.id)

    refresh = task

    async def wait(self, timeout: float | None = None) -> RemoteTask:
        return await self._client.wait(self.id, timeout)

    async def result(self, timeout: float | None = None) -> dict[str, Any]:
        """Return the model server's final answer; raises `TaskFailed`, `TaskCancelled` or `WaitTimeout`."""
        return await self._client.result(self.id, timeout)

    def stream(self, offset: int = 0) -> AsyncIterator[str]:
        return self._client.stream(self.id, offset)

    def follow(self, offset: int = 0) -> AsyncGenerator[RemoteLine, None]:
        return self._client.follow(self.id, offset)

    async def cancel(self) -> RemoteTask:
        return await self._client.cancel(self.id)


class AsyncSubscription:
    """Events as they happen: ``async with client.subscribe() as events: async for event in events: …``."""

    def __init__(self, items: AsyncGenerator[Any, None]) -> None:
        self._items = items
        self._live = False

    async def __aenter__(self) -> Self:
        if not self._live:
            first = await anext(self._items)
            assert isinstance(first, Connected)
            self._live = True
        return self

    async def __aexit__(self, *reason: object) -> None:
        with anyio.move_on_after(CLOSE_SECONDS, shield=True):
            await self.close()

    async def close(self) -> None:
        await self._items.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> RemoteEvent:
        await self.__aenter__()
        event: RemoteEvent = await anext(self._items)
        return event
