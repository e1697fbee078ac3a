"""Backups of the data file, full and incremental, beside the server that writes it. The work is repozo's, which ZODB ships.

A data file only grows at its end, so an incremental backup is the bytes that came since the last one. A pack puts
another file in its place: the next backup is then a full one. One that is under way is not disturbed: it reads the file by
a second name of its own. The files of batches never change; each is copied once, after the data file that names it.
A folder holds the backups of one store: of another's, the newest would be taken for that one's.
"""

from __future__ import annotations

import calendar
import contextlib
import dataclasses
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from ZODB.scripts import repozo

from oq.durable import fsync_path
from oq.errors import StorageDamaged, StorageError, StorageLocked
from oq.store.faults import translated
from oq.store.identity import RECORD_NAME, id_in, name_store, new_id, read_facts, write_facts
from oq.store.inspect import inspect_file
from oq.store.lock import FolderLock
from oq.store.storages import FILE_NAME, FILES_FOLDER, PART, DataFolder, is_data_file

MD5_LENGTH = 32  # in hex
NAME_SECONDS = 2.0  # how long to wait for a second that has no backup yet
PINNED = "backup-*.fs"  # that second name, in the data folder; * is the process
WORK_FOLDER = "restore.part"  # in the data folder, until the restored file was read to its end
# Of the file before; they would be taken for the new one's.
LEFTOVERS = ".index", ".old", ".pack", ".tmp", ".tr[0-9]*"


@dataclasses.dataclass
class _Options:
    """What repozo reads from its command line."""

    repository: str
    file: str | None = None
    full: bool = False
    date: str | None = None
    quick: bool = False
    gzip: bool = False
    killold: bool = False


@dataclasses.dataclass(frozen=True)
class Backup:
    """One file of a backup folder; *kind* is ``full``, ``incremental``, or ``unchanged``: then no file was made.

    *files* of batches were copied, too.
    """

    kind: str
    path: Path
    size: int
    files: int = 0


@dataclasses.dataclass(frozen=True)
class Restored:
    """*tasks* were read in the restored file; *taken_at* is when its backup was made, Unix seconds."""

    tasks: int
    taken_at: float


def back_up(folder: Path, target: Path, *, full: bool = False) -> Backup:
    """Put what *folder*'s data file holds now into *target*, a folder of backups; made with mode 0700.

    A server may be writing meanwhile: the backup ends with a whole transaction. Raises `StorageError`, also when *target*
    holds backups of another store, `StorageLocked` when another backup goes to *target*.
    """
    file = folder / FILE_NAME
    if not file.is_file():
        raise StorageError(f"there is no {file}; --data-dir names the folder of the server to back up")
    if not is_data_file(file):
        raise StorageDamaged(f"{file} is empty or no data file of oq; restore a backup instead")
    if target.resolve().is_relative_to(folder.resolve()):
        raise StorageError(
            f"{target} is in the data folder, and would be lost together with it; choose a folder elsewhere"
        )
    with _locked(target), _pinned(file) as pinned:
        try:
            _claim(target, folder)
            full = full or not _is_sound(target)
        except OSError as exc:
            raise translated(exc, f"in {folder} cannot be backed up to {target}") from exc
        before = set(target.iterdir())
        _wait_for_a_new_name(before, target)
        try:
            repozo.do_backup(_Options(str(target), str(pinned), full=full))
        except Exception as exc:
            for path in set(target.iterdir()) - before:  # they would be taken for a backup
                path.unlink(missing_ok=True)
            raise translated(exc, f"in {folder} cannot be backed up to {target}") from exc
        made = _made(sorted(set(target.iterdir()) - before), target)
        try:
            files = _copy_files(folder / FILES_FOLDER, target / FILES_FOLDER)
        except OSError as exc:
            raise translated(exc, f"of the batches in {folder} cannot be backed up to {target}") from exc
        return dataclasses.replace(made, files=files)


def restore(source: Path, folder: Path, *, at: float | None = None, force: bool = False) -> Restored:
    """Make the newest backup in *source*, or the newest of the time *at*, the store of *folder*.

    It is written beside, checked against its checksums and read to its end first; only then does it take the place.
    Raises `StorageError` when the folder is in use before and not *force*, or there is no such backup;
    `StorageLocked` when a server has the folder; `StorageDamaged` when the backup is not whole: nothing is changed then.
    """
    if not source.is_dir():
        raise StorageError(f"there is no folder {source}")
    date = None if at is None else time.strftime("%Y-%m-%d-%H-%M-%S", time.gmtime(at))
    files = [Path(name) for name in repozo.find_files(_Options(str(source), date=date))]
    if not files:
        when = "" if at is None else f" of {time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime(at))} or before"
        raise StorageError(f"there is no backup{when} in {source}")
    data = DataFolder(folder)
    try:
        if (data.used or data.file.exists()) and not force:
            raise StorageError(
                f"{folder} holds a store already; choose another --data-dir, or replace it with --force"
            )
        work = folder / WORK_FOLDER
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(mode=0o700)
        try:
            tasks = _recovered(files, work / FILE_NAME)
            (work / FILE_NAME).chmod(0o600)
            fsync_path(work / FILE_NAME)
            for ending in LEFTOVERS:
                for path in folder.glob(FILE_NAME + ending):
                    path.unlink(missing_ok=True)
            # Also those that are there, perhaps damaged; the next start deletes those of later times.
            _copy_files(source / FILES_FOLDER, folder / FILES_FOLDER, anew=True)
            os.replace(work / FILE_NAME, data.file)
            fsync_path(folder)
            data.mark_used(id_in(source / RECORD_NAME) or new_id())
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except OSError as exc:
        raise translated(exc, f"cannot be restored to {folder}") from exc
    finally:
        data.release()
    return Restored(tasks, _taken_at(files[-1]))


