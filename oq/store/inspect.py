"""Reads everything in a data file and compares its checksums: damage shows only where somebody reads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from oq.core.ids import format_id
from oq.errors import StorageDamaged, StorageError
from oq.store.checked import EVER
from oq.store.faults import describe
from oq.store.migrations import check_root
from oq.store.records import task_of
from oq.store.storages import make_db, open_file
from oq.store.tail import check_transactions

BATCH = 1000  # tasks after which what was read is dropped again


def inspect_file(path: Path, unreadable: Callable[[str, str], None]) -> int:
    """Read every task of the data file at *path*, also beside a running oq; return how many could be read.

    *unreadable* is called with id and reason of each that cannot. `StorageDamaged` when the file itself cannot be read,
    or is damaged where no task lies (an older state of one, a document, the order of transactions); `StorageError` when a
    newer oq wrote it.
    What was written before a store had checksums (schema 1) and still makes sense is not noticed.
    """
    try:
        storage = open_file(path, read_only=True)
    except Exception as exc:
        raise StorageDamaged(f"{path} cannot be read ({describe(exc)}); restore a backup") from exc
    read = damaged = 0
    try:
        db = make_db(storage)
        connection = db.open()
        check_root(connection.root(), used=True, where=str(path))
        storage.unchecked_until = connection.root().get("unchecked_until", EVER)
        for number, (key, record) in enumerate(connection.root()["tasks"].items(), 1):
            try:
                task = task_of(key, record, with_result=True)
                for part in (task.spec.payload, task.spec.options, task.spec.keep_alive, task.result_json):
                    if part is not None:
                        msgspec.json.decode(part)
                read += 1
            except Exception as exc:
                damaged += 1
                unreadable(format_id(key), describe(exc))
            if number % BATCH == 0:
                connection.cacheMinimize()
        connection.transaction_manager.abort()
        if not damaged:
            check_transactions(storage, since=0)
    except StorageError:
        raise
    except Exception as exc:
        raise StorageDamaged(f"{path} cannot be read to its end ({describe(exc)}); restore a backup") from exc
    finally:
        storage.close()
    return read
