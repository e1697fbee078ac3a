"""Runs OpenAI batches from one status to the next, and survives a kill at any point; their lines are those of `feeding`.

Rule 1: a line's task has an idempotency key made of the batch and the line, so a line that is fed again after a crash
is the same task. Rule 2: what is in the result files is done; there is no other record of progress. Rule 3: at most
`dropin.batch_window` lines of a batch are in the queue, so that results are gathered long before retention takes them.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import trio

from oq.access import UNFINISHED
from oq.dropin.batches import Counts, FileRecord, KeptBatch, check_lines, known_ids
from oq.errors import OqError, StorageError, TaskConflict
from oq.ports import Query
from oq.web.openai.feeding import RETRY_SECONDS, Feeding
from oq.web.openai.library import Library, on_disk, result_ids
from oq.web.openai.shelf import Results

if TYPE_CHECKING:
    from oq.queue import Queue

T = TypeVar("T", bound=Exception)
logger = logging.getLogger(__name__)

CANCEL_AT_ONCE = 1000  # tasks in one message


class BatchRunner:
    """Owns the unfinished batches; each runs in a child of its own."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._queue: Queue = library.queue
        self._counts: dict[str, Counts] = {}
        self._feeding: dict[str, trio.CancelScope] = {}
        self._alive: set[str] = set()  # batches that somebody runs
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        """Load what there is, go on with what is unfinished, and take new ones until cancelled."""
        async with trio.open_nursery() as self._nursery:
            await self._library.load()
            for batch in self._library.unfinished():
                self.start(batch.record.id)
            await trio.sleep_forever()

    def start(self, id: str) -> None:
        """Run a batch that is on disk."""
        assert self._nursery is not None
        self._alive.add(id)
        self._nursery.start_soon(self._guarded, id)

    async def cancel(self, id: str) -> KeptBatch:
        """Begin to cancel a batch; its tasks end, and its results so far become its output."""

        def cancelling(batch: KeptBatch) -> KeptBatch:
            status = batch.record.status
            if status in ("validating", "in_progress"):
                return batch.now("cancelling", self._queue.clock.now())
            if status != "cancelling":
                raise TaskConflict(f"the batch {id} cannot be cancelled: it is {status}")
            return batch

        batch = await self._library.change(id, cancelling)
        scope = self._feeding.get(id)
        if scope is not None:
            scope.cancel()
        elif id not in self._alive:  # it stood still
            self.start(id)
        return batch

    def counts(self, batch: KeptBatch) -> Counts:
        """Return how far a batch is."""
        return self._counts.get(batch.record.id, batch.record.request_counts)

    async def _guarded(self, id: str) -> None:
        try:
            await self._persist(id)
        finally:
            self._alive.discard(id)

    async def _persist(self, id: str) -> None:
        """Run a batch to its end. One that cannot go on must not end the others.

        What the disk refuses is done again when it heals, as after a kill: from what is on disk. Anything else waits
        for a cancel or the next start.
        """
        told = False
        while True:
            refused: StorageError | None = None
            try:
                await self._run(id)
            except* StorageError as group:
                refused = _first(group)
            except* OqError as group:
                logger.error("batch %s stands still until the next start: %s", id, _first(group))
            except* Exception:
                logger.exception("batch %s broke; it goes on at the next start", id)
            finally:
                self._feeding.pop(id, None)
            if refused is None:
                return
            if not told:
                logger.error("batch %s waits for the disk: %s", id, refused)
                told = True
            await trio.sleep(RETRY_SECONDS)

    async def _run(self, id: str) -> None:
        library = self._library
        batch = library.batch(id)
        if batch.record.status == "validating" or not batch.record.request_counts.total:
            batch = await self._validate(batch)
            if batch.record.status == "failed":
                return
        output_id, error_id = result_ids(batch.record)
        output, errors = await on_disk(
            lambda: (library.shelf.results(output_id), library.shelf.results(error_id))
        )
        try:
            done, failed = await on_disk(self._known, output_id), await on_disk(self._known, error_id)
            counts = Counts(batch.record.request_counts.total, len(done), len(failed))
            self._counts[id] = counts
            work = Feeding(library, batch, done | failed, output, errors, partial(self._note, id))
            expired = False
            left_over = len(done | failed) < counts.total
            gone = left_over and not await on_disk(library.shelf.has, batch.record.input_file_id)
            if batch.record.status == "in_progress" and left_over and not gone:
                left = batch.record.expires_at - self._queue.clock.now()
                with trio.CancelScope() as scope:
                    self._feeding[id] = scope
                    if library.batch(id).record.status == "in_progress":  # else it was cancelled meanwhile
                        with trio.move_on_after(max(0.0, left)) as window:
                            await work.feed()
                        expired = window.cancelled_caught
                batch = library.batch(id)
            status = "failed" if gone else "completed"
            if batch.record.status == "cancelling" or expired:
                status = "cancelled" if batch.record.status == "cancelling" else "expired"
            if status != "completed":
                await self._cancel_tasks(id)
                if counts.total and not gone:
                    code = f"batch_{status}"
                    await work.miss(
                        code, f"the batch {'was cancelled' if status == 'cancelled' else 'expired'} before it"
                    )
            await self._finish(id, status, output, errors, _input_gone(batch) if gone else None)
        finally:
            output.close()
            errors.close()

    def _known(self, file_id: str) -> set[str]:
        return known_ids(self._library.shelf.lines(file_id, unfinished=True))

    async def _validate(self, batch: KeptBatch) -> KeptBatch:
        """Look at the lines, also of a batch that is being cancelled: those of a wrong input are not counted."""
        record, now = batch.record, self._queue.clock.now
        limit = self._library.settings.dropin.max_batch_lines

        def check() -> tuple[int, list[dict[str, object]]]:
            try:
                return check_lines(self._library.shelf.lines(record.input_file_id), record.endpoint, limit)
            except FileNotFoundError:
                return 0, [_input_gone(batch)]

        total, problems = await on_disk(check)

        def validated(batch: KeptBatch) -> KeptBatch:
            errors = _listed(problems) if problems else None
            if batch.record.status == "cancelling":
                counts = Counts(0 if problems else total)
                changed = msgspec.structs.replace(batch.record, request_counts=counts, errors=errors)
                return msgspec.structs.replace(batch, record=changed)
            if problems:
                return batch.now("failed", now(), errors=errors)
            return batch.now("in_progress", now(), request_counts=Counts(total))

        return await self._library.change(record.id, validated)

    async def _finish(
        self, id: str, status: str, output: Results, errors: Results, problem: dict[str, object] | None
    ) -> None:
        library, now, counts = self._library, self._queue.clock.now, self._counts[id]

        def finalizing(batch: KeptBatch) -> KeptBatch:
            if batch.record.status == "cancelling":
                return batch  # acknowledged in the last moment: it ends cancelled, with all its results
            return batch.now("finalizing", now(), request_counts=counts)

        if status == "completed":
            await library.change(id, finalizing)
        files = []
        named: dict[str, Any] = {} if problem is None else {"errors": _listed([problem])}
        for field, file_id, results in zip(
            ("output_file_id", "error_file_id"),
            result_ids(library.batch(id).record),
            (output, errors),
            strict=True,
        ):
            size = results.size
            results.close()
            if size:
                await on_disk(library.shelf.publish, file_id)
                name = f"{id}_{field.removesuffix('_file_id')}.jsonl"
                files.append(FileRecord(file_id, size, int(now()), name, "batch_output"))
                named[field] = file_id
            else:
                await on_disk(library.shelf.forget, file_id)

        def ended(batch: KeptBatch) -> KeptBatch:
            last = "cancelled" if batch.record.status == "cancelling" else status
            return batch.now(last, now(), request_counts=counts, **named)

        await library.change(id, ended, files)
        del self._counts[id]

    async def _cancel_tasks(self, id: str) -> None:
        tag = frozenset({f"batch:{id}"})
        keys = await self._queue.matching(Query(status=UNFINISHED, tag=tag))
        for first in range(0, len(keys), CANCEL_AT_ONCE):
            await self._queue.cancel_many(keys[first : first + CANCEL_AT_ONCE])

    def _note(self, id: str, completed: int, failed: int) -> None:
        """Count results that are on disk."""
        known = self._counts[id]
        self._counts[id] = Counts(known.total, known.completed + completed, known.failed + failed)


def _input_gone(batch: KeptBatch) -> dict[str, object]:
    message = f"the file {batch.record.input_file_id} is gone from the data folder"
    return {"code": "file_not_found", "message": message, "line": None, "param": None}


def _listed(problems: list[dict[str, object]]) -> dict[str, object]:
    return {"object": "list", "data": problems}


def _first(group: ExceptionGroup[T]) -> T:
    """Return the first error in a group of groups."""
    first = group.exceptions[0]
    return _first(first) if isinstance(first, ExceptionGroup) else first
