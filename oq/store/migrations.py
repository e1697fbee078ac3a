"""Numbered changes of the disk layout. A store says its number in ``root["schema"]``.

To change the layout: raise `SCHEMA`, and add the step from the number before it to `MIGRATIONS`. Steps run
one after the other in one transaction when a store is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

from BTrees.LOBTree import LOBTree
from ZODB.utils import z64

from oq.errors import StorageDamaged, StorageError

SCHEMA = 2


def _expect_checksums(root: Any) -> None:
    """From now on records in a file have checksums (`oq.store.checked`); those written so far have none."""
    root["unchecked_until"] = root._p_jar.db().lastTransaction()


# From this number to the next.
MIGRATIONS: dict[int, Callable[[MutableMapping[str, Any]], None]] = {1: _expect_checksums}


def check_root(root: Mapping[str, Any], *, used: bool, where: str) -> None:
    """Refuse a store that is not ours, is lost, or is from a newer oq. Changes nothing.

    *used* says that the store was in use before: then an empty root is a loss, not a new store.
    """
    schema = root.get("schema")
    if schema is None:
        if used or set(root) - {"lease"}:  # a remote store is leased before it is filled
            raise StorageDamaged(
                f"the store {where} was in use before but holds no tasks table now; "
                "it was replaced or damaged: put a backup in its place (oq never starts empty by itself)"
            )
    elif schema > SCHEMA:
        raise StorageError(
            f"the store {where} has schema {schema}, written by a newer oq; this one knows up to {SCHEMA}: "
            "upgrade oq, or use another store"
        )


def prepare_root(root: MutableMapping[str, Any], *, used: bool, where: str) -> bool:
    """Bring *root*, once it is checked, to `SCHEMA`; return whether something changed."""
    check_root(root, used=used, where=where)
    schema = root.get("schema")
    if schema is None:
        root["schema"] = SCHEMA
        root["tasks"] = LOBTree()
        root["paused"] = False
        root["unchecked_until"] = z64
        return True
    changed = False
    while schema < SCHEMA:
        MIGRATIONS[schema](root)
        schema += 1
        root["schema"] = schema
        changed = True
    return changed
