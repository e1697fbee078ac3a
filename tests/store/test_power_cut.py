"""What a power cut or a bad disk does to the end of the file: each byte of the last transactions, cut and changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ZODB
from ZODB.FileStorage import FileStorage

from oq.core.messages import Step, Write
from oq.core.model import Attempt, Status, TaskState
from oq.errors import StorageDamaged, StorageError
from oq.store import ZodbJournal, open_journal
from oq.store.checked import EVER
from oq.store.inspect import inspect_file
from oq.store.tail import check_transactions

from .conftest import FIRST

Submit = Callable[..., Step]
Content = tuple[Any, ...]


def content(journal: ZodbJournal) -> Content:
    """All that a store holds."""
    found = journal.recover()
    keys = [entry.key for entry in found.unfinished] + [key for key, _, _ in found.finished]
    return found.unfinished, found.finished, found.paused, journal.get(keys)


def opened(folder: Path) -> Content:
    journal = open_journal(folder)
    try:
        return content(journal)
    finally:
        journal.close()


class History:
    """A data folder as a kill leaves it, and what it held after each of its last commits."""

    def __init__(self, folder: Path, submit: Submit) -> None:
        self.folder = folder
        journal = open_journal(folder)
        journal.commit([submit(5)])
        self.ends: list[tuple[int, Content]] = []
        attempt = Attempt(1, "here", 1.0, 2.0, "succeeded")
        done = TaskState(Status.COMPLETED, 5, 3, finished_at=2.0, attempts=(attempt,), output_start="Hi")
        for steps in (
            [Step((Write(FIRST + 1, done, result=b'{"response": "Hi"}'),))],
            [Step(deletes=(FIRST + 2,), paused=True)],
            [submit(1, FIRST + 60, idempotency_key="k", fingerprint=b"f")],
        ):
            journal.commit(steps)
            self.ends.append((journal.size(), content(journal)))
        self.whole = folder.joinpath("Data.fs").read_bytes()
        journal.close()
        self.index = folder.joinpath("Data.fs.index").read_bytes()

    @property
    def last_bytes(self) -> range:
        return range(self.ends[0][0], len(self.whole))

    def put(self, file: bytes, *, index: bool = False) -> None:
        """Leave just this in the folder."""
        for path in self.folder.glob("Data.fs*"):
            path.unlink()
        self.folder.joinpath("Data.fs").write_bytes(file)
        if index:
            self.folder.joinpath("Data.fs.index").write_bytes(self.index)


@pytest.fixture
def history(folder: Path, submit: Submit) -> History:
    return History(folder, submit)


@pytest.mark.slow
def test_a_file_cut_at_any_byte_opens_with_all_whole_transactions(history: History) -> None:
    for size in history.last_bytes:
        history.put(history.whole[:size])
        expected = [held for end, held in history.ends if end <= size][-1]
        assert opened(history.folder) == expected, size
        assert not list(history.folder.glob("*.tr*")), "what was cut off is nobody's"


@pytest.mark.slow
def test_a_changed_byte_is_found_or_does_not_matter(history: History) -> None:
    said: list[str] = []
    for at in history.last_bytes:
        changed = bytearray(history.whole)
        changed[at] ^= 0xFF if at % 3 else 0x10
        history.put(bytes(changed), index=at % 2 == 0)  # as after a stop, or as after a kill
        try:
            held = opened(history.folder)
        except StorageDamaged as damaged:
            said.append(damaged.message)
        else:
            assert held == history.ends[-1][1], at
    assert len(said) > 0.8 * len(history.last_bytes)
    assert all("Data.fs" in message for message in said)


@pytest.mark.slow
def test_zeros_anywhere_are_found_or_do_not_matter(history: History) -> None:
    for at in history.last_bytes[::7]:
        changed = bytearray(history.whole)
        changed[at : at + 16] = bytes(len(changed[at : at + 16]))
        if changed == history.whole:
            continue
        history.put(bytes(changed))
        try:
            held = opened(history.folder)
        except StorageDamaged:
            continue
        assert held in [held for _, held in history.ends[-2:]], at


def test_the_message_of_a_damaged_last_transaction_says_how_to_go_on_without_it(history: History) -> None:
    end = history.ends[-2][0]
    at = history.whole.rindex(b"Hello")
    assert at > end
    history.put(history.whole[:at] + b"h" + history.whole[at + 1 :])
    with pytest.raises(StorageDamaged, match=f"truncate -s {end} Data.fs"):
        open_journal(history.folder)
    history.put(history.whole[:end])
    assert opened(history.folder) == history.ends[-2][1]


def test_finished_transactions_are_never_cut_off_for_good(history: History) -> None:
    status = history.ends[0][0] + 16
    history.put(history.whole[:status] + b"c" + history.whole[status + 1 :])
    for _ in range(2):  # also not by starting again
        with pytest.raises(StorageDamaged, match=r"cat Data\.fs\.tr0 >> Data\.fs"):
            open_journal(history.folder)
    cut = history.folder / "Data.fs.tr0"
    assert history.folder.joinpath("Data.fs").read_bytes() + cut.read_bytes() != history.whole
    assert len(history.whole) == history.folder.joinpath("Data.fs").stat().st_size + cut.stat().st_size


def test_an_unfinished_commit_at_the_end_is_removed(history: History) -> None:
    begin = history.ends[-2][0]
    history.put(history.whole[: begin + 16] + b"c" + history.whole[begin + 17 :])
    assert opened(history.folder) == history.ends[-2][1]
    assert not list(history.folder.glob("*.tr*"))


def damage(folder: Path, found: bytes, into: bytes) -> None:
    file = folder / "Data.fs"
    held = file.read_bytes()
    assert len(found) == len(into)
    assert found in held
    file.write_bytes(held.replace(found, into))


@pytest.fixture
def old_damage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the last bytes are looked at when a file is opened: here none, as if the damage were far from the end."""
    monkeypatch.setattr("oq.store.tail.TAIL_BYTES", 0)


