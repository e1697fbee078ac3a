"""Opens a store: a file in a data folder, or memory for tests. Refuses what looks damaged.

A missing or damaged file is never silently replaced by an empty one (ZODB would do that). The marker
``oq.json``, written once the first file is safe on disk, says that a folder has been used, and by which store.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import zc.lockfile
import ZODB
from ZODB.FileStorage import FileStorage
from ZODB.FileStorage.FileStorage import FileStorageError
from ZODB.MappingStorage import MappingStorage
from ZODB.POSException import POSError
from ZODB.utils import z64

from oq.durable import fsync_path
from oq.errors import OqError, StorageDamaged, StorageError, StorageLocked
from oq.store.checked import CheckedFileStorage
from oq.store.identity import MARKER_NAME, new_id, write_facts
from oq.store.lock import FolderLock
from oq.store.migrations import SCHEMA
from oq.store.tail import check_cut, check_transactions

FILE_NAME = "Data.fs"
FILES_FOLDER = "files"  # beside it: what was uploaded for batches, and their results
PART = ".part"  # ends the name of a file that is being written
# Objects and bytes a connection keeps between transactions. Few: the schedule and the catalog hold what is
# asked often, and what is left (tree nodes, the records of running tasks) is small and in the page cache.
CACHE_OBJECTS = 400
CACHE_BYTES = 8 * 1024 * 1024
CONNECTIONS = 7  # the writer's, four readers', the lease's, one to spare
MAGIC = b"FS30"

logger = logging.getLogger(__name__)


def is_data_file(path: Path) -> bool:
    """Return whether the file at *path* begins as ZODB's do."""
    with path.open("rb") as file:
        magic = file.read(4)
    return len(magic) == 4 and magic[:2] == MAGIC[:2]


