"""The bytes of OpenAI files, in the data folder beside the store: ``files/<id>``.

All of it blocks; call it in a thread. A file is complete or not there: it is written under another name, made
durable, and renamed. Results of a batch grow line by line and are durable after each `Results.add`.
"""

from __future__ import annotations

import os
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from oq.durable import fsync_path
from oq.store.storages import PART

TAIL_BYTES = 65_536


class Shelf:
    """The folder; it is made when something is put there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, id: str) -> Path:
        """Return where the file *id* is; ids are made by us, and hold no separators."""
        if not id.replace("-", "").replace("_", "").isalnum():
            raise FileNotFoundError(id)
        return self._folder / id

    def open(self, id: str) -> BinaryIO | None:
        """Open a whole file to be read; None if it is not there."""
        try:
            return self.path(id).open("rb")
        except FileNotFoundError:
            return None

    def begin(self, id: str) -> BinaryIO:
        """Open a file that is being written."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.fdopen(os.open(f"{self.path(id)}{PART}", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), "wb")

    def finish(self, id: str, file: BinaryIO) -> int:
        """Make a file that was begun durable, and give it its name; return its size."""
        size = file.tell()
        self._sync(file)
        file.close()
        self.publish(id)
        return size

    def publish(self, id: str) -> None:
        os.replace(f"{self.path(id)}{PART}", self.path(id))
        fsync_path(self._folder)

    def give_up(self, id: str, file: BinaryIO) -> None:
        """Forget a file that was begun."""
        with suppress(OSError):  # a full disk refuses what is still to be written, once more
            file.close()
        self.forget(id)

    def forget(self, id: str) -> None:
        """Delete a file that has not got its name."""
        Path(f"{self.path(id)}{PART}").unlink(missing_ok=True)

    def has(self, id: str) -> bool:
        """Return whether the whole file *id* is there."""
        return self.path(id).exists()

    def delete(self, id: str) -> None:
        self.path(id).unlink(missing_ok=True)

    def sweep(self, known: Iterable[str]) -> None:
        """Delete what no record knows: uploads that a crash cut off."""
        kept = set(known)
        if self._folder.is_dir():
            for path in self._folder.iterdir():
                if path.name.removesuffix(PART) not in kept:
                    path.unlink(missing_ok=True)

    def lines(self, id: str, *, unfinished: bool = False) -> Iterator[bytes]:
        """Yield the lines of a file, without their newlines."""
        try:
            with open(f"{self.path(id)}{PART}" if unfinished else self.path(id), "rb") as file:
                for number, line in enumerate(file):
                    # What programs for Windows put before the first line is no part of it.
                    yield (line if number else line.removeprefix(BOM_UTF8)).rstrip(b"\r\n")
        except FileNotFoundError:
            if not unfinished:
                raise

    def results(self, id: str) -> Results:
        """Open the results *id*, begun before or not."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = f"{self.path(id)}{PART}"
        if self.path(id).exists():  # a crash came between its name and the record that says so
            os.replace(self.path(id), path)
        # Without a buffer: what the disk refused once must not be written again when the file is closed.
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), "r+b", buffering=0)
        size = file.seek(0, os.SEEK_END)
        keep = _after_last_newline(file, size)
        if keep < size:  # a crash cut the last line in two
            file.truncate(keep)
        file.seek(keep)
        return Results(file)

    def _sync(self, file: BinaryIO) -> None:
        file.flush()
        os.fsync(file.fileno())


class Results:
    """A file of results that grows."""

    def __init__(self, file: FileIO) -> None:
        self._file = file

    @property
    def size(self) -> int:
        return self._file.tell()

    def add(self, lines: Iterable[bytes]) -> None:
        """Write *lines*, newlines included; they are on disk when this returns, and none of them when it raises."""
        before, data = self._file.tell(), memoryview(b"".join(lines))
        try:
            while data:
                data = data[self._file.write(data) :]
            os.fsync(self._file.fileno())
        except OSError:
            with suppress(OSError):  # then the half line is cut off when the results are opened again
                self._file.truncate(before)
                self._file.seek(before)
            raise

    def close(self) -> None:
        self._file.close()


def _after_last_newline(file: FileIO, size: int) -> int:
    end = size
    while end > 0:
        start = max(0, end - TAIL_BYTES)
        file.seek(start)
        at = file.read(end - start).rfind(b"\n")
        if at >= 0:
            return start + at + 1
        end = start
    return 0
