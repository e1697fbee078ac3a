"""What went wrong in a storage, as one of oq's errors."""

from __future__ import annotations

import errno
import logging

import transaction

from oq.errors import StorageError, StorageFull

FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

logger = logging.getLogger(__name__)


def describe(exc: Exception) -> str:
    """Return kind and text of an error on one line: libpq writes several, ZEO sometimes none."""
    text = " ".join(str(exc).split())
    return f"{type(exc).__name__}: {text}" if text else type(exc).__name__


def translated(exc: Exception, what: str) -> StorageError:
    """Return *exc* as a `StorageError`; *what* goes after "the store"."""
    if isinstance(exc, StorageError):
        return exc
    if isinstance(exc, OSError) and exc.errno in FULL:
        return StorageFull(
            f"the store {what}: {exc.strerror}; free some space on its disk, nothing acknowledged is lost"
        )
    return StorageError(f"the store {what} ({describe(exc)}); nothing acknowledged is lost")


def abort(manager: transaction.TransactionManager) -> None:
    """Abort what runs, whatever state a failure has left it in."""
    try:
        manager.abort()
    except Exception:
        logger.debug("the abort failed too", exc_info=True)