class DataFolder:
    """A data folder, locked for this process: `open` gives its database."""

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as exc:
            why = exc.strerror
            if folder.is_symlink() and not folder.exists():
                why = f"it is a link to {folder.readlink()}, which is not there"
            raise StorageError(
                f"cannot make the data folder {folder}: {why}; see queue.storage_path"
            ) from exc
        self.folder = folder
        self.file = folder / FILE_NAME
        self._marker = folder / MARKER_NAME
        self._lock = FolderLock(folder)
        try:
            folder.chmod(0o700)  # pickles run code: nobody else may write here, nor read prompts
        except OSError as exc:
            logger.warning("cannot set the rights of %s to 0700: %s", folder, exc.strerror)

    @property
    def used(self) -> bool:
        """Whether a store was made here before."""
        return self._marker.exists()

    def open(self) -> ZODB.DB:
        self._check()
        try:
            return self._open_once()
        except OqError:
            raise
        except zc.lockfile.LockError as exc:
            raise StorageLocked(f"{self.file} is in use by another process; stop that one first") from exc
        except OSError as exc:
            raise StorageError(
                f"cannot open {self.file}: {exc.strerror or exc}; check its owner and rights"
            ) from exc
        except Exception:
            # A file that ends in zeros (a power cut) fails the first time and is repaired by it: the zeros
            # are no transactions, ZODB cuts them off.
            logger.warning("opening %s failed, trying once more", self.file, exc_info=True)
        try:
            return self._open_once()
        except OqError:
            raise
        except Exception as exc:
            raise self._damaged(f"cannot be read ({type(exc).__name__}: {exc})") from exc

    def _open_once(self) -> ZODB.DB:
        storage = open_file(self.file)
        try:
            check_cut(self.file)
        except BaseException:
            storage.close()
            raise
        storage.pack_keep_old = True  # `ZodbJournal.pack` removes it, once the new file is safe
        try:
            if self.used or storage._index:  # a DB would make an empty root where there is none
                try:
                    storage.load(z64)
                except POSError as exc:
                    raise self._damaged("holds no tasks, though this folder has been used") from exc
            return make_db(storage)
        except BaseException:
            storage.close()
            raise

    @staticmethod
    def check_end(storage: Any, root: Mapping[str, Any]) -> None:
        """Look at the last transactions of a file that was opened; from now on each read compares checksums."""
        storage.unchecked_until = root["unchecked_until"]
        check_transactions(storage)

    def _check(self) -> None:
        """Refuse a folder whose file is missing or cut off; undo a pack killed between its renames."""
        old, packed = self.file.with_name(FILE_NAME + ".old"), self.file.with_name(FILE_NAME + ".pack")
        if not self.file.exists():
            if old.exists() and packed.exists():
                # The pack renames Data.fs to .old, then .pack to Data.fs; .old is the whole store, untouched.
                logger.warning("a pack was interrupted: %s becomes %s again", old.name, self.file.name)
                old.rename(self.file)
                fsync_path(self.folder)
            elif old.exists():
                raise StorageDamaged(
                    f"{self.file} is missing, but {old.name} is there: a pack was interrupted or the "
                    f"file was moved; rename {old.name} to {FILE_NAME}, or restore {FILE_NAME} from a backup"
                )
            elif self.used:
                raise StorageDamaged(
                    f"{self.file} is missing, though this folder has been used; restore it from a backup, "
                    f"or remove {MARKER_NAME} to start with an empty queue"
                )
            return
        if self.used and not is_data_file(self.file):
            raise self._damaged("is empty or no ZODB file")

    def _damaged(self, what: str) -> StorageDamaged:
        return StorageDamaged(
            f"{self.file} {what}; stop here and copy the folder, then restore a backup, or salvage what "
            f"is readable with ZODB's fsrecover (python -m ZODB.fsrecover {FILE_NAME} recovered.fs)"
        )

    def mark_used(self, store: str | None = None) -> None:
        """Write the marker: from now on a missing file is a loss. *store* is the id of one that was restored."""
        if self.used and store is None:
            return
        fsync_path(self.folder)  # first the file's name, then the claim that it exists
        write_facts(self._marker, {"program": "oq", "schema": SCHEMA, "store": store or new_id()})

    def size(self) -> int:
        """Return the bytes of the data file."""
        return self.file.stat().st_size

    def after_pack(self) -> None:
        """Make the packed file safe, then drop the one before."""
        fsync_path(self.file)
        fsync_path(self.folder)
        self.file.with_name(FILE_NAME + ".old").unlink(missing_ok=True)

    def release(self) -> None:
        self._lock.release()


def open_file(path: Path, *, read_only: bool = False) -> Any:
    """Return the storage of *path*. One that cannot be read is closed: ZODB would leave that, and its lock, to chance."""
    storage: Any = CheckedFileStorage.__new__(CheckedFileStorage)
    try:
        storage.__init__(str(path), read_only=read_only, packer=_pack_to_disk)
    except BaseException:
        for name in ("_tfile", "_file", "_files", "_lock_file"):
            part = getattr(storage, name, None)
            if part is not None:
                part.close()
        raise
    return storage


def _pack_to_disk(storage: Any, referencesf: Any, stop: bytes, gc: bool) -> Any:
    """Pack as FileStorage does, but put the new file on disk before it takes the old one's place."""
    found = FileStorage.packer(storage, referencesf, stop, gc)
    if found is not None:
        try:
            fsync_path(Path(storage._file_name + ".pack"))
            Path(storage._file_name + ".index").unlink(missing_ok=True)  # it describes the old file
        except BaseException:
            storage._commit_lock.release()  # taken by the packer, released by our caller only on success
            raise
    return found


def make_db(storage: Any) -> ZODB.DB:
    return ZODB.DB(
        storage,
        pool_size=CONNECTIONS,
        cache_size=CACHE_OBJECTS,
        cache_size_bytes=CACHE_BYTES,
        large_record_size=1 << 30,
    )


def open_memory() -> ZODB.DB:
    """Return a store that forgets, for tests."""
    return make_db(MappingStorage())


__all__ = ["DataFolder", "FileStorageError", "make_db", "open_file", "open_memory"]
