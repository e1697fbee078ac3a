"""Data for people (tables) and for programs (json, jsonl, id), on stdout."""

from __future__ import annotations

import errno
import logging
import os
import sys
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
import msgspec

from oq.cli import exits
from oq.cli.session import Session
from oq.cli.words import one_line, printable, when
from oq.core.guard import FINDINGS, words_of
from oq.wire import RemoteTask, priority_name, prompt_of, rfc3339

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

STYLES = {
    "pending": "yellow", "scheduled": "magenta", "running": "blue", "completed": "green", "failed": "red",
    "cancelled": "dim", "ok": "green", "warn": "yellow", "fail": "red", "up": "green", "down": "red",
}  # fmt: skip
TASK_COLUMNS = ("ID", "TYPE", "MODEL", "PRIORITY", "STATUS", "CREATED", "PROMPT")
_TIMES = frozenset(
    {"created_at", "run_at", "started_at", "completed_at", "finished_at", "expected_start_at", "timestamp",
     "oldest_waiting_at", "until"}
)  # fmt: skip
_CARRIED = frozenset({"payload", "options", "result"})  # the user's and the model's own JSON


def plain(value: Any) -> Any:
    """Return a value as JSON spells it: times in RFC 3339, nothing that is empty.

    >>> plain(RemoteTask("a", created_at=0.0, payload={"created_at": 0.0}))["created_at"]
    '1970-01-01T00:00:00.000000Z'
    """
    if not isinstance(value, msgspec.Struct):
        return value
    found = msgspec.to_builtins(value)
    task = value if isinstance(value, RemoteTask) else getattr(value, "task", None)
    if isinstance(task, RemoteTask) and task.payload is None and task.prompt is None:
        # Events and changes tell how a task stands, not what was asked: these would be defaults of ours.
        for name in ("guard", "max_retries"):
            del (found if task is value else found["task"])[name]
    return _tidy(found)


def _tidy(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_tidy(item) for item in value]
    if not isinstance(value, dict):
        return value
    kept = {name: item for name, item in value.items() if item is not None and item != "" and item != ()}
    return {name: item if name in _CARRIED else _time_or(name, item) for name, item in kept.items()}


def _time_or(name: str, item: Any) -> Any:
    return rfc3339(item) if name in _TIMES and isinstance(item, float) else _tidy(item)


def vectors_of(task: RemoteTask) -> str:
    """Return what an embed task's result is, in words; "" if it has none.

    >>> vectors_of(RemoteTask("a", result={"embeddings": [[0.5, 1.0]]}))
    '1 vector of 2 dimensions'
    """
    vectors = (task.result or {}).get("embeddings")
    if not vectors:
        return ""
    return f"{len(vectors)} vector{'s' if len(vectors) > 1 else ''} of {len(vectors[0])} dimensions"


def warnings_of(task: RemoteTask) -> list[str]:
    """Return what the truth guards found, as sentences; a code that only a newer server knows stays one."""
    return [words_of((code,)) if code in FINDINGS else code for code in task.warnings]


def print_result(session: Session, task: RemoteTask) -> int:
    """Print what a finished task brought, for a person; return the exit code."""
    if task.status == "completed":
        vectors = vectors_of(task)
        click.echo(f"{vectors}; -o json prints them" if vectors else printable(task.output))
        warn(session, task)
        return exits.OK
    why = f": {task.error}" if task.error else ""
    click.echo(f"task {task.id} {task.status}{printable(why)}", err=True)
    return exits.TASK_FAILED


def warn(session: Session, task: RemoteTask) -> None:
    """Tell what the truth guards found: an answer that is cut looks like a whole one."""
    for found in warnings_of(task):
        session.say(f"note: {found}")


def say_errors(session: Session, tasks: Iterable[RemoteTask]) -> None:
    """Tell why tasks failed, beside a table: its line of a task has no place for it."""
    if session.output == "table":
        for task in tasks:
            if task.status == "failed" and task.error:
                session.say(f"task {task.id} failed: {one_line(task.error, CELL)}")


def task_row(task: RemoteTask) -> tuple[str, ...]:
    return (
        task.id, task.type, one_line(task.model, 30), priority_name(task.priority), str(task.status),
        when(task.created_at), one_line(_prompt(task), 50),
    )  # fmt: skip


def _prompt(task: RemoteTask) -> str:
    if task.prompt is not None or not task.payload:
        return task.prompt or ""
    return prompt_of(msgspec.json.encode(task.payload)) or ""


