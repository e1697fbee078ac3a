"""`oq` on a disk that falls ill on demand: ``python -m tests.chaos.sick serve ...``.

The variable CHAOS_DISK names a file; its text, read before each commit, is what the disk does from then on: nothing
(it is well), ``full``, ``read-only``, ``error`` (the last fsync fails), ``slow``.
"""

from __future__ import annotations

import errno
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any

from ZODB.FileStorage import FileStorage

import oq.cli
import oq.store.checked

SLOW_SECONDS = 5.0

zodb: Any = sys.modules["ZODB.FileStorage.FileStorage"]
state = Path(os.environ["CHAOS_DISK"])
begin, copy, fsync = FileStorage.tpc_begin, zodb.cp, oq.store.checked.fsync


def sickness() -> str:
    return state.read_text() if state.exists() else ""


def tpc_begin(self: Any, *args: Any, **named: Any) -> None:
    """The kernel refuses to let a file grow beyond a limit with a true error: no pretence is needed for a full disk."""
    limit = self._pos if sickness() == "full" else resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    begin(self, *args, **named)


def cp(*args: Any) -> None:
    if sickness() == "read-only":
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))
    copy(*args)


def sick_fsync(descriptor: int) -> None:
    found = sickness()
    if found == "error":
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    if found == "slow":
        time.sleep(SLOW_SECONDS)
    fsync(descriptor)


if __name__ == "__main__":
    FileStorage.tpc_begin, zodb.cp, oq.store.checked.fsync = tpc_begin, cp, sick_fsync
    oq.cli.main()
