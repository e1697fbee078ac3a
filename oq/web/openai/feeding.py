"""Feeds the lines of one OpenAI batch to the queue, and gathers what becomes of them in its result files."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from itertools import islice
from typing import NamedTuple

import msgspec
import trio

from oq.actors.channels import take_waiting
from oq.core.model import Status, TaskSpec
from oq.core.task import Task
from oq.dropin.batches import (
    BatchLine,
    KeptBatch,
    failed_line,
    missed_line,
    read_line,
    refused_line,
    result_line,
    succeeded,
)
from oq.dropin.openai_fields import OpenAiCall
from oq.dropin.terms import Terms, task_of
from oq.errors import Busy, InvalidTask, OqError, StorageError, TaskNotFound
from oq.web.errors import InternalError
from oq.web.openai.forms import READERS, answer_body
from oq.web.openai.library import Library, on_disk
from oq.web.openai.shelf import Results
from oq.web.relay import BAD_ANSWER

logger = logging.getLogger(__name__)

READ_LINES = 200  # lines read from disk in one go
GATHERED = 1000  # results that wait for the disk
RETRY_SECONDS = 1.0  # before a line is offered again to a queue that is full, or a disk that refuses


class LineResult(NamedTuple):
    """The result of a line: its text for the output, or for the error file."""

    custom_id: str
    good: bool
    text: bytes


class Feeding:
    """The lines of one batch on their way. *known* are the custom ids that have a result; *note* counts those that get one."""

    def __init__(
        self,
        library: Library,
        batch: KeptBatch,
        known: set[str],
        output: Results,
        errors: Results,
        note: Callable[[int, int], None],
    ) -> None:
        self._library = library
        self._queue = library.queue
        self._batch = batch
        self._known = known
        self._output = output
        self._errors = errors
        self._note = note

    async def feed(self) -> None:
        """Run every line that has no result; return when each has one on disk."""
        window = trio.Semaphore(self._library.settings.dropin.batch_window)
        send, gathered = trio.open_memory_channel[LineResult](GATHERED)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._gather, gathered)
            async with send, trio.open_nursery() as lines:
                rest = self._lines()
                while part := await on_disk(lambda: list(islice(rest, READ_LINES))):
                    for line in part:
                        await window.acquire()
                        lines.start_soon(self._line, line, window, send)

    async def miss(self, code: str, message: str) -> None:
        """Give every line that has no result the error *code*."""
        missed = await on_disk(lambda: [missed_line(line, code, message) for line in self._lines()])
        await on_disk(self._errors.add, missed)
        self._note(0, len(missed))

    def _lines(self) -> Iterator[BatchLine]:
        record = self._batch.record
        for number, text in enumerate(self._library.shelf.lines(record.input_file_id), 1):
            if text.strip():
                line = read_line(text, number, record.endpoint)
                if line.custom_id not in self._known:
                    yield line

    async def _line(
        self, line: BatchLine, window: trio.Semaphore, send: trio.MemorySendChannel[LineResult]
    ) -> None:
        good, text = await self._result(line)
        await send.send(LineResult(line.custom_id, good, text))
        window.release()

    async def _result(self, line: BatchLine) -> tuple[bool, bytes]:
        """Return whether the line went well, and its result. Whatever is wrong with it is its own affair."""
        try:
            return await self._answered(line)
        except InvalidTask as problem:
            return False, refused_line(line, 400, problem.message, problem.code, problem.field)
        except msgspec.MsgspecError:
            return False, refused_line(line, BAD_ANSWER.status, BAD_ANSWER.words, BAD_ANSWER.code)
        except StorageError:
            raise  # the whole batch waits for the disk
        except Exception:
            logger.exception("line %d of %s failed unexpectedly", line.number, self._batch.record.id)
            words = "the server made a mistake; its log has the details"
            return False, refused_line(line, InternalError.status, words, InternalError.code)

    async def _answered(self, line: BatchLine) -> tuple[bool, bytes]:
        call = READERS[self._batch.record.endpoint](line.body)
        if call.stream:
            raise InvalidTask("stream cannot be used in a batch", "stream")
        task = await self._task(call, line)
        if not succeeded(task):
            return False, failed_line(line, task)
        return True, result_line(
            line, task.id, 200, answer_body(call, task.id, task.created_at, task.result_json or b"{}")
        )

    async def _task(self, call: OpenAiCall, line: BatchLine) -> Task:
        """Return the finished task of a line."""
        batch = self._batch
        terms = Terms(
            batch.priority, batch.tags, batch.timeout, f"{batch.record.id}#{line.number}", guard=batch.guard
        ).for_line(call.ours, self._library.settings)
        spec = task_of(call.type, call.model, call.payload, call.options, call.keep_alive, terms)
        while True:
            key = await self._submit(spec)
            try:
                task = await self._queue.wait(key)
            except TaskNotFound:
                continue  # somebody deleted it: the same line is a new task
            if task.status is Status.CANCELLED and self._cancels():
                await trio.sleep_forever()  # the batch is being cancelled, and this child with it
            return task

    def _cancels(self) -> bool:
        return self._library.batch(self._batch.record.id).record.status == "cancelling"

    async def _submit(self, spec: TaskSpec) -> int:
        while True:
            try:
                (key,) = await self._queue.submit_keys([spec])
                if isinstance(key, OqError):
                    raise key
            except (Busy, StorageError):
                await trio.sleep(RETRY_SECONDS)  # full, or stopping: it goes on later, or at the next start
            else:
                return key

    async def _gather(self, gathered: trio.MemoryReceiveChannel[LineResult]) -> None:
        """Write results as they come, those that wait together."""
        async with gathered:
            async for first in gathered:
                found = [first, *take_waiting(gathered, GATHERED)]
                # One thread call for both files, and no await after it: what is written is known, also when the batch
                # is cancelled now. Else it would get a second line.
                await on_disk(self._write, found)
                self._known.update(result.custom_id for result in found)
                good = sum(1 for result in found if result.good)
                self._note(good, len(found) - good)

    def _write(self, found: list[LineResult]) -> None:
        for results, wanted in ((self._output, True), (self._errors, False)):
            lines = [result.text for result in found if result.good is wanted]
            if lines:
                results.add(lines)
