"""What a reader of a task's text gets: pieces, a restart when another attempt voids them, and the end."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import msgspec

from oq.core.task import Task
from oq.ports import Piece


class StreamText(msgspec.Struct, frozen=True):
    """*text* of *kind* (``content`` or ``thinking``) beginning *offset* characters into that kind in the attempt."""

    attempt: int
    offset: int
    text: str
    kind: str = "content"
    type: ClassVar[str] = "text"


class StreamRestart(msgspec.Struct, frozen=True):
    """A new attempt begins: text delivered before is void."""

    attempt: int
    type: ClassVar[str] = "restart"


class StreamEnd(msgspec.Struct, frozen=True):
    """The task is finished; *task* is whole."""

    task: Task
    type: ClassVar[str] = "end"


StreamItem = StreamText | StreamRestart | StreamEnd


def joined(pieces: Iterable[Piece], attempt: int, lengths: dict[str, int], skip: int) -> list[StreamText]:
    """Join neighbours of one kind: who comes late gets a few long texts instead of thousands of short ones."""
    found: list[StreamText] = []
    run: list[str] = []
    kind = "content"

    def flush() -> None:
        text = "".join(run)
        start = lengths[kind]
        lengths[kind] = start + len(text)
        hidden = max(0, skip - start) if kind == "content" else 0
        if len(text) > hidden:
            found.append(StreamText(attempt, start + hidden, text[hidden:], kind))
        run.clear()

    for piece in pieces:
        if not piece.text:
            continue
        if piece.kind != kind:
            flush()
            kind = piece.kind
        run.append(piece.text)
    flush()
    return found
