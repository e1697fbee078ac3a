"""One process a remote store, where no folder can be locked.

The root's `LeaseRecord` names the owner. Two rules make it safe and one makes it live:

1. Fence. Each commit of the queue reads the record in its own transaction (`readCurrent`): once somebody else has
   taken the store, the storage refuses the commit. So two owners never both write, whatever clocks and networks do.
2. Take by a transaction. Of two that take a free store together, one gets a conflict.
3. Beat. The owner changes a counter three times in a lease. Who wants the store watches the counter for one lease, by
   its own clock: if it moves, the store is in use; if not, the owner is gone. An owner on the same machine is asked
   for directly: whether its process lives.
"""

from __future__ import annotations

import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import transaction
import ZODB
from ZODB.POSException import ConflictError

from oq.errors import StorageLocked
from oq.store.faults import abort, describe
from oq.store.migrations import check_root
from oq.store.records import LeaseRecord

BEATS = 3  # in a lease: one may be lost
LOOKS = 20  # at the counter, in a lease
MEASURE = 12  # beats between two measurements of the size
TRIES = 5  # at taking a store that others take at the same time

logger = logging.getLogger(__name__)

_held: set[str] = set()  # tokens of this process: it may have closed a store without being able to say so


class Lease:
    """Holds the store behind *db* for this process; raises `StorageLocked` naming the owner when it is in use.

    *where* is what messages call the store. *seconds* is the lease: how long the owner may be silent.
    """

    def __init__(self, db: ZODB.DB, where: str, seconds: float) -> None:
        self._db = db
        self._where = where
        self._seconds = seconds
        self._token = secrets.token_hex(8)
        self._manager = transaction.TransactionManager(explicit=True)
        self._connection = db.open(self._manager)
        self._stop = threading.Event()
        self._lost: StorageLocked | None = None
        self.size = -1  # bytes, as last measured: asking is a round trip
        _held.add(self._token)  # before the record says so: others of this process look there
        try:
            self._take()
        except BaseException:
            _held.discard(self._token)
            self._connection.close()
            raise
        self.measure()
        self._thread = threading.Thread(target=self._beat_on, name="oq lease", daemon=True)
        self._thread.start()

    # --- taking it
    def _take(self) -> None:
        watch = _Watch(self._seconds)
        for _ in range(TRIES):
            try:
                while not self._in_transaction(lambda root: self._take_if_free(root, watch)):
                    time.sleep(self._seconds / LOOKS)
                return
            except ConflictError:
                continue  # somebody else moved first: look again
        raise StorageLocked(f"the store {self._where} is being taken by another oq; try again")

    def _take_if_free(self, root: Any, watch: _Watch) -> bool:
        check_root(root, used=False, where=self._where)
        record = root.get("lease")
        if record is None:
            record = root["lease"] = LeaseRecord()
        elif record.token:
            alive = _lives(record)
            if alive is None:
                alive = watch.sees(record)
            if alive is None:
                return False
            if alive:
                raise self._taken(record)
            logger.warning("the store %s was left by %s: taking it over", self._where, _owner(record))
        record.take(self._token, socket.gethostname(), os.getpid(), _machine(), _started(os.getpid()))
        return True

    def _in_transaction(self, function: Callable[[Any], bool]) -> bool:
        """Return *function* of the root, committed if it returned true."""
        manager = self._manager
        try:
            manager.begin()
            done = function(self._connection.root())
            (manager.commit if done else manager.abort)()
        except BaseException:
            abort(manager)
            raise
        return done

    # --- holding it
    def guard(self, connection: Any) -> None:
        """Bind the running transaction of *connection* to the lease: it fails once the lease is lost."""
        record = connection.root()["lease"]
        if record.token != self._token:
            raise self._taken(record)
        connection.readCurrent(record)

    def wait_lost(self) -> None:
        """Block until the lease ends: return when it was released, raise `StorageLocked` when it was lost."""
        self._stop.wait()
        if self._lost is not None:
            raise self._lost

    def measure(self) -> None:
        """Ask how large the store is."""
        try:
            self.size = int(self._db.getSize() or -1)
        except Exception:
            logger.debug("the size of %s is not known", self._where, exc_info=True)

    def _beat_on(self) -> None:
        for number in count():
            if self._stop.wait(self._seconds / BEATS):
                return
            try:
                self._in_transaction(self._beat)
            except StorageLocked as exc:
                self._lost = exc
                self._stop.set()
            except Exception as exc:  # the server is away: the writer sees that too, and tells
                logger.debug("the lease of %s could not be renewed: %s", self._where, describe(exc))
            else:
                if number % MEASURE == 0:
                    self.measure()

    def _beat(self, root: Any) -> bool:
        self.guard(self._connection)
        root["lease"].beat.count += 1
        return True

    def release(self) -> None:
        """Give the store free; harmless when done twice, or when it was lost."""
        if self._token not in _held:
            return
        _held.discard(self._token)
        self._stop.set()
        self._thread.join()
        try:
            if self._lost is None:
                self._in_transaction(self._clear)
        except Exception as exc:
            logger.warning(
                "the store %s could not be given free, it is in %g s (%s)",
                self._where,
                self._seconds,
                describe(exc),
            )
        finally:
            self._connection.close()

    def _clear(self, root: Any) -> bool:
        record = root["lease"]
        if record.token != self._token:
            return False
        record.clear()
        return True

    def _taken(self, record: LeaseRecord) -> StorageLocked:
        return StorageLocked(
            f"the store {self._where} is in use by another oq ({_owner(record)}); "
            "stop that one first, or give this one a store of its own (queue.storage)"
        )


class _Watch:
    """Looks at a lease's counter for as long as a lease."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._first: tuple[str, int] | None = None
        self._began = 0.0

    def sees(self, record: LeaseRecord) -> bool | None:
        """Return whether the owner lives; None: not known yet."""
        seen = (record.token, record.beat.count)
        if self._first is None:
            logger.warning(
                "the store is held by %s: watching for %g s whether it still is",
                _owner(record),
                self._seconds,
            )
            self._first, self._began = seen, time.monotonic()
        if seen != self._first:
            return True
        return None if time.monotonic() - self._began < self._seconds else False


def _owner(record: LeaseRecord) -> str:
    return f"process {record.process} on {record.host}"


def _machine() -> str:
    """Return what is the same for processes that see each other's numbers; empty where that is not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(process: int) -> str:
    """Return when a process started, in the kernel's ticks; ``ended`` for one nobody waited for; empty if unknown."""
    try:
        # proc(5): the 3rd and 22nd field; the second is a name in parentheses that may contain anything.
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return "ended" if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        return ""


def _lives(record: LeaseRecord) -> bool | None:
    """Return whether the owner of a lease still runs; None when it is not on this machine, or hidden."""
    if not record.machine or record.machine != _machine():
        return None
    if record.process == os.getpid() and record.started == _started(os.getpid()):
        return record.token in _held
    try:
        os.kill(record.process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    started = _started(record.process)  # a process number may have gone to somebody else since
    return started == record.started if started else None


__all__ = ["Lease"]
