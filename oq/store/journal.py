"""The one writer. Each `commit` is one transaction and one fsync, whatever number of steps it carries."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import transaction
import ZODB

from oq.config.values import without_password
from oq.core.messages import Step, Write
from oq.core.model import Recovered, TaskSpec, TaskState
from oq.core.task import Task
from oq.errors import OqError, StorageDamaged, StorageError
from oq.store.documents import put_documents, read_documents
from oq.store.faults import abort, translated
from oq.store.lease import Lease
from oq.store.migrations import prepare_root
from oq.store.reader import Readers
from oq.store.records import ResultRecord, new_record, pack_state
from oq.store.recovery import recover
from oq.store.remote import open_remote
from oq.store.storages import DataFolder, open_memory

LEASE = 15.0  # seconds; the default of queue.storage_lease
UNREAD_MOST = 10_000  # writes of which an idle reader keeps a list
_SPILL = 1000  # writes in a commit after which the cache is emptied at once rather than bit by bit

logger = logging.getLogger(__name__)


def open_journal(where: Any = None, storage_uri: str | None = None, lease: float = LEASE) -> ZodbJournal:
    """Open the store; `StorageLocked`, `StorageDamaged` or `StorageError` when that cannot be.

    Args:
        where: a data folder, or an object with `storage_path`, `storage` and `storage_lease` (the section queue
        of the settings). None, without a URI: a store in memory, for tests.
        storage_uri: a store beyond this machine (`oq.store.remote`), instead of a file in the folder.
        lease: seconds after which such a store is free when its owner is silent (`oq.store.lease`).
    """
    if where is not None and not isinstance(where, (str, os.PathLike)):
        storage_uri, lease = storage_uri or where.storage, where.storage_lease
        where = where.storage_path
    if storage_uri is not None or where is None:
        return ZodbJournal(uri=storage_uri, lease=lease)
    return ZodbJournal(DataFolder(Path(where).expanduser()))


class ZodbJournal:
    """`oq.ports.Journal` on ZODB. Of `recover` and `commit` one runs at a time; `pack` beside them."""

    def __init__(
        self, folder: DataFolder | None = None, uri: str | None = None, lease: float = LEASE
    ) -> None:
        self._folder = folder
        self._uri = uri
        self._lease_seconds = lease
        self._lease: Lease | None = None
        self._unread = 0  # writes since idle readers took note of any
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
        db: ZODB.DB = folder.open() if folder else open_remote(uri) if uri else open_memory()
        where = str(folder.file) if folder else without_password(uri) if uri else "in memory"
        self._manager = transaction.TransactionManager(explicit=True)
        try:
            if uri:
                self._lease = Lease(db, where, self._lease_seconds)
            connection = db.open(self._manager)
            self._manager.begin()
            root = connection.root()
            if prepare_root(root, used=folder is not None and folder.used, where=where):
                self._manager.commit()
            else:
                self._manager.abort()
            if folder is not None:
                self._manager.begin()
                folder.check_end(db.storage, root)
                self._manager.abort()
                folder.mark_used()
        except OqError:
            self._abandon(db)
            raise
        except Exception as exc:
            self._abandon(db)
            raise translated(exc, "cannot be prepared") from exc
        self._db, self._connection, self._root = db, connection, root
        self._readers = Readers(db)

    def _abandon(self, db: ZODB.DB) -> None:
        abort(self._manager)
        if self._lease is not None:
            self._lease.release()
        db.storage.close()  # not db.close(): it wants every transaction begun

    # --- the writer
    def recover(self) -> Recovered:
        manager, connection = self._manager, self._connection
        manager.begin()
        try:
            return recover(self._root, connection, remote=self._lease is not None)
        except OqError:
            raise
        except Exception as exc:
            if self._lease is not None:
                raise translated(exc, "cannot be read") from exc
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
        if not any(step.for_disk for step in steps):
            return
        if self._broken_at is not None:
            self._reopen()
        manager = self._manager
        try:
            manager.begin()
            if self._lease is not None:
                self._lease.guard(self._connection)
            self._put(steps)
            manager.commit()
        except Exception as exc:
            self._undo()
            raise translated(exc, "cannot be written") from exc
        except BaseException:
            self._undo()
            raise
        if writes > _SPILL:
            self._connection.cacheMinimize()
        self._unread += writes
        if self._unread >= UNREAD_MOST:
            self._unread = 0
            self._readers.catch_up()

    def _undo(self) -> None:
        """Leave a commit that failed. Whether one that was cut off took place is not known: look again at what is stored."""
        abort(self._manager)
        self._connection.cacheMinimize()
        self._note_broken()

    def _put(self, steps: Sequence[Step]) -> None:
        """Bring *steps* into the transaction. They may be there already: a commit whose answer was lost is tried again."""
        tasks = self._root["tasks"]
        gone = {key for step in steps for key in step.deletes}
        for step in steps:
            for write in step.writes:
                if write.key not in gone:
                    _put(tasks, write)
            if step.documents:
                put_documents(self._root, step.documents)
            if step.paused is not None:
                self._root["paused"] = step.paused
        for key in gone:
            tasks.pop(key, None)

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
            raise translated(exc, "cannot be opened again") from exc
        self._broken_at = None

    def pack(self) -> None:
        try:
            self._db.pack()
            if self._folder is not None:
                self._folder.after_pack()
            if self._lease is not None:
                self._lease.measure()
        except Exception as exc:
            raise translated(exc, "cannot be packed") from exc

    def size(self) -> int:
        if self._lease is not None:
            return self._lease.size
        try:
            return self._folder.size() if self._folder else int(self._db.getSize() or -1)
        except (OSError, NotImplementedError):
            return -1

    def wait_lost(self) -> None:
        """Block until the store is closed; `StorageLocked` when somebody else has taken it."""
        if self._lease is not None:
            self._lease.wait_lost()

    def close(self) -> None:
        """Close the store and give the folder free; harmless when done twice."""
        if self._closed:
            return
        self._closed = True
        try:
            self._readers.close()
            if self._lease is not None:
                self._lease.release()
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

    def texts(self, keys: Iterable[int]) -> list[bytes]:
        return self._readers.texts(keys)

    def documents(self, prefix: str) -> list[tuple[str, bytes]]:
        return self._readers.read(lambda tasks: read_documents(tasks._p_jar.root(), prefix))


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
