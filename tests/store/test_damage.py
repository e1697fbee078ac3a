"""A store that is missing, damaged, locked or from the future is refused, saying what to do."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import transaction
import ZODB
from ZODB.FileStorage import FileStorage

from oq.core.messages import Step
from oq.errors import StorageDamaged, StorageError, StorageLocked
from oq.store import open_journal
from oq.store.inspect import inspect_file
from oq.store.migrations import SCHEMA

from .conftest import FIRST

Submit = Callable[..., Step]


@pytest.fixture
def stored(folder: Path, submit: Submit) -> Path:
    """A closed store with 100 tasks; the path of its file."""
    journal = open_journal(folder)
    for n in range(10):
        journal.commit([submit(10, FIRST + 10 * n)])
    journal.close()
    return folder / "Data.fs"


def count(folder: Path) -> int:
    journal = open_journal(folder)
    try:
        return len(journal.recover().unfinished)
    finally:
        journal.close()


def test_a_folder_in_use_is_refused_and_the_owner_named(folder: Path) -> None:
    journal = open_journal(folder)
    with pytest.raises(StorageLocked, match=f"process {os.getpid()}"):
        open_journal(folder)
    journal.close()
    assert count(folder) == 0


def test_a_refused_store_leaves_its_folder_unlocked(stored: Path) -> None:
    kept = stored.rename(stored.with_name("kept"))
    with pytest.raises(StorageDamaged):
        open_journal(stored.parent)
    kept.rename(stored)
    assert count(stored.parent) == 100


def test_a_missing_file_is_not_replaced_by_an_empty_one(stored: Path) -> None:
    stored.unlink()
    with pytest.raises(StorageDamaged, match="missing"):
        open_journal(stored.parent)
    assert not stored.exists()


def test_an_old_file_alone_says_to_rename_it(stored: Path) -> None:
    stored.rename(stored.with_name("Data.fs.old"))
    with pytest.raises(StorageDamaged, match=r"rename Data\.fs\.old to Data\.fs"):
        open_journal(stored.parent)


def test_a_pack_killed_between_its_renames_is_undone(stored: Path) -> None:
    stored.rename(stored.with_name("Data.fs.old"))
    stored.with_name("Data.fs.pack").write_bytes(b"FS30")
    assert count(stored.parent) == 100


@pytest.mark.parametrize("content", [b"", b"FS", b"FS30", b"hello, this is no store"])
def test_an_emptied_file_is_refused(stored: Path, content: bytes) -> None:
    stored.write_bytes(content)
    with pytest.raises(StorageDamaged):
        open_journal(stored.parent)


def test_an_emptied_file_is_refused_without_the_index_too(stored: Path) -> None:
    stored.with_name("Data.fs.index").unlink()
    stored.write_bytes(b"FS30")
    with pytest.raises(StorageDamaged):
        open_journal(stored.parent)


@pytest.mark.parametrize("index", [True, False])
def test_a_tail_of_zeros_is_cut_off(stored: Path, index: bool) -> None:
    if not index:
        stored.with_name("Data.fs.index").unlink()
    with stored.open("ab") as file:
        file.write(bytes(4096))
    assert count(stored.parent) == 100


def test_a_half_written_transaction_is_cut_off(stored: Path) -> None:
    size = stored.stat().st_size
    with stored.open("ab") as file:
        data = stored.read_bytes()
        last = size - 8 - int.from_bytes(data[-8:], "big")  # a transaction ends with its length
        file.write(data[last : last + 200])
    assert count(stored.parent) == 100
    assert stored.stat().st_size >= size


def test_a_damaged_transaction_is_refused(stored: Path) -> None:
    stored.with_name("Data.fs.index").unlink()
    with stored.open("r+b") as file:
        file.seek(stored.stat().st_size // 2)
        file.write(b"\xff" * 600)
    with pytest.raises(StorageDamaged, match="backup"):
        count(stored.parent)


@pytest.mark.parametrize("content", [None, b"", b"garbage" * 100])
def test_the_index_file_does_not_matter(stored: Path, content: bytes | None) -> None:
    index = stored.with_name("Data.fs.index")
    if content is None:
        index.unlink()
    else:
        index.write_bytes(content)
    assert count(stored.parent) == 100


def test_a_store_made_by_a_newer_oq_is_refused(stored: Path) -> None:
    db = ZODB.DB(FileStorage(str(stored)))
    with db.transaction() as connection:
        connection.root()["schema"] = SCHEMA + 1
    db.close()
    with pytest.raises(StorageError, match="newer oq"):
        open_journal(stored.parent)


def test_a_store_of_something_else_is_refused(folder: Path) -> None:
    folder.mkdir()
    db = ZODB.DB(FileStorage(str(folder / "Data.fs")))
    with db.transaction() as connection:
        connection.root()["Application"] = "something"
    db.close()
    transaction.abort()
    with pytest.raises(StorageDamaged):
        open_journal(folder)


def test_a_folder_that_cannot_be_made_is_refused_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot make the data folder"):
        open_journal(tmp_path / "file" / "data")


def test_a_storage_nobody_knows_is_refused_with_a_reason() -> None:
    with pytest.raises(StorageError, match="takes zeo://host:port"):
        open_journal(storage_uri="nosuch://host/db")


def test_a_migration_runs_once_and_is_kept(stored: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def add_note(root: dict[str, object]) -> None:
        root["note"] = "migrated"

    monkeypatch.setattr("oq.store.migrations.SCHEMA", SCHEMA + 1)
    monkeypatch.setattr("oq.store.migrations.MIGRATIONS", {SCHEMA: add_note})
    assert count(stored.parent) == 100
    monkeypatch.setattr("oq.store.migrations.MIGRATIONS", {})  # a second run would raise KeyError
    assert count(stored.parent) == 100


def inspected(file: Path) -> tuple[int, list[str]]:
    damaged: list[str] = []
    return inspect_file(file, lambda id, _: damaged.append(id)), damaged


def test_an_inspection_reads_every_task_beside_a_running_oq(stored: Path) -> None:
    journal = open_journal(stored.parent)
    assert inspected(stored) == (100, [])
    journal.close()


@pytest.mark.parametrize("found", [b'"prompt"', b"generate"])
def test_an_inspection_finds_zeros_inside_a_task(stored: Path, found: bytes) -> None:
    content = bytearray(stored.read_bytes())
    at = content.rindex(found)
    content[at : at + 8] = bytes(8)
    stored.write_bytes(content)
    read, damaged = inspected(stored)
    assert (read, len(damaged)) == (99, 1)


def test_an_inspection_of_a_file_that_is_no_store_says_so(tmp_path: Path) -> None:
    (tmp_path / "Data.fs").write_bytes(b"hello, this is no store")
    with pytest.raises(StorageDamaged, match="restore a backup"):
        inspected(tmp_path / "Data.fs")
