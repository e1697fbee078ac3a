"""Compares the stores: ``python bench/remote.py [tasks]``. A file, a ZEO server and a PostgreSQL server, all here.

Wall time on real disks in one run: compare the columns, not runs. Servers are started for it, with their defaults.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from store.servers import PostgresServer, ZeoServer  # noqa: E402

from oq.core.messages import Step, Write  # noqa: E402
from oq.core.model import Attempt, Status, TaskSpec, TaskState  # noqa: E402
from oq.store import ZodbJournal, open_journal  # noqa: E402

FIRST = 1 << 60
SINGLE = 300  # commits of one task
BATCH = 1000  # tasks in a commit
SPEC = TaskSpec("generate", "llama3.2", b'{"prompt": "' + b"word " * 30 + b'"}')
PENDING = TaskState(Status.PENDING, 5)
RUNNING = TaskState(Status.RUNNING, 5, 2, started_at=1.5, host="h", attempts=(Attempt(1, "h", 1.5),))


def seconds(function: Callable[[], object]) -> float:
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def submit(first: int, count: int) -> Step:
    return Step(tuple(Write(first + n, PENDING, SPEC) for n in range(count)))


def measure(place: Callable[[], ZodbJournal], total: int) -> dict[str, str]:
    """Return the row names and figures of one store."""
    journal = place()
    found: dict[str, str] = {}
    single = seconds(lambda: [journal.commit([submit(FIRST + n, 1)]) for n in range(SINGLE)])
    found["commits of one task, per second"] = f"{SINGLE / single:,.0f}"
    firsts = range(FIRST + SINGLE, FIRST + SINGLE + total, BATCH)
    batched = seconds(lambda: [journal.commit([submit(first, BATCH)]) for first in firsts])
    found[f"tasks per second, {BATCH} a commit"] = f"{total / batched:,.0f}"
    change = seconds(lambda: [journal.commit([Step((Write(FIRST + n, RUNNING),))]) for n in range(SINGLE)])
    found["changes of state, one a commit, per second"] = f"{SINGLE / change:,.0f}"
    read = seconds(lambda: [journal.get([FIRST + 997 * n % total]) for n in range(SINGLE)])
    found["reads of one task, per second"] = f"{SINGLE / read:,.0f}"
    journal.close()
    found["open"] = f"{seconds(lambda: places.append(place())):.2f} s"
    journal = places.pop()
    found[f"recovery of {total + SINGLE:,}"] = f"{seconds(journal.recover):.1f} s"
    found["pack"] = f"{seconds(journal.pack):.1f} s"
    found["size after it"] = f"{journal.size() / 1e6:,.0f} MB"
    journal.close()
    return found


places: list[ZodbJournal] = []


def main(total: int) -> None:
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="oq-bench-"))
        stack.callback(shutil.rmtree, folder)
        (folder / "zeo").mkdir()
        zeo, postgres = ZeoServer(folder / "zeo"), PostgresServer(in_memory=False)
        stack.callback(zeo.close)
        stack.callback(postgres.close)
        rows = {
            "file": measure(partial(open_journal, folder / "file"), total),
            "ZEO": measure(partial(open_journal, storage_uri=zeo.new_uri()), total),
            "PostgreSQL": measure(partial(open_journal, storage_uri=postgres.new_uri()), total),
        }
    print(f"{'':<46}" + "".join(f"{name:>12}" for name in rows))
    for what in rows["file"]:
        print(f"{what:<46}" + "".join(f"{row[what]:>12}" for row in rows.values()))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 50_000)