def _claim(target: Path, folder: Path) -> None:
    """Make *target* the folder of backups of *folder*'s store; `StorageError` when it is another's.

    One of before there were ids is taken for this store's.
    """
    record = target / RECORD_NAME
    there = read_facts(record)
    known = id_in(record)
    store = name_store(folder, known if there.get("data_dir") == str(folder.absolute()) else None)
    if known not in (None, store) and any(repozo.is_data_file(path.name) for path in target.iterdir()):
        raise StorageError(
            f"{target} holds backups of another store, that of {there.get('data_dir', 'another folder')}; "
            f"choose another folder for those of {folder}"
        )
    facts = {"program": "oq", "store": store, "data_dir": str(folder.absolute())}
    if facts != there:
        write_facts(record, facts)


def _copy_files(source: Path, target: Path, *, anew: bool = False) -> int:
    """Copy the whole files of batches that *target* has not, or all *anew*; return how many. One deleted meanwhile is left out."""
    count = 0
    for path in sorted(source.iterdir()) if source.is_dir() else ():
        copy = target / path.name
        if path.suffix == PART or (copy.exists() and not anew):
            continue
        target.mkdir(mode=0o700, exist_ok=True)
        part = copy.with_name(copy.name + PART)
        try:
            shutil.copyfile(path, part)
        except FileNotFoundError:
            part.unlink(missing_ok=True)
            continue
        part.chmod(0o600)
        fsync_path(part)
        os.replace(part, copy)
        count += 1
    if count:
        fsync_path(target)
    return count


def _is_sound(target: Path) -> bool:
    """Return whether the newest backup in *target* can be gone on with: the sums of all its parts are known.

    They are not where a backup was cut short after its file was in place and before it was noted down.
    """
    parts = [Path(name) for name in repozo.find_files(_Options(str(target)))]
    known = _sums(parts[0]) if parts else {}
    return all(path.name in known and known[path.name][0] == path.stat().st_size for path in parts)


def _sums(full: Path) -> dict[str, tuple[int, str]]:
    """Return the size and MD5 sum of a *full* backup and of those that go on from it, by name.

    Repozo notes them with their path, in which there may be spaces; itself it cannot read it then.
    """
    try:
        lines = full.with_suffix(".dat").read_text(errors="surrogateescape").splitlines()
    except FileNotFoundError:
        return {}
    found = {}
    for line in lines:
        path, *more = line.rsplit(maxsplit=3)
        with contextlib.suppress(ValueError):  # half a line
            start, end, md5 = more
            if len(md5) == MD5_LENGTH:
                found[Path(path).name] = int(end) - int(start), md5
    return found


def _recovered(files: list[Path], file: Path) -> int:
    """Write the backup that *files* are to *file* and read it to its end; return the number of tasks."""
    sums = _sums(files[0])
    with file.open("wb") as out:
        for part in files:
            if repozo.concat([str(part)], out) != sums.get(part.name):
                why = "differs from what was backed up" if part.name in sums else "was cut short"
                raise StorageDamaged(
                    f"the backup is not whole: {part} {why}; nothing was changed: take an older one with --at"
                )
    damaged: list[str] = []
    tasks = inspect_file(file, lambda id, reason: damaged.append(f"{id}: {reason}"))
    if damaged:
        raise StorageDamaged(
            f"the backup holds {len(damaged)} tasks that cannot be read ({damaged[0]}); nothing was changed: "
            "take an older one with --at"
        )
    return tasks


def _wait_for_a_new_name(there: set[Path], target: Path) -> None:
    """Wait until the clock is past the newest backup: repozo names them by the second, and passes over one of two."""
    options = _Options(str(target))
    newest = max((path.stem for path in there if repozo.is_data_file(path.name)), default="")
    deadline = time.monotonic() + NAME_SECONDS
    while repozo.gen_filename(options, ext="") <= newest:
        if time.monotonic() > deadline:
            raise StorageError(
                f"the newest backup in {target} is of the future ({newest}, UTC): set this machine's clock, or, if that is "
                "right, move the files of that name to another folder"
            )
        time.sleep(0.05)


def _made(new: list[Path], target: Path) -> Backup:
    for path in new:
        path.chmod(0o600)  # prompts and answers
        fsync_path(path)
    fsync_path(target)
    for path in new:
        if path.suffix in (".fs", ".deltafs"):
            return Backup("full" if path.suffix == ".fs" else "incremental", path, path.stat().st_size)
    return Backup("unchanged", target, 0)


def _taken_at(file: Path) -> float:
    return float(calendar.timegm(time.strptime(file.stem, "%Y-%m-%d-%H-%M-%S")))


@contextlib.contextmanager
def _pinned(file: Path) -> Iterator[Path]:
    """Give *file* a second name, which a pack does not take away."""
    pinned = file.with_name(PINNED.replace("*", str(os.getpid())))
    try:
        pinned.unlink(missing_ok=True)
        os.link(file, pinned)
    except OSError as exc:
        raise translated(exc, f"{file} cannot be given a second name for the backup") from exc
    try:
        yield pinned
    finally:
        for ending in ("", ".index", ".lock", ".tmp"):
            pinned.with_name(pinned.name + ending).unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[None]:
    try:
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise StorageError(f"cannot make the folder {target}: {exc.strerror}") from exc
    try:
        lock = FolderLock(target)
    except StorageLocked as exc:
        raise StorageLocked(f"another backup goes to {target} right now; wait until it has ended") from exc
    try:
        yield
    finally:
        lock.release()


__all__ = ["Backup", "Restored", "back_up", "restore"]
