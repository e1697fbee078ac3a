"""Reading beside the writer: each call sees one consistent snapshot (ZODB's MVCC), from any thread."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import msgspec
import transaction
import ZODB
from ZODB.POSException import POSKeyError, ReadConflictError

from oq.core.model import TaskSpec
from oq.core.task import Task
from oq.errors import StorageError
from oq.store.faults import abort, describe
from oq.store.records import spec_of, task_of

T = TypeVar("T")
logger = logging.getLogger(__name__)
READERS = 4
SEARCH_CHARS = 2000  # of a prompt: a search sees its beginning, so that memory holds many
TRIES = 3  # a pack may take away an old revision under a snapshot; a new snapshot does not need it


class _Message(msgspec.Struct):
    content: str | list[Any] | None = None


class _Prompt(msgspec.Struct):
    prompt: str | None = None
    system: str | None = None
    input: str | list[Any] | None = None
    messages: list[_Message] | None = None


_decode_prompt = msgspec.json.Decoder(_Prompt, strict=False).decode


def prompt_text(payload: bytes) -> str:
    """Return what a person would call the prompt, of any type of task; of a chat the last message first.

    >>> prompt_text(b'{"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]}')
    'Hi\\nBe brief.'
    """
    try:
        found = _decode_prompt(payload)
    except msgspec.MsgspecError:
        return payload.decode("utf-8", "replace")
    parts: list[object] = [found.prompt]
    parts += found.input if isinstance(found.input, list) else [found.input]
    messages = found.messages or []
    for message in [*messages[-1:], *messages[:-1]]:
        content = message.content
        if isinstance(content, list):
            parts += [part.get("text") for part in content if isinstance(part, dict)]
        else:
            parts.append(content)
    parts.append(found.system)
    return "\n".join(part for part in parts if isinstance(part, str))


def search_text(spec: TaskSpec) -> bytes:
    """Return what a search sees of a task."""
    text = f"{spec.model}\n{prompt_text(spec.payload)[:SEARCH_CHARS]}"
    return text.casefold().encode("utf-8", "surrogatepass")


class Readers:
    """A few read-only connections, each used by one thread at a time."""

    def __init__(self, db: ZODB.DB) -> None:
        self._db = db
        self._free = threading.Semaphore(READERS)
        self._idle: list[
            tuple[Any, Any]
        ] = []  # (connection, its transaction manager); append and pop are atomic

    def get(self, keys: Iterable[int]) -> list[Task | None]:
        return self._tasks(keys, with_result=True)

    def get_light(self, keys: Iterable[int]) -> list[Task | None]:
        return self._tasks(keys, with_result=False)

    def _tasks(self, keys: Iterable[int], *, with_result: bool) -> list[Task | None]:
        wanted = list(keys)

        def read(tasks: Any) -> list[Task | None]:
            found = ((key, tasks.get(key)) for key in wanted)
            return [None if r is None else task_of(key, r, with_result=with_result) for key, r in found]

        return self.read(read)

    def specs(self, keys: Iterable[int]) -> list[TaskSpec | None]:
        wanted = list(keys)

        def read(tasks: Any) -> list[TaskSpec | None]:
            return [None if record is None else spec_of(record) for record in map(tasks.get, wanted)]

        return self.read(read)

    def texts(self, keys: Iterable[int]) -> list[bytes]:
        wanted = list(keys)

        def read(tasks: Any) -> list[bytes]:
            found = [b"" if r is None else search_text(spec_of(r)) for r in map(tasks.get, wanted)]
            tasks._p_jar.cacheGC()
            return found

        return self.read(read)

    def read(self, function: Callable[[Any], T]) -> T:
        """Return *function* of the tasks tree of one snapshot."""
        with self._free:
            for last in (False,) * (TRIES - 1) + (True,):
                try:
                    return self._read_once(function)
                except (POSKeyError, ReadConflictError) as exc:
                    if last:
                        raise StorageError(f"the store cannot be read ({describe(exc)})") from exc
                except StorageError:
                    raise
                except OSError as exc:
                    raise StorageError(f"the store cannot be read: {exc.strerror or exc}") from exc
                except Exception as exc:  # each kind of store has its own for a server that is away
                    raise StorageError(f"the store cannot be read ({describe(exc)})") from exc
        raise AssertionError("unreachable")

    def _read_once(self, function: Callable[[Any], T]) -> T:
        if self._idle:
            connection, manager = self._idle.pop()
        else:
            manager = transaction.TransactionManager(explicit=True)
            connection = self._db.open(manager)
        try:
            manager.begin()
            return function(connection.root()["tasks"])
        finally:
            abort(manager)
            connection.cacheGC()
            self._idle.append((connection, manager))

    def catch_up(self) -> None:
        """Let idle connections take note of what was written: until then ZODB lists it for each, without a bound."""
        taken = []
        while self._free.acquire(blocking=False):
            if not self._idle:
                self._free.release()
                break
            taken.append(self._idle.pop())
        for connection, manager in taken:
            try:
                manager.begin()
            except Exception:  # the store is away: who reads next says so
                logger.debug("an idle connection could not catch up", exc_info=True)
            finally:
                abort(manager)
                self._idle.append((connection, manager))
                self._free.release()

    def close(self) -> None:
        """Close the connections; the caller sees to it that nobody reads any more."""
        for _ in range(READERS):
            self._free.acquire()
        while self._idle:
            self._idle.pop()[0].close()
        for _ in range(READERS):
            self._free.release()
