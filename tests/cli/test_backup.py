"""`oq backup` and `oq restore`, beside a server at work and without one."""

from __future__ import annotations

import errno
import json
import threading
from pathlib import Path

import pytest
from fake_ollama import FakeOllama
from ZODB.scripts import repozo
from ZODB.utils import u64

import oq as library
from oq.client import Client
from oq.core.messages import Step, Write
from oq.core.model import Status, TaskSpec, TaskState
from oq.errors import StorageDamaged, StorageError, StorageFull, StorageLocked
from oq.store import open_journal
from oq.store.backup import back_up, restore
from oq.store.lock import FolderLock
from tests.cli.conftest import Oq
from tests.cli.live import Served

FIRST = 1 << 60


def fill(folder: Path, *numbers: int) -> None:
    journal = open_journal(folder)
    for number in numbers:
        spec = TaskSpec("generate", "m", b'{"prompt": "%d"}' % number)
        journal.commit([Step((Write(FIRST + number, TaskState(Status.PENDING, 5), spec),))])
    journal.close()


def held(folder: Path) -> list[int]:
    journal = open_journal(folder)
    try:
        return [entry.key - FIRST for entry in journal.recover().unfinished]
    finally:
        journal.close()


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path, Path]:
    """A data folder with task 1, its backups (none yet), and where to restore."""
    fill(tmp_path / "data", 1)
    return tmp_path / "data", tmp_path / "backups", tmp_path / "new"


def test_what_was_backed_up_is_there_after_a_restore(bare: Oq, folders: tuple[Path, Path, Path]) -> None:
    data, backups, new = folders
    first = bare("backup", str(backups), "--data-dir", str(data), "-o", "json")
    assert json.loads(first.stdout)["kind"] == "full"
    fill(data, 2)
    second = json.loads(bare("backup", str(backups), "--data-dir", str(data), "-o", "json").stdout)
    assert second["kind"] == "incremental"
    assert second["bytes"] < (data / "Data.fs").stat().st_size
    found = bare("restore", str(backups), "--data-dir", str(new), "-o", "json")
    assert (found.exit_code, json.loads(found.stdout)["tasks"]) == (0, 2)
    assert held(new) == [1, 2]


def test_a_backup_right_after_another_is_of_its_own_second(folders: tuple[Path, Path, Path]) -> None:
    """Of two in one second the restore would pass over one."""
    data, backups, _ = folders
    made = [back_up(data, backups).path]
    for number in (2, 3):
        fill(data, number)
        made.append(back_up(data, backups).path)
    assert len({path.stem for path in made}) == 3


def test_a_backup_of_the_future_stops_the_next_one_with_a_word(folders: tuple[Path, Path, Path]) -> None:
    data, backups, _ = folders
    made = back_up(data, backups)
    made.path.rename(backups / "2999-01-01-00-00-00.fs")
    with pytest.raises(StorageError, match="clock"):
        back_up(data, backups)


def test_nothing_new_is_no_new_file(bare: Oq, folders: tuple[Path, Path, Path]) -> None:
    data, backups, _ = folders
    back_up(data, backups)
    files = sorted(backups.iterdir())
    assert "nothing has changed" in bare("backup", str(backups), "--data-dir", str(data)).stdout
    assert sorted(backups.iterdir()) == files


def test_a_folder_with_backups_of_another_store_is_refused(
    bare: Oq, folders: tuple[Path, Path, Path]
) -> None:
    """The other's would be the newest, and a restore would take it."""
    data, backups, new = folders
    back_up(data, backups)
    fill(new, 7)
    files = sorted(backups.iterdir())
    found = bare("backup", str(backups), "--data-dir", str(new))
    assert found.exit_code == 1
    assert f"{backups} holds backups of another store, that of {data}; choose another folder" in found.stderr
    assert sorted(backups.iterdir()) == files
    for path in files:
        if path.suffix in (".fs", ".dat", ".index"):
            path.unlink()
    assert back_up(new, backups).kind == "full"  # nobody's any more


def test_a_restored_store_goes_on_with_the_backups_it_came_from(
    bare: Oq, folders: tuple[Path, Path, Path]
) -> None:
    data, backups, new = folders
    back_up(data, backups)
    fill(new, 7)
    assert bare("restore", str(backups), "--data-dir", str(new), "--force").exit_code == 0
    fill(new, 2)
    assert back_up(new, backups).kind == "incremental"


