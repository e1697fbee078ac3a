"""How many connections there may be, and how much of their bodies in memory; both for the server as a whole.

An idle connection is one that has no request: it waits between two, or its client has not yet sent the first whole
head. When all places are taken, the one that has been idle longest makes room, as it would have at the end of its
keep-alive; only when all are busy is a newcomer refused.
"""

from __future__ import annotations

import logging
import resource
from collections.abc import Callable

logger = logging.getLogger(__name__)

RESERVED_FILES = 256  # for the store, the log, the model servers and what Python itself opens
MACOS_FILES = 10_240  # its setrlimit takes no more, whatever the hard limit says


class Places:
    """See the module.

    Args:
        most: connections at a time.
        memory: bytes of bodies that are still arriving or being worked on, of all connections together.
    """

    def __init__(self, most: int, memory: int) -> None:
        self._most, self._memory = most, memory
        self._taken = self._held = 0
        self._idle: dict[object, Callable[[], None]] = {}  # the longest idle first

    def take(self) -> bool:
        """Take a place for a connection; False if there is none, also none that is idle."""
        if self._taken >= self._most:
            if not self._idle:
                return False
            longest = next(iter(self._idle))
            self._idle.pop(longest)()
        self._taken += 1
        return True

    def leave(self) -> None:
        self._taken -= 1

    def idle(self, who: object, end: Callable[[], None]) -> None:
        """*who* has nothing to do from now on; *end* closes it at once."""
        self._idle.pop(who, None)
        self._idle[who] = end

    def busy(self, who: object) -> None:
        self._idle.pop(who, None)

    def hold(self, count: int) -> bool:
        """Count bytes of a body that arrived; False (and not counted) if there is no room for them."""
        if self._held + count > self._memory:
            return False
        self._held += count
        return True

    def release(self, count: int) -> None:
        self._held -= count


def connections_at_most(wanted: int) -> int:
    """Return *wanted*, or what the limit of open files allows."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if files == resource.RLIM_INFINITY:
        return wanted
    return min(wanted, max(files - RESERVED_FILES, files // 2))


def raise_file_limit() -> tuple[int, int]:
    """Raise this process's limit of open files as far as it may; return it before and after."""
    before, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for wanted in (hard, MACOS_FILES):
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (ValueError, OSError):
            continue
        return before, wanted
    return before, before
