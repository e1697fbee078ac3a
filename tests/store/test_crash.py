"""Kills and full disks, with a real child process."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

from oq.store import open_journal

from .conftest import FIRST

CHILD = """
import sys
from oq.core.messages import Step, Write
from oq.core.model import Status, TaskSpec, TaskState
from oq.store import open_journal
key = int(sys.argv[2])
spec = TaskSpec("generate", "m", b'{"prompt": "x"}')
with_pack = "pack" in sys.argv
place = sys.argv[1]
journal = open_journal(storage_uri=place) if "://" in place else open_journal(place)
if with_pack:
    import threading
    threading.Thread(target=lambda: [journal.pack() for _ in range(1000)], daemon=True).start()
while True:
    writes = tuple(Write(key + n, TaskState(Status.PENDING, 5), spec) for n in range(5))
    journal.commit([Step(writes)])
    key += 5
    print(key, flush=True)
"""


def run_and_kill(place: Path | str, first: int, lines: int, *extra: str) -> int:
    """Let a child commit, kill it after *lines* answers; return the key after the last acknowledged."""
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(place), str(first), *extra], stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        key = first
        for _ in range(lines):
            key = int(child.stdout.readline())
        child.kill()
        for line in child.stdout:  # acknowledged before the kill arrived
            if line.endswith("\n"):
                key = int(line)
    return key


def test_after_ten_kills_every_acknowledged_task_is_there(tmp_path: Path) -> None:
    luck = random.Random(7)
    first = FIRST
    for number in range(10):
        acknowledged = run_and_kill(tmp_path, first, luck.randrange(1, 30), *(["pack"] if number % 2 else []))
        journal = open_journal(tmp_path)
        found = journal.recover()
        journal.close()
        keys = [entry.key for entry in found.unfinished]
        assert keys[: acknowledged - FIRST] == list(range(FIRST, acknowledged))
        assert len(keys) % 5 == 0, "a commit is whole or not there"
        first = found.last_key + 1


FULL = """
import resource, sys
from oq.core.messages import Step, Write
from oq.core.model import Status, TaskSpec, TaskState
from oq.errors import StorageFull
from oq.store import open_journal
journal = open_journal(sys.argv[1])
first = int(sys.argv[2])
def step(n):
    return Step((Write(first + n, TaskState(Status.PENDING, 5), TaskSpec("generate", "m", b"x" * 2000)),))
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
n = 0
try:
    while True:
        journal.commit([step(n)])
        n += 1
except StorageFull as exc:
    assert "free some space" in str(exc)
for _ in range(3):
    try:
        journal.commit([step(n)])
        raise SystemExit("must still be full")
    except StorageFull:
        pass
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
journal.commit([step(n)])
print(n + 1)
"""


def test_a_full_disk_loses_nothing_and_commits_work_again_when_there_is_space(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path), str(FIRST)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    journal = open_journal(tmp_path)
    keys = [entry.key for entry in journal.recover().unfinished]
    journal.close()
    assert keys == list(range(FIRST, FIRST + int(done.stdout)))