def test_a_store_and_backups_of_before_there_were_ids_find_each_other(
    bare: Oq, folders: tuple[Path, Path, Path]
) -> None:
    data, backups, new = folders
    back_up(data, backups)
    (backups / "store.json").unlink()
    (data / "oq.json").write_text('{"program": "oq", "schema": 2}\n')
    lock = FolderLock(data)  # a server is at work
    try:
        assert back_up(data, backups).kind == "unchanged"
    finally:
        lock.release()
    fill(new, 7)
    assert bare("backup", str(backups), "--data-dir", str(new)).exit_code == 1
    assert json.loads((data / "oq.json").read_text())["schema"] == 2


@pytest.mark.parametrize("content", ["", "{", '{"program": "oq"}'])
def test_a_store_whose_marker_was_damaged_goes_on_with_its_backups(
    folders: tuple[Path, Path, Path], content: str
) -> None:
    data, backups, _ = folders
    back_up(data, backups)
    (data / "oq.json").write_text(content)
    fill(data, 2)
    assert back_up(data, backups).kind == "incremental"


def test_a_second_backup_at_the_same_time_is_told_so(folders: tuple[Path, Path, Path]) -> None:
    data, backups, _ = folders
    backups.mkdir()
    lock = FolderLock(backups)
    try:
        with pytest.raises(StorageLocked, match="another backup goes to"):
            back_up(data, backups)
    finally:
        lock.release()


def test_a_restore_puts_a_damaged_file_of_a_batch_right(folders: tuple[Path, Path, Path]) -> None:
    data, backups, _ = folders
    (data / "files").mkdir()
    file = data / "files" / "file-1"
    file.write_bytes(b"whole")
    back_up(data, backups)
    file.write_bytes(b"who")
    assert back_up(data, backups).files == 0, "a backup is never replaced by what is there now"
    restore(backups, data, force=True)
    assert file.read_bytes() == b"whole"


