"""The one writer. Each `commit` is one transaction and one fsync, whatever number of steps it carries."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import transaction
import ZODB

from oq.core.messages import Step, Write
from oq.core.model import Recovered, Task, TaskSpec, TaskState
from oq.errors import OqError, StorageDamaged, StorageError, StorageFull
from oq.store.migrations import prepare_root
from oq.store.reader import Readers
from oq.store.records import ResultRecord, new_record, pack_state
from oq.store.recovery import recover
from oq.store.storages import DataFolder, open_memory, open_uri

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_SPILL = 1000  # writes in a commit after which the cache is emptied at once rather than bit by bit

logger = logging.getLogger(__name__)


def open_journal(where: Any = None, storage_uri: str | None = None) -> ZodbJournal:
    """Open the store; `StorageLocked`, `StorageDamaged` or `StorageError` when that cannot be.

    Args:
        where: a data folder, or an object with `storage_path` and `storage` (the section queue of the
        settings). None, without a URI: a store in memory, for tests.
        storage_uri: a zodburi, instead of a file in the folder.
    """
    if where is not None and not isinstance(where, (str, os.PathLike)):
        storage_uri = storage_uri or where.storage
        where = where.storage_path
    if storage_uri is not None or where is None:
        return ZodbJournal(uri=storage_uri)
    return ZodbJournal(DataFolder(Path(where).expanduser()))


class ZodbJournal:
    """`oq.ports.Journal` on ZODB. Of `recover` and `commit` one runs at a time; `pack` beside them."""

    def __init__(self, folder: DataFolder | None = None, uri: str | None = None) -> None:
        self._folder = folder
        self._uri = uri
        self._broken_at: int | None = None  # where the data file ended before a commit that broke the storage
        self._closed = False
        try:
            self._open()
        except BaseException:
            if folder is not None:
                folder.release()
            raise

    def _open(self) -> None:
        folder, uri = self._folder, self._uri
        db: ZODB.DB = folder.open() if folder else open_uri(uri) if uri else open_memory()
        try:
            self._manager = transaction.TransactionManager(explicit=True)
            connection = db.open(self._manager)
            where = str(folder.file) if folder else (uri or "in memory").partition(":")[0]
            self._manager.begin()
            root = connection.root()
            if prepare_root(root, used=folder is not None and folder.used, where=where):
                self._manager.commit()
            else:
                self._manager.abort()
            if folder is not None:
                folder.mark_used()
        except OqError:
            self._abandon(db)
            raise
        except Exception as exc:
            self._abandon(db)
            raise _translated(exc, "cannot be prepared") from exc
        self._db, self._connection, self._root = db, connection, root
        self._readers = Readers(db)

    def _abandon(self, db: ZODB.DB) -> None:
        try:
            self._manager.abort()
        except Exception:
            logger.debug("nothing to abort", exc_info=True)
        db.storage.close()  # not db.close(): it wants every transaction begun

    # --- the writer
    def recover(self) -> Recovered:
        manager, connection = self._manager, self._connection
        manager.begin()
        try:
            return recover(self._root, connection)
        except OqError:
            raise
        except Exception as exc:
            raise StorageDamaged(
                f"the store cannot be read ({type(exc).__name__}: {exc}); copy it, then restore a backup"
            ) from exc
        finally:
            manager.abort()
            connection.cacheMinimize()

    def commit(self, steps: Sequence[Step]) -> None:
        if self._closed:
            raise StorageError("the store is closed")
        writes = sum(len(step.writes) + len(step.deletes) for step in steps)
        if not writes and all(step.paused is None for step in steps):
            return
        if self._broken_at is not None:
            self._reopen()
        manager = self._manager
        try:
            manager.begin()
            try:
                tasks = self._root["tasks"]
                for step in steps:
                    for write in step.writes:
                        _put(tasks, write)
                    for key in step.deletes:
                        tasks.pop(key, None)
                    if step.paused is not None:
                        self._root["paused"] = step.paused
                manager.commit()
            except BaseException:
                manager.abort()
                raise
        except Exception as exc:
            self._note_broken()
            raise _translated(exc, "cannot be written") from exc
        if writes > _SPILL:
            self._connection.cacheMinimize()

    def _note_broken(self) -> None:
        """FileStorage closes itself when the last fsync fails; then the file must be opened anew."""
        storage = self._db.storage
        file = getattr(storage, "_file", None)
        if self._folder is not None and file is not None and file.closed:
            self._broken_at = storage._pos

    def _reopen(self) -> None:
        assert self._folder is not None
        assert self._broken_at is not None
        logger.warning("opening %s again after a failed write", self._folder.file)
        self._readers.close()
        try:
            # What the failed commit left behind was refused to its callers: it must not come back by itself.
            os.truncate(self._folder.file, self._broken_at)
            Path(str(self._folder.file) + ".index").unlink(missing_ok=True)
            self._open()
        except OSError as exc:
            raise _translated(exc, "cannot be opened again") from exc
        self._broken_at = None

    def pack(self) -> None:
        try:
            self._db.pack()
            if self._folder is not None:
                self._folder.after_pack()
        except Exception as exc:
            raise _translated(exc, "cannot be packed") from exc

    def size(self) -> int:
        try:
            return self._folder.size() if self._folder else int(self._db.getSize() or -1)
        except (OSError, NotImplementedError):
            return -1

    def close(self) -> None:
        """Close the store and give the folder free; harmless when done twice."""
        if self._closed:
            return
        self._closed = True
        try:
            self._readers.close()
            if self._broken_at is None:
                self._connection.close()
                self._db.close()
        finally:
            if self._folder is not None:
                self._folder.release()

    # --- reads, from any thread
    def get(self, keys: Iterable[int]) -> list[Task | None]:
        return self._readers.get(keys)

    def get_light(self, keys: Iterable[int]) -> list[Task | None]:
        return self._readers.get_light(keys)

    def specs(self, keys: Iterable[int]) -> list[TaskSpec | None]:
        return self._readers.specs(keys)

    def search(self, text: str, keys: Iterable[int], stop_after: int) -> list[int]:
        return self._readers.search(text, keys, stop_after)


def _put(tasks: Any, write: Write) -> None:
    state: TaskState = write.state
    if write.spec is not None:
        record = tasks[write.key] = new_record(write.spec, state)
    else:
        record = tasks[write.key]
        record.state = pack_state(state)
        if not state.status.finished and record.result is not None:
            record.result = None  # it runs again: the old result is no longer its
    if write.result is not None:
        record.result = ResultRecord(write.result)


def _translated(exc: Exception, what: str) -> StorageError:
    if isinstance(exc, StorageError):
        return exc
    if isinstance(exc, OSError) and exc.errno in FULL:
        return StorageFull(
            f"the store {what}: {exc.strerror}; free some space on its disk, nothing acknowledged is lost"
        )
    return StorageError(f"the store {what} ({type(exc).__name__}: {exc}); nothing acknowledged is lost")
