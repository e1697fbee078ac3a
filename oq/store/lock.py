"""One process a data folder: a lock that dies with its owner."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from oq.errors import StorageError, StorageLocked

LOCK_NAME = "oq.lock"


class FolderLock:
    """Holds ``oq.lock`` in *folder*; raises `StorageLocked` naming the owner when somebody else has it.

    The kernel's flock, not the file's existence, is the lock: a killed process leaves none behind. The file
    only tells people who the owner is.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / LOCK_NAME
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise StorageError(
                f"cannot use the data folder {folder}: {exc.strerror}; check its owner and rights"
            ) from exc
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            owner = os.pread(self._descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._descriptor)
            raise StorageLocked(
                f"the data folder {folder} is in use by another oq (process {owner}); "
                "stop that one first, or give this one a folder of its own (queue.storage_path)"
            ) from exc
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Give the folder free; harmless when done twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
