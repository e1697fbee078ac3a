"""What a server that runs for months asks of its process: of the garbage collector, the allocator, the limit of open files.

A program that embeds the queue keeps its own ways.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os

from oq.web.places import raise_file_limit

log = logging.getLogger(__name__)

# A sixth of the CPU of a submit was the garbage collector at Python's own (700, 10, 10).
GC_THRESHOLDS = (10_000, 10, 10)
M_ARENA_MAX = -8  # of glibc's malloc.h


def prepare() -> None:
    """Set this process up to serve; before its first thread begins."""
    gc.collect()
    gc.freeze()  # what is imported stays, and need not be looked through again
    gc.set_threshold(*GC_THRESHOLDS)
    share_one_arena()
    before, after = raise_file_limit()
    if after > before:
        log.info("the limit of open files was %d and is %d now", before, after)


def share_one_arena() -> None:
    """Let all threads allocate from one heap, unless the environment says how many there may be.

    glibc gives each thread a heap of its own, up to eight a core, and gives none of them back: what a helper thread freed
    stood unused in each of five, 20 MB after some minutes. Threads that take turns with the interpreter need no more than one.
    """
    if "MALLOC_ARENA_MAX" in os.environ or "arena_max" in os.environ.get("GLIBC_TUNABLES", ""):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # musl and macOS have none, and no such heaps
        mallopt(M_ARENA_MAX, 1)
