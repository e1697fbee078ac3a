"""`oq` as a process that kills itself at a named instant: ``python -m tests.chaos.doomed serve ...``.

The variable CHAOS_KILL names the instant and its number, such as ``after-commit:3``. oq itself has no hook for this:
the functions are replaced from outside. Beside that, every look at the data file packs it, so that packs are frequent.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ZODB.FileStorage
from ZODB.FileStorage import FileStorage

import oq.cli
import oq.engine
import oq.store.checked
import oq.store.recovery
from oq.core.schedule import Schedule
from oq.store.checked import CheckedFileStorage
from oq.store.journal import ZodbJournal
from oq.store.storages import DataFolder

PLACES: dict[str, tuple[Any, str, bool]] = {
    # instant: (where the function is, its name, whether the kill comes after it)
    "before-commit": (ZodbJournal, "commit", False),
    "commit-written": (CheckedFileStorage, "_make_durable", False),  # it is in the file, marked unfinished
    "commit-marked": (oq.store.checked, "fsync", False),  # marked finished, not yet forced to disk
    "commit-durable": (CheckedFileStorage, "_make_durable", True),  # on disk, not yet in memory
    "after-commit": (ZodbJournal, "commit", True),  # on disk, nobody has been told
    "before-pack": (ZodbJournal, "pack", False),
    "pack-written": (FileStorage, "packer", True),
    "after-renames": (DataFolder, "after_pack", False),
    "after-pack": (ZodbJournal, "pack", True),
    "in-recovery": (oq.store.recovery, "unpack_state", False),
    "after-recovery": (Schedule, "recover", True),
    "before-marker": (DataFolder, "mark_used", False),
    "opening": (DataFolder, "open", False),
}
RENAMES = {
    # instant: (end of the renamed file's name, whether the kill comes after it)
    "between-renames": ("Data.fs.pack", False),
    "undoing-a-pack": ("Data.fs.old", True),
    "before-index": (".index_tmp", False),
    "marker-written": ("oq.tmp", False),
}
INSTANTS = (*PLACES, *RENAMES)
ONCE = ("marker-written",)  # only at a folder's first start


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def doom(function: Callable[..., Any], number: int, after: bool) -> Callable[..., Any]:
    """Return *function*, at whose pass *number* the process dies."""
    left = [number]

    def doomed(*args: Any, **named: Any) -> Any:
        left[0] -= 1
        if after:
            found = function(*args, **named)
            if left[0] <= 0:
                die()
            return found
        if left[0] <= 0:
            die()
        return function(*args, **named)

    return doomed


def arrange(text: str) -> None:
    """Prepare the death that *text* describes."""
    instant, _, number = text.partition(":")
    if instant in PLACES:
        place, name, after = PLACES[instant]
        if name == "packer":
            storages = ZODB.FileStorage.FileStorage
            storages.packer = staticmethod(doom(storages.packer, int(number), after))
        else:
            setattr(place, name, doom(getattr(place, name), int(number), after))
        return
    ending, after = RENAMES[instant]
    rename, path_rename = os.rename, Path.rename
    doomed = doom(rename, int(number), after)

    def watched(source: Any, target: Any, **named: Any) -> None:
        (doomed if str(source).endswith(ending) else rename)(source, target, **named)

    def path_watched(self: Path, target: Any) -> Path:
        watched(str(self), str(target))
        return Path(target)

    os.rename, Path.rename = watched, path_watched  # type: ignore[assignment, method-assign]
    assert path_rename is not Path.rename


if __name__ == "__main__":
    oq.engine.PACK_SLACK_BYTES = -(2**60)  # every look finds the file grown
    if "CHAOS_KILL" in os.environ:
        arrange(os.environ["CHAOS_KILL"])
    oq.cli.main()
