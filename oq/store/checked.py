"""FileStorage as oq needs it: with a checksum in each record, and with readers that do not wait for the disk.

Checksums. ZODB has none: eight zeroed bytes inside a pickle open without a word. A pickle ends with its last opcode,
and whoever loads it does not look further; so five bytes after it, a CRC-32 of object id, transaction id and data, and
a mark, are invisible to ZODB and its tools (pack, repozo, fsrecover).

Records of a store that was made without checksums have none up to the transaction of its migration.

The end of a commit. ZODB holds its readers off while it waits for the disk, and closes the storage when the disk
refuses; then nothing can be read. Here a commit waits alone, which is safe: nobody finds its records before the index
has them. When the disk refuses, what was written is cut off again, and the storage stays open.

A file that was moved, replaced or deleted can be written on, and nobody would find that at the next start: then a commit is
refused, until the file is back.
"""

from __future__ import annotations

import logging
import os
import zlib
from collections.abc import Callable
from typing import Any

from ZODB.FileStorage import FileStorage
from ZODB.POSException import StorageTransactionError
from ZODB.utils import u64, z64

from oq.errors import StorageDamaged, StorageError

MARK = b"\xc3"  # a pickle's last byte is a full stop
EXTRA = 5  # bytes a record
EVER = b"\xff" * 8

STATUS_AT = 16  # of a transaction: the byte that says whether it is finished

_crc32 = zlib.crc32
fsync = os.fsync

logger = logging.getLogger(__name__)


def sealed(oid: bytes, tid: bytes, data: bytes) -> bytes:
    """Return *data* with its checksum."""
    return b"%b%b%b" % (data, _crc32(data, _crc32(oid + tid)).to_bytes(4, "big"), MARK)


def is_sound(oid: bytes, tid: bytes, data: bytes, unchecked_until: bytes = z64) -> bool:
    """Return whether *data* is what was stored; up to transaction *unchecked_until* it may be without a checksum."""
    if data[-1:] == MARK and data[-EXTRA:-1] == _crc32(data[:-EXTRA], _crc32(oid + tid)).to_bytes(4, "big"):
        return True
    return tid <= unchecked_until and data[-1:] == b"."


class CheckedFileStorage(FileStorage):  # type: ignore[misc]
    """Writes a checksum with each record and compares it at each read; `StorageDamaged` where it does not fit."""

    unchecked_until = EVER  # until the root has told
    _transaction: Any

    def store(self, oid: bytes, oldserial: bytes, data: bytes, version: str, transaction: Any) -> None:
        super().store(oid, oldserial, sealed(oid, self._tid, data), version, transaction)

    def load(self, oid: bytes, version: str = "") -> tuple[bytes, bytes]:
        data, tid = super().load(oid, version)
        if not is_sound(oid, tid, data, self.unchecked_until):
            raise self._damaged(oid, tid)
        return data, tid

    def loadBefore(self, oid: bytes, tid: bytes) -> tuple[bytes, bytes, bytes | None] | None:
        found: tuple[bytes, bytes, bytes | None] | None = super().loadBefore(oid, tid)
        if found is not None and not is_sound(oid, found[1], found[0], self.unchecked_until):
            raise self._damaged(oid, found[1])
        return found

    def tpc_vote(self, transaction: Any) -> Any:
        self._check_place()  # a pack changes the file under the commit lock, too
        return super().tpc_vote(transaction)

    def tpc_finish(self, transaction: Any, f: Callable[[bytes], None] | None = None) -> bytes:
        if transaction is not self._transaction:
            raise StorageTransactionError("tpc_finish called with wrong transaction")
        tid: bytes = self._tid
        try:
            try:
                self._make_durable()
            except BaseException:
                self._take_back()
                raise
            with self._files.write_lock(), self._lock:
                if f is not None:
                    f(tid)
                self._pos = self._nextpos
                self._index.update(self._tindex)
                self._ltid = tid
                self._clear_temp()
        finally:
            self._ude = self._transaction = None
            self._commit_lock.release()
        return tid

    def _make_durable(self) -> None:
        """Mark the transaction at the end as finished and wait until it is on disk. Only the commit lock is held."""
        self._file.seek(self._pos + STATUS_AT)
        self._file.write(self._tstatus.encode())
        self._file.flush()
        fsync(self._file.fileno())

    def _check_place(self) -> None:
        try:
            in_place = os.path.samestat(os.stat(self._file_name), os.fstat(self._file.fileno()))
        except FileNotFoundError:
            in_place = False
        if not in_place:
            raise StorageError(
                f"{self._file_name} is no more the file that this server writes: it, or its folder, was moved, replaced or "
                "deleted; put it back, or stop the server and start it on what is there now"
            )

    def _take_back(self) -> None:
        """Cut the transaction at the end off again; close the storage if the disk refuses even that."""
        with self._files.write_lock(), self._lock:
            try:
                self._file.truncate(self._pos)
                self._files.empty()
            except Exception:
                logger.critical("the disk takes nothing back; closing %s", self._file_name, exc_info=True)
                closed = True
            else:
                closed = False
        if closed:
            self.close()

    def _damaged(self, oid: bytes, tid: bytes) -> StorageDamaged:
        return StorageDamaged(
            f"a record in {self._file_name} is damaged (object {u64(oid):#x}, at byte {self._index_get(oid, 0)}, "
            f"transaction {tid.hex()}): its checksum does not fit; `oq doctor --deep` names the tasks concerned, "
            "a backup has them"
        )