@pytest.mark.usefixtures("old_damage")
def test_damage_that_still_makes_sense_is_found_when_it_is_read(history: History) -> None:
    history.put(history.whole)
    damage(history.folder, b'"Hi"', b'"Ho"')
    journal = open_journal(history.folder)
    journal.recover()
    with pytest.raises(StorageDamaged, match="checksum"):
        journal.get([FIRST + 1])
    assert journal.get_light([FIRST + 1]) != [None], "what is sound is read on"
    journal.close()


@pytest.mark.usefixtures("old_damage")
def test_recovery_names_the_damaged_task(history: History) -> None:
    history.put(history.whole)
    damage(history.folder, b"Hello", b"hello")
    journal = open_journal(history.folder)
    with pytest.raises(StorageDamaged, match=r"^task \w{13}: .*checksum"):
        journal.recover()
    journal.close()


def test_an_inspection_finds_damage_in_what_no_task_shows(history: History) -> None:
    history.put(history.whole)
    journal = open_journal(history.folder)
    journal.commit([Step((Write(FIRST + 60, TaskState(Status.PENDING, 7, 2)),))])
    journal.close()
    file = history.folder / "Data.fs"
    held = bytearray(file.read_bytes())
    held[history.ends[-1][0] - 60] ^= 1  # the first state of that task: overwritten since
    file.write_bytes(held)
    with pytest.raises(StorageDamaged, match="is damaged"):
        inspect_file(file, lambda id, reason: None)


def test_a_pack_keeps_the_checksums(history: History) -> None:
    history.put(history.whole)
    journal = open_journal(history.folder)
    journal.pack()
    check_transactions(journal._db.storage, since=0)
    assert content(journal) == history.ends[-1][1]
    journal.close()
    assert opened(history.folder) == history.ends[-1][1]


def test_a_store_made_before_checksums_is_read_and_checked_from_then_on(
    folder: Path, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as before:
        before.setattr("oq.store.checked.sealed", lambda oid, tid, data: data)
        before.setattr("oq.store.migrations.z64", EVER)
        journal = open_journal(folder)
        journal.commit([submit(5)])
        journal.close()
        db = ZODB.DB(FileStorage(str(folder / "Data.fs")))
        with db.transaction() as connection:
            connection.root()["schema"] = 1
            del connection.root()["unchecked_until"]
        db.close()
    journal = open_journal(folder)
    journal.commit([submit(5, FIRST + 5)])
    assert len(journal.recover().unfinished) == 10
    journal.pack()
    journal.close()
    assert len(opened(folder)[0]) == 10
    held = folder.joinpath("Data.fs").read_bytes()
    at = held.rindex(b"Hello")
    folder.joinpath("Data.fs").write_bytes(held[:at] + b"h" + held[at + 1 :])
    with pytest.raises(StorageError, match="checksum"):
        opened(folder)