def test_what_is_no_data_file_is_not_backed_up(bare: Oq, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/Data.fs").write_bytes(b"")
    found = bare("backup", "backups", "--data-dir", "data")
    assert (found.exit_code, "no data file of oq" in found.stderr) == (1, True)
    assert not (tmp_path / "data/oq.json").exists()


def test_after_a_pack_the_next_backup_is_a_full_one(folders: tuple[Path, Path, Path]) -> None:
    data, backups, _ = folders
    back_up(data, backups)
    journal = open_journal(data)
    journal.commit([Step((Write(FIRST + 1, TaskState(Status.RUNNING, 5, revision=2)),))])
    journal.pack()
    journal.close()
    assert back_up(data, backups).kind == "full"


def test_a_pack_in_the_middle_of_a_backup_does_not_disturb_it(
    bare: Oq, folders: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ZODB.scripts import repozo

    data, backups, new = folders
    fill(data, *range(2, 30))
    plain = repozo.copyfile

    def packed_meanwhile(*args: object) -> object:
        journal = open_journal(data)
        journal.pack()
        journal.close()
        return plain(*args)

    monkeypatch.setattr(repozo, "copyfile", packed_meanwhile)
    assert back_up(data, backups).kind == "full"
    assert sorted(path.name for path in data.iterdir() if "backup" in path.name) == []
    assert bare("restore", str(backups), "--data-dir", str(new)).exit_code == 0
    assert held(new) == list(range(1, 30))


def test_the_store_of_an_earlier_time_can_be_had(
    bare: Oq, folders: tuple[Path, Path, Path], monkeypatch
) -> None:
    from ZODB.scripts import repozo

    data, backups, new = folders
    for day in (1, 2, 3):
        monkeypatch.setattr(repozo, "gen_filedate", lambda options, day=day: (2026, 1, day, 12, 0, 0))
        fill(data, 10 + day)
        back_up(data, backups)
    found = bare("restore", str(backups), "--data-dir", str(new), "--at", "2026-01-02T23:00:00Z")
    assert found.exit_code == 0, found.stderr
    assert held(new) == [1, 11, 12]
    early = bare("restore", str(backups), "--data-dir", str(new / "x"), "--at", "2025-12-31T00:00:00Z")
    assert (early.exit_code, "no backup of 2025-12-31" in early.stderr) == (1, True)


def test_a_folder_in_use_is_replaced_only_by_force(bare: Oq, folders: tuple[Path, Path, Path]) -> None:
    data, backups, new = folders
    back_up(data, backups)
    fill(new, 7)
    found = bare("restore", str(backups), "--data-dir", str(new))
    assert (found.exit_code, "--force" in found.stderr) == (1, True)
    assert held(new) == [7]
    assert bare("restore", str(backups), "--data-dir", str(new), "--force").exit_code == 0
    assert held(new) == [1]


def test_a_folder_that_a_server_has_is_never_replaced(bare: Oq, folders: tuple[Path, Path, Path]) -> None:
    data, backups, new = folders
    back_up(data, backups)
    fill(new, 7)
    lock = FolderLock(new)
    try:
        found = bare("restore", str(backups), "--data-dir", str(new), "--force")
    finally:
        lock.release()
    assert (found.exit_code, "in use by another" in found.stderr) == (1, True)
    assert held(new) == [7]


@pytest.mark.parametrize("how", ["cut short", "a byte flipped", "without its table"])
def test_a_backup_that_is_not_whole_replaces_nothing(
    bare: Oq, folders: tuple[Path, Path, Path], how: str
) -> None:
    data, backups, new = folders
    made = back_up(data, backups)
    fill(new, 7)
    content = made.path.read_bytes()
    if how == "cut short":
        made.path.write_bytes(content[:-10])
    elif how == "a byte flipped":
        middle = len(content) // 2
        made.path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    else:
        made.path.with_suffix(".dat").unlink()
    found = bare("restore", str(backups), "--data-dir", str(new), "--force")
    assert found.exit_code == 1
    assert "Traceback" not in found.stderr
    assert held(new) == [7]
    assert not (new / "restore.part").exists()


@pytest.mark.parametrize("name", ["my backups", "バックアップ", "back ups/of 2026"])
def test_a_folder_of_backups_may_have_any_name(folders: tuple[Path, Path, Path], name: str) -> None:
    """Repozo notes the path of each backup, and cannot read one with a space."""
    data, backups, new = folders
    target = backups / name
    back_up(data, target)
    fill(data, 2)
    assert back_up(data, target).kind == "incremental"
    assert restore(target, new).tasks == 2


@pytest.mark.parametrize("left", ["its sum missing", "half of its sum", "half of it"])
def test_a_backup_goes_not_on_from_one_that_was_cut_short(
    folders: tuple[Path, Path, Path], left: str
) -> None:
    """As a kill or a full disk leaves it: each later one would be in vain."""
    data, backups, new = folders
    noted = back_up(data, backups).path.with_suffix(".dat")
    before = noted.read_text()
    fill(data, 2)
    cut = back_up(data, backups).path
    noted.write_text(noted.read_text()[:-20] if left == "half of its sum" else before)
    if left == "half of it":
        cut.write_bytes(cut.read_bytes()[:50])
    with pytest.raises(StorageError, match=rf"{cut.name} was cut short.*--at"):
        restore(backups, new)
    fill(data, 3)
    assert back_up(data, backups).kind == "full"
    fill(data, 4)
    assert back_up(data, backups).kind == "incremental"
    assert restore(backups, new).tasks == 4


def test_a_backup_that_fails_leaves_nothing_that_is_taken_for_one(
    folders: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, backups, new = folders
    back_up(data, backups)
    fill(data, 2)
    files = sorted(backups.iterdir())
    copyfile = repozo.copyfile

    def copy_and_fail(*args: object) -> None:
        copyfile(*args)
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(repozo, "copyfile", copy_and_fail)
        with pytest.raises(StorageFull):
            back_up(data, backups)
    assert sorted(backups.iterdir()) == files
    assert back_up(data, backups).kind == "incremental"
    assert restore(backups, new).tasks == 2


@pytest.mark.parametrize("where", ["", "backups"])
def test_backups_do_not_go_into_the_data_folder(folders: tuple[Path, Path, Path], where: str) -> None:
    data, _, new = folders
    new.symlink_to(data)
    before = sorted(data.iterdir())
    with pytest.raises(StorageError, match="choose a folder elsewhere"):
        back_up(data, new / where)
    assert sorted(data.iterdir()) == before


def test_a_store_that_was_cut_off_opens_when_a_backup_has_taken_its_place(
    folders: tuple[Path, Path, Path],
) -> None:
    data, backups, _ = folders
    fill(data, 2, 3)
    back_up(data, backups)
    file = data / "Data.fs"
    content = bytearray(file.read_bytes())
    second = 4 + u64(bytes(content[12:20])) + 8
    content[second + 16] = ord("c")  # the status of an unfinished transaction
    file.write_bytes(content)
    (data / "Data.fs.index").unlink()
    with pytest.raises(StorageDamaged, match="restore a backup"):
        held(data)
    restore(backups, data, force=True)
    assert held(data) == [1, 2, 3]


def test_a_backup_by_a_newer_oq_replaces_nothing(
    folders: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, backups, new = folders
    with monkeypatch.context() as newer:
        newer.setattr("oq.store.migrations.SCHEMA", 99)
        newer.setattr("oq.store.migrations.MIGRATIONS", dict.fromkeys(range(1, 99), lambda root: None))
        fill(data, 2)
    back_up(data, backups)
    fill(new, 7)
    with pytest.raises(StorageError, match=r"schema 99.*upgrade oq"):
        restore(backups, new, force=True)
    assert held(new) == [7]


def test_damage_that_the_backup_took_over_is_found(bare: Oq, folders: tuple[Path, Path, Path]) -> None:
    data, backups, new = folders
    file = data / "Data.fs"
    file.write_bytes(file.read_bytes().replace(b'"prompt"', bytes(8)))
    back_up(data, backups)
    found = bare("restore", str(backups), "--data-dir", str(new))
    assert (found.exit_code, "cannot be read" in found.stderr) == (1, True)
    assert not (new / "Data.fs").exists()


def test_without_a_store_there_is_nothing_to_back_up(bare: Oq, tmp_path: Path) -> None:
    found = bare("backup", str(tmp_path / "b"), "--data-dir", str(tmp_path / "none"))
    assert (found.exit_code, "--data-dir" in found.stderr) == (1, True)
    assert not (tmp_path / "none").exists()


def test_a_store_elsewhere_has_its_own_backup(bare: Oq, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("OQ_QUEUE__STORAGE", "postgresql://user:secret@db/oq")
    found = bare("backup", str(tmp_path / "b"))
    assert (found.exit_code, "secret" in found.stderr) == (1, False)


def test_backups_are_for_nobody_else(folders: tuple[Path, Path, Path]) -> None:
    data, backups, _ = folders
    made = back_up(data, backups)
    assert backups.stat().st_mode & 0o777 == 0o700
    assert made.path.stat().st_mode & 0o777 == 0o600


def test_what_was_restored_is_for_nobody_else(folders: tuple[Path, Path, Path]) -> None:
    data, backups, new = folders
    back_up(data, backups)
    restore(backups, new)
    for name in ("Data.fs", "oq.json"):
        assert (new / name).stat().st_mode & 0o777 == 0o600


@pytest.mark.slow
def test_backups_of_a_server_at_work_hold_every_task_acknowledged_before(
    bare: Oq, tmp_path: Path, model_server: FakeOllama
) -> None:
    """Tasks go in and are run all the while; each backup is restored and compared, the last one is served again."""
    served = Served(tmp_path / "data", "--ollama-host", model_server.url)
    acknowledged: list[str] = []
    stop = threading.Event()

    def work() -> None:
        with Client(served.url) as client:
            while not stop.is_set():
                specs = [library.generate("m", f"{len(acknowledged)} " + "x" * 2000) for _ in range(20)]
                handles = client.submit_many(specs)
                acknowledged.extend(handle.id for handle in handles)  # type: ignore[union-attr]

    thread = threading.Thread(target=work)
    thread.start()
    try:
        kinds = []
        for number in range(4):
            known = list(acknowledged)
            while len(acknowledged) < len(known) + 100:
                assert thread.is_alive()
                thread.join(0.01)
            made = json.loads(
                bare("backup", "backups", "--data-dir", str(tmp_path / "data"), "-o", "json").stdout
            )
            kinds.append(made["kind"])
            restored = bare("restore", "backups", "--data-dir", f"new{number}", "-o", "json")
            assert restored.exit_code == 0, restored.stderr
            assert json.loads(restored.stdout)["tasks"] >= len(known)
    finally:
        stop.set()
        thread.join(30)
        served.stop()
    assert kinds == ["full", "incremental", "incremental", "incremental"]
    again = Served(tmp_path / "new3", "--ollama-host", model_server.url)
    try:
        with Client(again.url) as client:
            for id in known:
                assert client.wait(id, 60).status == "completed"
    finally:
        again.stop()
