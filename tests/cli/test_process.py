"""The process that `oq serve` is."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys

import pytest

# Eight threads that allocate at the same time; then glibc says on stderr how many heaps there are.
PROGRAM = """
import ctypes, threading
from oq.cli.process import prepare
prepare()
libc, together = ctypes.CDLL(None), threading.Barrier(8)
libc.malloc.restype = ctypes.c_void_p
def work():
    together.wait()
    for _ in range(1000):
        libc.free(ctypes.c_void_p(libc.malloc(50_000)))
    together.wait()
threads = [threading.Thread(target=work) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
libc.malloc_stats()
"""


def heaps(**environment: str) -> int:
    left = {
        name: text for name, text in os.environ.items() if name not in ("MALLOC_ARENA_MAX", "GLIBC_TUNABLES")
    }
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=left | environment, stderr=subprocess.PIPE, text=True, check=True
    )
    return len(re.findall(r"^Arena \d+:", found.stderr, re.MULTILINE))


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has such heaps")
@pytest.mark.parametrize(
    ("environment", "alone"),
    [({}, True), ({"MALLOC_ARENA_MAX": "4"}, False), ({"GLIBC_TUNABLES": "glibc.malloc.arena_max=4"}, False)],
)
def test_its_threads_share_one_heap_unless_the_environment_says_otherwise(
    environment: dict[str, str], alone: bool
):
    assert (heaps(**environment) == 1) == alone
