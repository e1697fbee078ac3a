"""`oq export --whole` and `oq import --whole`: all that the store holds of the tasks, past the server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO

import click

from oq.core.task import Task
from oq.errors import InvalidTask
from oq.wire.whole import parse_whole, whole_line


def export_whole(folder: Path, out: IO[bytes]) -> int:
    """Write every task of the data folder; return how many."""
    from oq.store.exchange import stored_tasks

    count = 0
    for task in stored_tasks(folder):
        out.write(whole_line(task) + b"\n")
        count += 1
    return count


def import_whole(folder: Path, file: str) -> tuple[int, int]:
    """Put the tasks of *file* into the data folder; return how many were new and how many there already.

    The file is read twice: nothing is imported from one that has a wrong line.
    """
    from oq.store.exchange import add_tasks

    if file == "-":
        raise click.UsageError(
            "--whole takes a file, not a pipe: it is looked through before anything is imported"
        )
    for _ in _tasks(file):
        pass
    return add_tasks(folder, _tasks(file))


def _tasks(file: str) -> Iterator[Task]:
    try:
        with Path(file).open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    try:
                        yield parse_whole(line)
                    except InvalidTask as error:
                        raise InvalidTask(f"line {number} of {file}: {error.message}", error.field) from None
    except OSError as error:
        raise click.UsageError(f"cannot read {file!r}: {error.strerror}") from error