def console(session: Session, *, err: bool = False) -> Console:
    from rich.console import Console

    class Screen(Console):
        def on_broken_pipe(self) -> None:  # the error that is handled goes on: rich itself would exit with 1
            raise BrokenPipeError(errno.EPIPE, "nobody reads the output")

    color = session.color
    return Screen(
        stderr=err,
        force_terminal=True if color else None,
        no_color=True if color is False or os.environ.get("NO_COLOR") else None,
        highlight=False,
        markup=False,
        emoji=False,
    )


GAP = 2  # characters between two columns
LAST_LEAST = 8  # characters of the last column, however narrow the terminal
CELL = 2000  # characters of a cell; more is for JSON


def rich_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], width: int, *, wrap: bool = False
) -> Table:
    """Return a table for a terminal of *width*: only the last column gives way, down to `LAST_LEAST` characters.

    What it has no room for there goes on in the next line if *wrap*, else it is left out.
    """
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    cells = [tuple(map(_cell, row)) for row in rows]
    table = Table(box=None, pad_edge=False, header_style="bold")
    widths = [max(cell_len(row[index]) for row in [columns, *cells]) for index in range(len(columns))]
    left = max(LAST_LEAST, width - sum(widths[:-1]) - GAP * (len(columns) - 1))
    widths[-1] = min(widths[-1], left)  # rich would take from every column, down to nothing
    for number, (name, wide) in enumerate(zip(columns, widths, strict=True), 1):
        if wrap and number == len(columns):
            table.add_column(Text(name), overflow="fold", width=wide)
        else:
            table.add_column(Text(name), overflow="ellipsis", no_wrap=True, width=wide)
    for row in cells:
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    return table


def print_table(session: Session, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table: coloured and fitted on a terminal, aligned and whole in a pipe. A task of a list is one line."""
    if sys.stdout.isatty() or session.color:
        from rich.console import ConsoleDimensions

        today = time.strftime("%Y-%m-%d ")
        near = [tuple(cell.removeprefix(today) for cell in row) for row in rows]
        screen = console(session)
        drawn = rich_table(columns, near, screen.width, wrap=tuple(columns) != TASK_COLUMNS)
        least = sum(column.width or 0 for column in drawn.columns) + GAP * (len(columns) - 1)
        # Rather lines that the terminal wraps than columns that vanish.
        screen.size = ConsoleDimensions(max(screen.width, least), screen.height)
        screen.print(drawn)
        return
    table = [tuple(columns), *(tuple(map(_cell, row)) for row in rows)]
    widths = [max(map(_width, column)) for column in zip(*table, strict=True)]
    for row in table:
        click.echo(
            "  ".join(cell + " " * (n - _width(cell)) for cell, n in zip(row, widths, strict=True)).rstrip()
        )


def _cell(text: str) -> str:
    """Return what may stand in a table: one line, with its indent."""
    return text if text.isascii() and text.isprintable() else one_line(text, CELL)


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else not unicodedata.combining(c) for c in text)


def print_json(value: Any) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))


def print_line(value: Any) -> None:
    click.echo(msgspec.json.encode(value))


def emit(
    session: Session,
    items: Sequence[Any],
    columns: Sequence[str],
    row: Callable[[Any], Sequence[str]],
    *,
    id: Callable[[Any], str] = lambda item: str(item.id),
    single: bool = False,
) -> None:
    """Print *items* in the format asked for; *single*: JSON is the one object, not a list."""
    match session.output:
        case "json":
            values = [plain(item) for item in items]
            print_json(values[0] if single else values)
        case "jsonl":
            for item in items:
                print_line(plain(item))
        case "id":
            for item in items:
                click.echo(id(item))
        case _:
            print_table(session, columns, [row(item) for item in items])


@contextmanager
def progress(session: Session, text: str, total: int) -> Iterator[Callable[[int], None]]:
    """Give a function that moves a progress bar forward; it does nothing without a terminal."""
    if session.quiet or total < 2 or not sys.stderr.isatty():
        yield lambda step: None
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console(session, err=True), transient=True) as bar:
        job = bar.add_task(text, total=total)
        yield lambda step: bar.advance(job, step)


@contextmanager
def unheard(name: str) -> Iterator[None]:
    """Nothing that this logger tells is shown: the error says it better."""
    logger, silence = logging.getLogger(name), logging.NullHandler()
    before = logger.propagate
    logger.addHandler(silence)
    logger.propagate = False
    try:
        yield
    finally:
        logger.removeHandler(silence)
        logger.propagate = before
