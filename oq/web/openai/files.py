"""/v1/files: upload, list, get, content, delete."""

from __future__ import annotations

from contextlib import ExitStack, aclosing
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec
import trio

from oq.dropin.batches import FileRecord
from oq.errors import InvalidTask, OqError, TooLarge
from oq.web.exchange import Exchange
from oq.web.openai.library import Library, new_id, on_disk
from oq.web.openai.lists import JSON, page_of
from oq.web.openai.multipart import read_form

if TYPE_CHECKING:
    from oq.web.house import House

BUFFER_BYTES = 1 << 20  # of an upload in memory before it goes to disk
SENT_BYTES = 1 << 18  # of a file in one piece of its answer
DISCARD_SECONDS = 5.0  # for a sender whose file is refused to send the rest of it
NAME_MAX = 255
PURPOSE = "batch"


class _Upload:
    """A file on its way to the shelf."""

    def __init__(self, library: Library) -> None:
        self.id = new_id("file-")
        self.filename = ""
        self._library = library
        self._limit = library.settings.dropin.max_file_bytes
        self._place = ExitStack()
        self._file: BinaryIO | None = None
        self._buffer = bytearray()
        self._size = 0

    async def open(self, filename: str) -> None:
        if self._file is not None:
            raise InvalidTask("send one file in a request", "file")
        self.filename = filename[:NAME_MAX]
        self._place.enter_context(self._library.place())
        self._file = await on_disk(self._library.shelf.begin, self.id)

    async def write(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._limit:
            raise TooLarge(f"the file is larger than {self._limit} bytes (dropin.max_file_bytes)")
        self._buffer += data
        if len(self._buffer) >= BUFFER_BYTES:
            await self._flush()

    async def finish(self) -> int:
        """Make it durable and return its size."""
        if self._file is None:
            raise InvalidTask("the form has no field 'file'", "file")
        await self._flush()
        size = await on_disk(self._library.shelf.finish, self.id, self._file)
        self._file = None
        return size

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *_: object) -> None:
        """Forget what was not finished."""
        with self._place:
            if self._file is not None:
                with trio.move_on_after(DISCARD_SECONDS, shield=True):
                    await on_disk(self._library.shelf.give_up, self.id, self._file)

    async def _flush(self) -> None:
        assert self._file is not None
        data, self._buffer = self._buffer, bytearray()
        await on_disk(self._file.write, data)


async def upload(house: House, exchange: Exchange, **_: str) -> None:
    """Take a file; answered when it is on disk."""
    library = await house.open_library()
    coming = _Upload(library)
    async with aclosing(exchange.parts()) as parts, coming:
        problem: OqError | None = None
        try:
            fields = await read_form(exchange.headers.get("content-type", ""), parts, coming)
        except OqError as error:
            problem = error
        if problem is not None:
            # A sender that is told before it has sent everything may see a reset in place of the answer.
            with trio.move_on_after(DISCARD_SECONDS):
                async for _part in parts:
                    pass
            raise problem
        purpose = fields.pop("purpose", "")
        if purpose != PURPOSE:
            raise InvalidTask(f"purpose can only be {PURPOSE!r} here, not {purpose[:60]!r}", "purpose")
        if fields:
            name = min(fields)[:60]
            raise InvalidTask(f"{name} cannot be mapped; send purpose and file", name)
        size = await coming.finish()
        file = FileRecord(coming.id, size, int(house.queue.clock.now()), coming.filename, PURPOSE)
        await library.add_file(file)
    await exchange.whole(200, msgspec.json.encode(file), JSON)


async def every_file(house: House, exchange: Exchange, **_: str) -> None:
    """The files, newest first; ``purpose``, ``after``, ``limit``, ``order``."""
    library = await house.open_library()
    body = page_of(list(library.files.values()), exchange.query, also=("purpose",))
    await exchange.whole(200, body, JSON)


async def one_file(house: House, exchange: Exchange, id: str) -> None:
    library = await house.open_library()
    await exchange.whole(200, msgspec.json.encode(library.file(id)), JSON)


async def delete_file(house: House, exchange: Exchange, id: str) -> None:
    library = await house.open_library()
    await library.delete_file(id)
    said: dict[str, Any] = {"id": id, "object": "file", "deleted": True}
    await exchange.whole(200, msgspec.json.encode(said), JSON)


async def content(house: House, exchange: Exchange, id: str) -> None:
    """The bytes of a file."""
    library = await house.open_library()
    size = library.file(id).bytes
    file = await library.open(id)
    try:
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        await exchange.begin(200, headers)
        while data := await on_disk(file.read, SENT_BYTES):
            await exchange.write(data)
        await exchange.end()
    finally:
        file.close()
