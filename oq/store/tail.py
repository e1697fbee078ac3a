"""Looks at the end of a data file when it is opened: there a power cut, or a disk that lied, leaves its traces.

A commit writes its transaction with the status "c" (unfinished), then the status " ". So at the end of a file there
may be one unfinished transaction, whole or in part, or zeros: ZODB moves that to ``Data.fs.tr0`` and goes on. It does
the same when a damaged length or status makes it believe so in the middle of the file: then what it moves away has
finished transactions in it, and nothing may go on.
"""

from __future__ import annotations

import logging
import mmap
import struct
from pathlib import Path
from typing import Any

from ZODB.utils import u64

from oq.errors import StorageDamaged
from oq.store.checked import is_sound

TAIL_BYTES = 4 * 1024 * 1024  # looked at, transaction by transaction: about 70 ms
TRANSACTION = struct.Struct(">8sQcHHH")  # ZODB/FileStorage/format.py: tid, length, status, three lengths
RECORD = struct.Struct(
    ">8s8sQQHQ"
)  # oid, tid, position before, position of the transaction, 0, length of data
BEGIN = 4  # of the first transaction
FINISHED = (b" ", b"p")

logger = logging.getLogger(__name__)


def check_cut(path: Path) -> None:
    """Remove what was cut off the data file at *path* if it was one unfinished transaction; else `StorageDamaged`."""
    for cut in sorted(path.parent.glob(f"{path.name}.tr[0-9]*")):
        if _has_finished(cut):
            raise StorageDamaged(
                f"{path} was damaged at byte {path.stat().st_size}, and finished transactions came after that: "
                f"they are in {cut.name}; restore a backup, or put them back (cat {cut.name} >> {path.name}) and "
                f"salvage what is readable with ZODB's fsrecover; only if neither matters, remove {cut.name}"
            )
        logger.warning("%s: a commit that was cut off (%d bytes) is removed; nobody had an answer to it",
                       path, cut.stat().st_size)  # fmt: skip
        cut.unlink()


def _has_finished(cut: Path) -> bool:
    """Return whether the end of a cut off part is, or was, the end of a finished transaction."""
    content = cut.read_bytes()
    if len(content) < TRANSACTION.size + 8:
        return False
    length = u64(content[-8:])
    start = len(content) - 8 - length
    if length < TRANSACTION.size or start < 0:
        return False
    _, said, status, *_ = TRANSACTION.unpack_from(content, start)
    # Begins and ends where it should, but does not say so: its length was changed. An unfinished one stays "c".
    return bool(status in FINISHED and said == length) or (start == 0 and status != b"c")


def check_transactions(storage: Any, since: int | None = None) -> None:
    """Read the transactions of a file from its end back to byte *since*; `StorageDamaged` says what does not fit.

    None: back to where a power cut may have left traces.
    """
    end: int = storage._pos
    if end <= BEGIN:
        return
    since = max(BEGIN, end - TAIL_BYTES) if since is None else since
    with mmap.mmap(storage._file.fileno(), end, access=mmap.ACCESS_READ) as content:
        after = end
        while after > max(since, BEGIN):
            length = u64(content[after - 8 : after])
            at = after - 8 - length
            problem = _problem(content, at, after - 8, storage.unchecked_until)
            if problem:
                raise _damaged(Path(storage._file_name), after, problem, last=after == end, at=at)
            after = at


def _problem(content: mmap.mmap, begin: int, end: int, unchecked_until: bytes) -> str:
    """Return what is wrong with the transaction between two positions, nothing if it is sound."""
    if begin < BEGIN or begin + TRANSACTION.size > end:
        return "the length at its end is wrong"
    tid, length, status, *lengths = TRANSACTION.unpack_from(content, begin)
    if length != end - begin:
        return "its lengths at the beginning and at the end differ"
    if status not in FINISHED:
        return f"its status is {status!r}"
    at = begin + TRANSACTION.size + sum(lengths)
    while at < end:
        if at + RECORD.size > end:
            return "its records do not add up"
        oid, serial, _, transaction, version, size = RECORD.unpack_from(content, at)
        data_end = at + RECORD.size + size
        if serial != tid or transaction != begin or version or data_end > end:
            return f"the head of the record at byte {at} is wrong"
        if not is_sound(oid, serial, content[at + RECORD.size : data_end], unchecked_until):
            return f"the checksum of the record at byte {at} does not fit"
        at = data_end
    return "" if at == end else "its records do not add up"


def _damaged(path: Path, after: int, problem: str, *, last: bool, at: int) -> StorageDamaged:
    advice = "copy the folder, then restore a backup"
    if last and at >= BEGIN:
        advice = (
            "it is the last one: if the power failed while it was written, nobody had an answer to it, and "
            f"`truncate -s {at} {path.name}` takes it away; otherwise {advice}"
        )
    return StorageDamaged(
        f"{path} is damaged: in the transaction that ends at byte {after}, {problem}; {advice}"
    )
