"""A multipart form with one file, read as it comes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.http import parse_options_header
from werkzeug.sansio.multipart import Data, Epilogue, Field, File, MultipartDecoder, NeedData

from oq.errors import InvalidTask

FIELD_BYTES = 4096  # of one value beside the file
PARTS_MAX = 20


class Sink(Protocol):
    """Where the file goes."""

    async def open(self, filename: str) -> None: ...

    async def write(self, data: bytes) -> None: ...


async def read_form(content_type: str, parts: AsyncIterator[bytes], sink: Sink) -> dict[str, str]:
    """Read the form: the field ``file`` goes to *sink*, the others are returned. `InvalidTask` if it is none."""
    kind, options = parse_options_header(content_type)
    boundary = options.get("boundary", "")
    if kind != "multipart/form-data" or not boundary:
        raise InvalidTask("send the file as multipart/form-data, with the fields purpose and file", "file")
    fields: dict[str, str] = {}
    name = ""
    in_file = False
    try:
        decoder = MultipartDecoder(boundary.encode("latin-1"), max_parts=PARTS_MAX)
        async for part in parts:
            decoder.receive_data(part)
            while not isinstance(event := decoder.next_event(), NeedData | Epilogue):
                if isinstance(event, Field | File):
                    name, in_file = event.name, isinstance(event, File)
                    if isinstance(event, File):
                        if name != "file":
                            raise InvalidTask(
                                f"the file must be in the field 'file', not {name[:60]!r}", "file"
                            )
                        await sink.open(event.filename or "file")
                elif isinstance(event, Data):
                    if in_file:
                        await sink.write(event.data)
                    else:
                        fields[name] = fields.get(name, "") + event.data.decode("utf-8", "replace")
                        if len(fields[name]) > FIELD_BYTES:
                            raise InvalidTask(f"the field {name[:60]!r} is too long", name[:60])
        decoder.receive_data(None)
        if not isinstance(decoder.next_event(), Epilogue):
            raise InvalidTask("the form has no end", "file")
    except (ValueError, RequestEntityTooLarge) as exc:
        raise InvalidTask(f"the form cannot be read: {exc}", "file") from None
    return fields
