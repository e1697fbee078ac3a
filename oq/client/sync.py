"""The synchronous client: for scripts, threads and the command line."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx

from oq.client import transport as _transport
from oq.client.calls import Answer, Call, Lost
from oq.client.deadline import answered_by, expect_by, heed_deadlines
from oq.client.flows import Emit, Flow, Now, Open, Patience, Pause, Read, Send
from oq.client.streams import Connected, events, follow
from oq.client.verbs import Hosts, Page, Spec, Verbs, result_of
from oq.errors import OqError
from oq.wire import BulkAnswer, RemoteEvent, RemoteLine, RemoteStats, RemoteTask, Submitted

T = TypeVar("T")
log = logging.getLogger(__name__)


class Client:
    """A queue on another process or machine, with the verbs of `oq.Queue`.

    Use it as a context manager, or call `close`. One client may be used from several threads.

    Args:
        url: the server's address; without one that of OQ_URL, else http://localhost:7125.
        token: the server's access token, when it asks for one; without *url* and token that of OQ_TOKEN.
        timeout: seconds for one answer of the server, as a whole: each 1000 bytes that go or come allow one more.
            Not for a task: see `wait`.
        patience: how often and how long to try again while the server cannot be reached or says "later".
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        timeout: float = 30.0,
        patience: Patience | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.url, token = _transport.place(url, token)
        self._timeout = timeout
        self._verbs = Verbs(self.url, token, patience or Patience())
        self._http = heed_deadlines(
            httpx.Client(transport=transport, **_transport.settings(self.url, timeout))
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    # --- submit

    def submit(self, spec: Spec, *, callback: Callable[[RemoteTask], object] | None = None) -> TaskHandle:
        """Submit a task; it is on the server's disk when this returns.

        *callback* is called with the finished task, in a thread of its own; for many tasks use `run_batch`.
        """
        handle = TaskHandle(self, self._run(self._verbs.submit(spec)))
        if callback is not None:
            threading.Thread(target=self._call_back, args=(handle.id, callback), daemon=True).start()
        return handle

    def _call_back(self, id: str, callback: Callable[[RemoteTask], object]) -> None:
        try:
            callback(self.wait(id))
        except Exception:  # nobody else would hear of it
            log.exception("the callback of task %s failed", id)

    def submit_to_channel(self, spec: Spec, channel: queue.Queue[RemoteTask]) -> TaskHandle:
        """As `submit`; the finished task is put into *channel*, a `queue.Queue`."""
        return self.submit(spec, callback=channel.put)

    def submit_many(self, specs: Iterable[Spec], *, atomic: bool = False) -> list[TaskHandle | OqError]:
        """Submit many at once; in the place of each refused one stands its error. *atomic*: all, or one raised error."""
        said = self._run(self._verbs.submit_many(specs, atomic))
        return [one if isinstance(one, OqError) else TaskHandle(self, one) for one in said]

    def run_batch(
        self,
        specs: Iterable[Spec],
        callback: Callable[[RemoteTask], object] | None = None,
        timeout: float | None = None,
    ) -> list[dict[str, Any] | OqError]:
        """Submit all and wait for all: results in the order given, an error in the place of each failure.

        *callback* is called with each finished task in that order; *timeout* bounds the whole, in seconds.
        """
        return self._run(self._verbs.run_batch(specs, timeout), callback)

    # --- read

    def get(self, id: str) -> RemoteTask:
        return self._run(self._verbs.get(id))

    def list(self, **filters: Any) -> list[RemoteTask]:
        """Return tasks, newest first; see `page` for the filters."""
        return self.page(**filters).tasks

    def page(self, **filters: Any) -> Page:
        """As `list`, with the number of all that match.

        Filters: status, type, priority, model, host, tag (one value or several), q (text in prompt, model or
        id); limit, offset, cursor, sort.
        """
        return self._run(self._verbs.page(**filters))

    def wait(self, id: str, timeout: float | None = None) -> RemoteTask:
        """Return the task once it is finished; `WaitTimeout` after *timeout* seconds."""
        return self._run(self._verbs.wait(id, timeout))

    def result(self, id: str, timeout: float | None = None) -> dict[str, Any]:
        """Return the model server's final answer; raises `TaskFailed`, `TaskCancelled` or `WaitTimeout`."""
        return self._run(self._verbs.result(id, timeout))

    def stream(self, id: str, offset: int = 0) -> Iterator[str]:
        """Yield the text so far, then the rest as it comes; raises as `result` does.

        When an attempt broke off, the next one's text follows from its start; `follow` tells.
        """
        for item in self.follow(id, offset):
            if item.type == "text" and item.kind == "content":
                yield item.text
            elif item.task is not None:
                result_of(item.task)

    def follow(self, id: str, offset: int = 0) -> Iterator[RemoteLine]:
        """Yield lines: ``text`` (content, thinking), ``restart`` when a new attempt voids it, and ``end``."""
        return self._iterate(follow(self._verbs, id, offset))

    def status(self) -> RemoteStats:
        """Return the queue's statistics."""
        return self._run(self._verbs.status())

    stats = status

    def hosts(self) -> Hosts:
        """Return the model servers: their state, version and models."""
        return self._run(self._verbs.hosts())

    def health(self) -> dict[str, Any]:
        """Return what the server says of itself; raises while it is not ready."""
        return self._run(self._verbs.health())

    def request(
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
        return self._run(self._verbs.ask(method, path, body, headers=headers, repeatable=repeatable))

    def subscribe(self, types: Iterable[str] | None = None, after: str | int | None = None) -> Subscription:
        """Return events as they happen; live once the ``with`` block is entered.

        Reconnects by itself. An event of type ``resync`` says that some are lost, because the server was started
        anew or the reader fell behind: read again what you need to know.
        """
        return Subscription(self._iterate(events(self._verbs, types, after)))

    # --- change

    def cancel(self, id: str) -> RemoteTask:
        """Cancel a waiting or running task; `TaskConflict` if it is finished. For many see `bulk`."""
        return self._run(self._verbs.act("cancel", id))

    def retry(self, id: str) -> RemoteTask:
        """Run a finished task again."""
        return self._run(self._verbs.act("retry", id))

    def delete(self, id: str) -> None:
        """Forget a finished task and its result."""
        self._run(self._verbs.delete(id))

    def priority(self, id: str, level: int | str) -> RemoteTask:
        """Change a waiting task's priority."""
        return self._run(self._verbs.priority(id, level))

    def bulk(self, action: str, **which: Any) -> BulkAnswer:
        """Act on all tasks of ``ids=`` or ``filter=``; *expect* guards against a surprise."""
        return self._run(self._verbs.bulk(action, **which))

    def pause(self) -> dict[str, Any]:
        """Start no further task until `resume`."""
        return self._run(self._verbs.switch("pause"))

    def resume(self) -> dict[str, Any]:
        return self._run(self._verbs.switch("resume"))

    def drain(self, grace: float | None = None) -> dict[str, Any]:
        """Take and start nothing more; returns when nothing runs, after *grace* seconds at the latest."""
        return self._run(self._verbs.drain(grace))

    # --- the loops that do what a flow asks

    def _run(self, flow: Flow[T], callback: Callable[[RemoteTask], object] | None = None) -> T:
        outcome: Any = None
        try:
            while True:
                step = flow.send(outcome)
                match step:
                    case Send(call):
                        outcome = self._send(call)
                    case Pause(seconds):
                        time.sleep(seconds)
                        outcome = None
                    case Now():
                        outcome = time.monotonic()
                    case Emit(item):
                        outcome = None
                        if callback is not None:
                            callback(item)
                    case _:
                        raise AssertionError(step)
        except StopIteration as end:
            value: T = end.value
            return value

    def _send(self, call: Call) -> Answer | Lost:
        arriving = _transport.Arriving(call, self._timeout + call.hold, time.monotonic)
        try:
            request = _transport.request(self._http, call, self._timeout, False)
            with answered_by(arriving.until), closing(self._http.send(request, stream=True)) as response:
                return _transport.answer(response, _read(response, arriving))
        except httpx.HTTPError as error:
            return _transport.lost(error)

    def _open(self, call: Call) -> tuple[httpx.Response | None, Answer | Lost]:
        arriving = _transport.Arriving(call, _transport.SILENCE_SECONDS, time.monotonic)
        try:
            request = _transport.request(self._http, call, self._timeout, True)
            with answered_by(arriving.until):
                response = self._http.send(request, stream=True)
                if response.is_success:
                    return response, _transport.answer(response)
                with closing(response):
                    return None, _transport.answer(response, _read(response, arriving))
        except httpx.HTTPError as error:
            return None, _transport.lost(error)

    def _iterate(self, flow: Flow[None]) -> Generator[Any, None, None]:
        response: httpx.Response | None = None
        pieces: Iterator[bytes] = iter(())
        flowing = _transport.Flowing(time.monotonic)
        outcome: Any = None
        try:
            while True:
                step = flow.send(outcome)
                outcome = None
                match step:
                    case Emit(item):
                        yield item
                    case Read():
                        try:
                            piece = next(pieces, None)
                            outcome = None if piece is None else flowing.add(piece)
                        except httpx.HTTPError as error:
                            outcome = _transport.lost(error)
                    case Open(call):
                        if response is not None:
                            response.close()
                        response, outcome = self._open(call)
                        pieces = iter(()) if response is None else response.iter_bytes()
                        flowing = _transport.Flowing(time.monotonic)
                    case Pause(seconds):
                        time.sleep(seconds)
                    case _:
                        raise AssertionError(step)
        except StopIteration:
            pass
        finally:
            if response is not None:
                response.close()


def _read(response: httpx.Response, arriving: _transport.Arriving) -> bytes:
    for piece in response.iter_bytes():
        arriving.add(piece)
        expect_by(arriving.until)
    return arriving.whole()


class TaskHandle:
    """A submitted task."""

    def __init__(self, client: Client, submitted: Submitted) -> None:
        self._client = client
        self.id = submitted.task_id

    def __repr__(self) -> str:
        return f"<TaskHandle {self.id}>"

    def task(self) -> RemoteTask:
        """Return the task as it stands now."""
        return self._client.get(self.id)

    refresh = task

    def wait(self, timeout: float | None = None) -> RemoteTask:
        return self._client.wait(self.id, timeout)

    def result(self, timeout: float | None = None) -> dict[str, Any]:
        """Return the model server's final answer; raises `TaskFailed`, `TaskCancelled` or `WaitTimeout`."""
        return self._client.result(self.id, timeout)

    def stream(self, offset: int = 0) -> Iterator[str]:
        return self._client.stream(self.id, offset)

    def follow(self, offset: int = 0) -> Iterator[RemoteLine]:
        return self._client.follow(self.id, offset)

    def cancel(self) -> RemoteTask:
        return self._client.cancel(self.id)


class Subscription:
    """Events as they happen: ``with client.subscribe() as events: for event in events: …``."""

    def __init__(self, items: Generator[Any, None, None]) -> None:
        self._items = items
        self._live = False

    def __enter__(self) -> Self:
        if not self._live:
            first = next(self._items)
            assert isinstance(first, Connected)
            self._live = True
        return self

    def __exit__(self, *reason: object) -> None:
        self.close()

    def close(self) -> None:
        self._items.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> RemoteEvent:
        self.__enter__()
        event: RemoteEvent = next(self._items)
        return event
