"""Measures the journal and the catalog: ``python bench/store.py [tasks]``. CPU time, real files."""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from oq.catalog import Catalog
from oq.core.messages import Step, Write
from oq.core.model import Attempt, Status, TaskSpec, TaskState
from oq.ports import Query
from oq.store import open_journal

FIRST = 1 << 60
BATCH = 10_000
PENDING = TaskState(Status.PENDING, 5)


def say(what: str, value: float, unit: str) -> None:
    print(f"{what:<52} {value:>12,.1f} {unit}")


def cpu(function: Callable[[], object]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def main(total: int) -> None:
    spec = TaskSpec("generate", "llama3.2", b'{"prompt": "' + b"word " * 30 + b'"}')
    with tempfile.TemporaryDirectory() as name:
        journal, catalog = open_journal(name), Catalog()
        commits = applies = 0.0
        before = resident_mb()
        for first in range(FIRST, FIRST + total, BATCH):
            step = Step(tuple([Write(first + n, PENDING, spec) for n in range(BATCH)]))
            commits += cpu(lambda step=step: journal.commit([step]))  # type: ignore[misc]
            applies += cpu(lambda step=step: catalog.apply(step))  # type: ignore[misc]
        say(f"submit, {BATCH} a commit: CPU a task", commits / total * 1e6, "µs")
        say("submit: catalog, CPU a task", applies / total * 1e6, "µs")
        say("submit: disk a task", journal.size() / total, "bytes")
        say(f"memory for {total} pending (journal and catalog)", resident_mb() - before, "MB")
        for label, query in {
            "find: newest 100": Query(),
            "find: pending, offset in the middle": Query(
                status=frozenset({Status.PENDING}), offset=total // 2
            ),
            "find: by priority, oldest first": Query(sort="-priority"),
        }.items():
            say(label, cpu(lambda query=query: catalog.find(query)) * 1e3, "ms")  # type: ignore[misc]
        running = TaskState(Status.RUNNING, 5, 2, started_at=1.5, host="h", attempts=(Attempt(1, "h", 1.5),))
        size, count = journal.size(), min(500, total)
        spent = cpu(
            lambda: [journal.commit([Step((Write(FIRST + 7 * n % total, running),))]) for n in range(count)]
        )
        say("state change, one a commit: CPU", spent / count * 1e6, "µs")
        say("state change, one a commit: disk", (journal.size() - size) / count, "bytes")
        journal.close()
        for index in Path(name).glob("*.index"):
            index.unlink()  # as after a kill
        start = time.perf_counter()
        journal = open_journal(name)
        say("open without the index file", time.perf_counter() - start, "s")
        start, before = time.perf_counter(), resident_mb()
        found = journal.recover()
        say(f"recover {len(found.unfinished)} unfinished", time.perf_counter() - start, "s")
        say("recover: memory, entries included", resident_mb() - before, "MB")
        start = time.perf_counter()
        journal.pack()
        say("pack", time.perf_counter() - start, "s")
        journal.close()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
