"""The files and batches that there are: their records in memory and in the store, their bytes on the shelf."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

import msgspec
import trio

from oq.dropin.batches import UNFINISHED, BatchRecord, FileRecord, KeptBatch
from oq.errors import (
    IdempotencyConflict,
    InvalidTask,
    StorageError,
    StorageFull,
    TaskConflict,
    TaskNotFound,
    TooMany,
)
from oq.store.faults import FULL
from oq.store.storages import FILES_FOLDER
from oq.web.openai.shelf import Shelf

if TYPE_CHECKING:
    from oq.config import Settings
    from oq.queue import Queue

T = TypeVar("T")
FILE, BATCH = "file/", "batch/"  # prefixes of the records' names
_encode = msgspec.json.encode
logger = logging.getLogger(__name__)


def new_id(kind: str) -> str:
    """Return an id as OpenAI's: *kind* and random letters."""
    return kind + secrets.token_hex(12)


async def on_disk(function: Callable[..., T], *args: Any) -> T:
    """Run a function of the shelf in a thread; what goes wrong is a `StorageError`."""
    try:
        return await trio.to_thread.run_sync(function, *args)
    except OSError as exc:
        if exc.errno in FULL:
            raise StorageFull(
                f"the file cannot be written: {exc.strerror}; free some space on its disk"
            ) from exc
        raise StorageError(f"the file cannot be read or written: {exc.strerror or exc}") from exc


class Library:
    """See the module. Records change in memory when they are on disk."""

    def __init__(self, queue: Queue, settings: Settings) -> None:
        self.queue = queue
        self.settings = settings
        self.shelf = Shelf(Path(settings.queue.storage_path).expanduser() / FILES_FOLDER)
        self.files: dict[str, FileRecord] = {}
        self.batches: dict[str, KeptBatch] = {}
        self.loaded = trio.Event()
        self._changing = trio.Lock()
        self._coming = 0  # uploads

    async def load(self) -> None:
        """Read what is on disk."""
        for _, value in await self.queue.documents(FILE):
            file = msgspec.json.decode(value, type=FileRecord)
            self.files[file.id] = file
        for _, value in await self.queue.documents(BATCH):
            batch = msgspec.json.decode(value, type=KeptBatch)
            self.batches[batch.record.id] = batch
        growing = [id for batch in self.unfinished() for id in result_ids(batch.record)]
        try:
            await on_disk(self.shelf.sweep, [*self.files, *growing])
        except StorageError as error:
            logger.warning("what a crash left in the folder of files stays there: %s", error)
        self.loaded.set()

    def unfinished(self) -> list[KeptBatch]:
        return [batch for batch in self.batches.values() if batch.record.status in UNFINISHED]

    def file(self, id: str) -> FileRecord:
        if id not in self.files:
            raise TaskNotFound(f"there is no file {id[:100]!r}")
        return self.files[id]

    def batch(self, id: str) -> KeptBatch:
        if id not in self.batches:
            raise TaskNotFound(f"there is no batch {id[:100]!r}")
        return self.batches[id]

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place for a file that comes; refuse it when there are as many as may be, with those that come."""
        limit = self.settings.dropin.max_files
        if len(self.files) + self._coming >= limit:
            raise TooMany(f"{limit} files are kept already (dropin.max_files); delete some")
        self._coming += 1
        try:
            yield
        finally:
            self._coming -= 1

    async def open(self, id: str) -> BinaryIO:
        """Open a file to be read; `TaskNotFound` if it is gone from the data folder, too."""
        file = await on_disk(self.shelf.open, id)
        if file is None:
            raise TaskNotFound(f"the file {id} is gone from the data folder; delete it here, too")
        return file

    async def add_file(self, file: FileRecord) -> None:
        await self.queue.keep_documents({FILE + file.id: _encode(file)})
        self.files[file.id] = file

    async def delete_file(self, id: str) -> None:
        async with self._changing:
            self.file(id)
            for batch in self.unfinished():
                if batch.record.input_file_id == id:
                    raise TaskConflict(
                        f"the file {id} is read by the batch {batch.record.id}; cancel that first"
                    )
            await self.queue.keep_documents({FILE + id: None})
            self.files.pop(id, None)
        await on_disk(self.shelf.delete, id)

    async def add_batch(self, batch: KeptBatch) -> KeptBatch:
        """Put a new batch on disk, unless its input is not there or there are as many as may be.

        Return it, or the batch that was begun with the same Idempotency-Key.
        """
        async with self._changing:
            known = self._begun_with(batch.idempotency_key)
            if known is not None:
                if known.fingerprint != batch.fingerprint:
                    raise IdempotencyConflict(
                        f"the Idempotency-Key {batch.idempotency_key!r} stands for another batch; use a new key"
                    )
                return known
            if batch.record.input_file_id not in self.files:
                raise InvalidTask(f"there is no file {batch.record.input_file_id[:100]!r}", "input_file_id")
            limit = self.settings.dropin.max_batches
            if len(self.unfinished()) >= limit:
                raise TooMany(
                    f"{limit} batches are not finished (dropin.max_batches); try again when some are"
                )
            return await self._keep(batch)

    def _begun_with(self, key: str | None) -> KeptBatch | None:
        if key is None:
            return None
        return next((batch for batch in self.batches.values() if batch.idempotency_key == key), None)

    async def change(
        self, id: str, how: Callable[[KeptBatch], KeptBatch], files: Sequence[FileRecord] = ()
    ) -> KeptBatch:
        """Put a batch on disk as *how* makes it of what it is, together with its new *files*.

        One change at a time: else what was decided of one state would be written over another, such as that of a
        cancel which is acknowledged meanwhile.
        """
        async with self._changing:
            before = self.batch(id)
            after = how(before)
            return before if after is before else await self._keep(after, *files)

    async def _keep(self, batch: KeptBatch, *files: FileRecord) -> KeptBatch:
        documents: dict[str, bytes | None] = {FILE + file.id: _encode(file) for file in files}
        documents[BATCH + batch.record.id] = _encode(batch)
        await self.queue.keep_documents(documents)
        for file in files:
            self.files[file.id] = file
        self.batches[batch.record.id] = batch
        return batch


def result_ids(record: BatchRecord) -> tuple[str, str]:
    """Return the ids of a batch's output and error file, known before they are there."""
    name = record.id.removeprefix("batch_")
    return f"file-out{name}", f"file-err{name}"
