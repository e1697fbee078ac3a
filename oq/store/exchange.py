"""Whole tasks out of a data file, and into one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path

from oq.core.messages import Step, Write
from oq.core.task import Task
from oq.errors import StorageDamaged, StorageError, TaskConflict
from oq.store.checked import EVER
from oq.store.faults import describe
from oq.store.journal import ZodbJournal, open_journal
from oq.store.migrations import check_root
from oq.store.records import task_of
from oq.store.storages import FILE_NAME, make_db, open_file

GROUP = 500  # tasks of a commit, and after which what was read is dropped again


def stored_tasks(folder: Path) -> Iterator[Task]:
    """Yield every task of the data folder, oldest first, as it is at the beginning; also beside a running oq."""
    file = folder / FILE_NAME
    if not file.is_file():
        raise StorageError(f"there is no {file}; --data-dir names the folder of the server")
    try:
        storage = open_file(file, read_only=True)
    except Exception as exc:
        raise StorageDamaged(f"{file} cannot be read ({describe(exc)}); restore a backup") from exc
    try:
        connection = make_db(storage).open()
        check_root(connection.root(), used=True, where=str(file))
        storage.unchecked_until = connection.root().get("unchecked_until", EVER)
        for number, (key, record) in enumerate(connection.root()["tasks"].items(), 1):
            yield task_of(key, record, with_result=True)
            if number % GROUP == 0:
                connection.cacheMinimize()
        connection.transaction_manager.abort()
    finally:
        storage.close()


def add_tasks(folder: Path, tasks: Iterable[Task]) -> tuple[int, int]:
    """Put *tasks* into the store of *folder*, made if it is new; return how many were new and how many there already.

    One that is there already is left alone if it is the same in all; otherwise `TaskConflict`, as for an idempotency key
    that stands for another task. In the order given: after an error, those before it may be in. `StorageLocked` when a
    server has the folder.
    """
    journal = open_journal(folder)
    try:
        names = {name: key for name, key, _ in journal.recover().idempotency}
        new = same = 0
        rest = iter(tasks)
        while group := list(islice(rest, GROUP)):
            writes = _new_of(journal, group, names)
            journal.commit([Step(tuple(writes))])
            new, same = new + len(writes), same + len(group) - len(writes)
        return new, same
    finally:
        journal.close()


def _new_of(journal: ZodbJournal, group: list[Task], names: dict[str, int]) -> list[Write]:
    writes: dict[int, Write] = {}
    inside: dict[int, Task] = {}
    for task, stored in zip(group, journal.get([task.key for task in group]), strict=True):
        there = stored or inside.get(task.key)
        if there is not None:
            if there != task:
                raise TaskConflict(
                    f"task {task.id} is in the store already, and differs from this one: import into an empty folder"
                )
            continue
        name = task.spec.idempotency_key
        if name is not None and names.setdefault(name, task.key) != task.key:
            raise TaskConflict(
                f"the Idempotency-Key {name!r} of task {task.id} stands for another task there"
            )
        inside[task.key] = task
        writes[task.key] = Write(task.key, task.state, task.spec, task.result_json)
    return list(writes.values())


__all__ = ["add_tasks", "stored_tasks"]
