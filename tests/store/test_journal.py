"""What only the file does: fsync, rights, packing, faults of the disk."""

from __future__ import annotations

import os
import shutil
import stat
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ZODB.FileStorage import FileStorage
from ZODB.utils import get_pickle_metadata

import oq.store.storages
from oq.core.messages import Step, Write
from oq.core.model import Status, TaskState
from oq.errors import StorageError, StorageFull
from oq.store import ZodbJournal, open_journal
from oq.store.checked import CheckedFileStorage
from oq.store.records import BeatRecord, LeaseRecord

from .conftest import FIRST

FILESTORAGE = sys.modules[FileStorage.__module__]  # the package hides the module of the same name
Submit = Callable[..., Step]


def test_many_steps_are_one_transaction_with_one_fsync(
    journal: ZodbJournal, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    real = os.fsync

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        real(descriptor)

    monkeypatch.setattr("oq.store.checked.fsync", fsync)
    journal.commit([submit(10, FIRST + 10 * n) for n in range(10)])
    assert len(calls) == 1


def test_steps_without_writes_cost_no_transaction(
    journal: ZodbJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("oq.store.checked.fsync", lambda _: pytest.fail("no fsync expected"))
    journal.commit([Step(), Step()])


def test_the_data_folder_is_for_its_owner_only(journal: ZodbJournal, folder: Path) -> None:
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_pack_gives_space_back_and_keeps_every_task(
    journal: ZodbJournal, submit: Submit, folder: Path
) -> None:
    journal.commit([submit(100, payload=b'{"prompt": "' + b"y" * 3000 + b'"}')])
    for revision in range(2, 30):
        state = TaskState(Status.PENDING, 5, revision=revision)
        journal.commit([Step(tuple(Write(FIRST + n, state) for n in range(100)))])
    journal.commit([Step(deletes=tuple(FIRST + n for n in range(50)))])
    before = journal.size()
    journal.pack()
    assert journal.size() < before / 2
    assert [task is None for task in journal.get(FIRST + n for n in range(100))] == [True] * 50 + [False] * 50
    assert not (folder / "Data.fs.old").exists()


def test_a_failed_commit_changes_nothing_and_the_next_one_works(
    journal: ZodbJournal, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(FILESTORAGE, "cp", full)
        with pytest.raises(StorageFull, match="free some space"):
            journal.commit([submit()])
    assert journal.get([FIRST]) == [None]
    journal.commit([submit(1, FIRST + 1)])
    assert [task is None for task in journal.get([FIRST, FIRST + 1])] == [True, False]


@pytest.mark.parametrize("all_refused", [False, True])
def test_a_failed_fsync_takes_the_commit_back_and_the_next_one_works(
    journal: ZodbJournal, submit: Submit, monkeypatch: pytest.MonkeyPatch, folder: Path, all_refused: bool
) -> None:
    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    journal.commit([submit(1, FIRST + 7)])
    size = journal.size()
    with monkeypatch.context() as patch:
        patch.setattr("oq.store.checked.fsync", fail)
        if all_refused:  # even to cut off what was written; then the storage is closed, and opened anew later
            patch.setattr(CheckedFileStorage, "_take_back", CheckedFileStorage.close)
        with pytest.raises(StorageError):
            journal.commit([submit()])
    if not all_refused:
        assert [task is None for task in journal.get([FIRST, FIRST + 7])] == [True, False], "it is read on"
        assert journal.size() == size
    journal.commit([submit(1, FIRST + 1)])
    keys = [FIRST, FIRST + 1, FIRST + 7]
    assert [task is None for task in journal.get(keys)] == [True, False, False]
    journal.close()
    again = open_journal(folder)
    assert [task is None for task in again.get(keys)] == [True, False, False]
    again.close()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("how", ["folder moved", "folder replaced", "file deleted"])
def test_a_file_that_is_not_in_its_place_takes_no_commit_until_it_is_back(
    journal: ZodbJournal, submit: Submit, folder: Path, how: str, packed: bool
) -> None:
    """Nobody would find it at the next start."""
    journal.commit([submit(1)])
    if packed:
        journal.pack()
    aside = folder.with_name("aside")
    if how == "file deleted":
        (folder / "Data.fs").rename(aside)
    else:
        folder.rename(aside)
    if how == "folder replaced":
        shutil.copytree(aside, folder)
    with pytest.raises(StorageError, match="moved, replaced or deleted; put it back"):
        journal.commit([submit(1, FIRST + 1)])
    if how == "folder replaced":
        shutil.rmtree(folder)
    aside.rename(folder / "Data.fs" if how == "file deleted" else folder)
    journal.commit([submit(1, FIRST + 2)])
    journal.close()
    again = open_journal(folder)
    assert [task is None for task in again.get(FIRST + n for n in range(3))] == [False, True, False]
    again.close()


def test_what_idle_readers_missed_is_bounded(
    journal: ZodbJournal, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ZODB lists for each open connection what others wrote, until it begins a transaction: an idle one never does."""
    monkeypatch.setattr("oq.store.journal.UNREAD_MOST", 50)
    missed: list[int] = []
    both = threading.Barrier(2)

    def read(tasks: Any) -> None:
        both.wait(10)  # two at a time: each has a connection of its own
        connections.append(tasks._p_jar)

    connections: list[Any] = []
    threads = [threading.Thread(target=journal._readers.read, args=(read,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(connection) for connection in connections}) == 2
    for number in range(40):
        journal.commit([submit(10, FIRST + 10 * number)])
        missed += [len(connection._storage._invalidations) for connection in connections]
    assert 20 <= max(missed) < 200, "of four hundred tasks, with the nodes of their tree"
    assert [task.id for task in journal.get([FIRST]) if task is not None]


def test_readers_do_not_wait_for_a_commit_that_waits_for_the_disk(
    journal: ZodbJournal, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.commit([submit()])
    found: list[list[bool]] = []

    def read() -> None:
        found.append([task is None for task in journal.get([FIRST, FIRST + 1])])

    def fsync(descriptor: int) -> None:
        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        reader.join(20)

    monkeypatch.setattr("oq.store.checked.fsync", fsync)
    journal.commit([submit(1, FIRST + 1)])
    assert found == [[False, True]], "what was there can be read, what is not on disk yet cannot"
    assert journal.get([FIRST + 1]) != [None]


def test_a_packed_file_is_on_disk_before_it_takes_the_old_ones_place(
    journal: ZodbJournal, submit: Submit, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.commit([submit(10)])
    synced: list[tuple[str, bool]] = []
    real = oq.store.storages.fsync_path

    def fsync_path(path: Path) -> None:
        synced.append((path.name, (folder / "Data.fs.old").exists()))
        real(path)

    monkeypatch.setattr("oq.store.storages.fsync_path", fsync_path)
    journal.pack()
    assert synced == [("Data.fs.pack", False), ("Data.fs", True), (folder.name, True)]
    assert not (folder / "Data.fs.old").exists(), "the old file goes last"


def test_a_pack_that_cannot_reach_the_disk_leaves_the_old_file_in_use(
    journal: ZodbJournal, submit: Submit, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Path) -> None:
        raise OSError(5, "Input/output error")

    journal.commit([submit(10)])
    with monkeypatch.context() as patch:
        patch.setattr("oq.store.storages.fsync_path", fail)
        with pytest.raises(StorageError, match="cannot be packed"):
            journal.pack()
    journal.commit([submit(10, FIRST + 10)])
    journal.pack()
    journal.close()
    again = open_journal(folder)
    assert len(again.recover().unfinished) == 20
    again.close()


def test_the_names_of_classes_on_disk_are_fixed(journal: ZodbJournal, submit: Submit, folder: Path) -> None:
    done = TaskState(Status.COMPLETED, 5, revision=3, finished_at=2.0)
    journal.commit([submit(200, payload=b'{"prompt": "' + b"y" * 3000 + b'"}')])
    journal.commit([Step((Write(FIRST, done, None, b"{}"),))])
    journal.close()
    names: set[str] = set()
    storage = FileStorage(str(folder / "Data.fs"), read_only=True)
    for transaction in storage.iterator():
        names |= {".".join(get_pickle_metadata(record.data)) for record in transaction}
    storage.close()
    assert names == {
        "persistent.mapping.PersistentMapping",
        "BTrees.LOBTree.LOBTree",
        "BTrees.LOBTree.LOBucket",
        "oq.store.records.TaskRecord",
        "oq.store.records.BodyRecord",
        "oq.store.records.ResultRecord",
    }
    assert (BeatRecord.__module__, LeaseRecord.__module__) == ("oq.store.records", "oq.store.records")
