"""Many tasks at once: batch, export, import."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any

import click
import msgspec

from oq.cli import exits, inputs
from oq.cli.backup import data_dir, data_folder
from oq.cli.batch_run import Fields, Run, run_tasks
from oq.cli.filters import chosen, filter_flags
from oq.cli.openai_batch import is_openai_batch, run_openai_batch
from oq.cli.output import (
    TASK_COLUMNS,
    emit,
    plain,
    print_line,
    print_table,
    progress,
    say_errors,
    task_row,
    unheard,
)
from oq.cli.session import Command, Session, pass_session
from oq.cli.whole import export_whole, import_whole
from oq.client import TaskHandle
from oq.errors import InvalidTask, OqError
from oq.wire import NotJson

PAGE = 500  # tasks of one list request of an export
GROUP = 1000  # tasks submitted together, so that a bar can move and memory stays small
# What an exported task was told by people; the rest was the server's.
ASKED = ("type", "model", "payload", "options", "keep_alive", "priority", "max_retries", "timeout", "tags")
ENDED = tuple(f'"{status}"'.encode() for status in ("completed", "failed", "cancelled"))

Submitted = TaskHandle | OqError


@click.command(cls=Command)
@click.argument("file", default="-", type=click.Path(allow_dash=True))
@click.option("--atomic", is_flag=True, help="All or none: one wrong task, and nothing is submitted.")
@click.option("--wait", is_flag=True, help="Wait for all of them and print how they ended.")
@click.option(
    "--results",
    metavar="OUT",
    help="Wait, and write a result for each line to the file OUT, in the order of FILE.",
)
@click.option(
    "--resume", is_flag=True, help="Go on with a run with these results that ended early; nothing runs twice."
)
@pass_session
def batch(session: Session, file: str, atomic: bool, wait: bool, results: str | None, resume: bool) -> None:
    """Submit the tasks in FILE (or -): a JSON array, or one JSON object a line, as POST /api/tasks takes them.

    With --results, the lines may be those of an OpenAI batch, too.
    """
    text = read_file(file)
    tasks = tasks_in(text, file)
    if results is not None:
        if atomic:
            raise click.UsageError("--atomic submits all at once and --results in parts: give one of them")
        raise SystemExit(_run(session, text, tasks, results, resume))
    if resume:
        raise click.UsageError("--resume needs --results: beside that file it is kept how far a run is")
    if is_openai_batch(tasks):
        raise click.UsageError(
            "these are requests of an OpenAI batch: say with --results where their results go"
        )
    _report(session, _submit_all(session, tasks, atomic), wait)


def _run(session: Session, text: str, tasks: list[Fields | InvalidTask], results: str, resume: bool) -> int:
    run = Run(results, text, resume)
    if run.complete:
        session.say(f"{results} is complete")
        return exits.OK
    session.client.status()  # a wrong address is told at once, a server that goes away is waited for
    session.endure()
    try:
        code = (run_openai_batch if is_openai_batch(tasks) else run_tasks)(session, tasks, run)
    except KeyboardInterrupt:
        session.say("what is submitted runs on; the same command with --resume goes on from here")
        raise
    except OSError as error:
        raise click.ClickException(f"cannot write {results!r}: {error.strerror}; see --resume") from error
    session.say(f"{len(tasks)} results in {results}")
    return code


@click.command(cls=Command)
@filter_flags
@click.option("--file", "target", default="-", metavar="FILE", help="Write there instead of to the output.")
@click.option(
    "--whole",
    is_flag=True,
    help="All that the store holds, exactly, for `oq import --whole`; on its machine.",
)
@data_dir
@pass_session
def export(session: Session, target: str, whole: bool, data_dir: str | None, **which: Any) -> None:
    """Write tasks with their results, one JSON object a line, oldest first."""
    where = chosen(which)
    if session.asked_for("id", "table"):
        raise click.UsageError(
            f"tasks are exported as JSON: leave out -o {session.output}, or use `oq list -o {session.output}`"
        )
    _check_data_dir(whole, data_dir)
    if whole:
        if where:
            raise click.UsageError("--whole writes every task: leave the filters out")
        folder = data_folder(session, data_dir)
        with nullcontext() if session.verbose else unheard("ZODB"), _open_target(target) as out:
            count = export_whole(folder, out)
        session.say(f"{count} tasks exported from {folder}")
        return
    total = session.client.page(limit=0, **where).total
    count = 0
    with _open_target(target) as out, progress(session, "exporting", total) as forward:
        cursor = None
        while True:
            page = session.client.page(limit=PAGE, sort="created", cursor=cursor, **where)
            for task in page.tasks:
                try:
                    found = session.client.get(task.id)
                except OqError as error:
                    if error.code != "not_found":  # cleaned up meanwhile
                        raise
                    continue
                out.write(msgspec.json.encode(plain(found)) + b"\n")
                count += 1
                forward(1)
            if len(page.tasks) < PAGE:
                break
            cursor = page.tasks[-1].id
    session.say(f"{count} tasks exported")


@click.command("import", cls=Command)
@click.argument("file", default="-", type=click.Path(allow_dash=True))
@click.option("--unfinished", is_flag=True, help="Only tasks that were not finished when they were exported.")
@click.option(
    "--whole", is_flag=True, help="As they were: ids, states, results, times. The server must be stopped."
)
@data_dir
@pass_session
def import_tasks(session: Session, file: str, unfinished: bool, whole: bool, data_dir: str | None) -> None:
    """Submit exported tasks again, as new ones; or put back whole ones as they were."""
    _check_data_dir(whole, data_dir)
    if whole:
        if unfinished:
            raise click.UsageError("--whole imports every task of the file: leave --unfinished out")
        folder = data_folder(session, data_dir)
        new, same = import_whole(folder, file)
        session.say(f"{new} tasks imported into {folder}" + (f", {same} were there already" if same else ""))
        return
    tasks: list[Fields | InvalidTask] = []
    for task in tasks_in(read_file(file), file):
        if isinstance(task, InvalidTask):
            tasks.append(task)
        elif "whole_task" in task:
            raise click.UsageError("the file holds whole tasks, of `oq export --whole`: add --whole")
        elif not unfinished or bytes(task.get("status", b"")) not in ENDED:
            tasks.append({name: task[name] for name in ASKED if name in task})
    _report(session, _submit_all(session, tasks, atomic=False), wait=False)


def _check_data_dir(whole: bool, data_dir: str | None) -> None:
    if data_dir is not None and not whole:
        raise click.UsageError("--data-dir goes with --whole: without it the tasks are the server's")


def read_file(file: str) -> str:
    """Return the text of a file of tasks; ``-`` is what comes through the pipe."""
    if file == "-" and sys.stdin.isatty():
        raise click.UsageError("give a file, or the tasks through a pipe")
    return inputs.read_text("-") if file == "-" else inputs.read_text(f"@{file}")


def tasks_in(text: str, file: str) -> list[Fields | InvalidTask]:
    """Return the objects of a JSON array or of NDJSON, or in the place of one what is wrong with it.

    The fields' values stay the JSON that they are in the file.
    """
    name = "the standard input" if file == "-" else file
    if text.lstrip()[:1] == "[":
        try:
            items = msgspec.json.decode(text, type=list[msgspec.Raw])
        except (ValueError, RecursionError) as error:
            raise NotJson(f"{name} is not a JSON array of tasks: {error}") from error
        found = [_fields(bytes(item), "it") for item in items]
    else:
        lines = enumerate(text.split("\n"), 1)
        found = [_fields(line, f"line {number}") for number, line in lines if line.strip()]
    if not found:
        raise InvalidTask(f"there is no task in {name}")
    return found


def _fields(text: str | bytes, what: str) -> Fields | InvalidTask:
    try:
        return msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except (ValueError, RecursionError) as error:
        return NotJson(f"{what} is not a JSON object: {error}")


def _submit_all(session: Session, tasks: list[Fields | InvalidTask], atomic: bool) -> list[Submitted]:
    """Submit what can be; in the place of each other task stands its error."""
    wrong = [task for task in tasks if isinstance(task, InvalidTask)]
    if wrong and (atomic or len(wrong) == len(tasks)):
        raise wrong[0]
    if atomic:
        return [*session.client.submit_many([task for task in tasks if isinstance(task, dict)], atomic=True)]
    handles: list[Submitted] = []
    with progress(session, "submitting", len(tasks)) as forward:
        for first in range(0, len(tasks), GROUP):
            part = tasks[first : first + GROUP]
            try:
                answers = iter(session.client.submit_many([task for task in part if isinstance(task, dict)]))
            except OqError:
                session.say(f"{first} of {len(tasks)} tasks were taken before this:")
                _print_ids(session, handles)
                raise
            handles += [task if isinstance(task, InvalidTask) else next(answers) for task in part]
            forward(len(part))
    return handles


def _report(session: Session, handles: list[Submitted], wait: bool) -> None:
    good = [handle for handle in handles if not isinstance(handle, OqError)]
    for index, handle in enumerate(handles):
        if isinstance(handle, OqError):
            field = getattr(handle, "field", None)
            where = f"{field}: " if field and field not in handle.message else ""
            click.echo(f"error: task {index + 1}: {where}{handle.message}", err=True)
    code = exits.OK if len(good) == len(handles) else exits.ERROR
    if wait:
        session.endure()
        finished = []
        with progress(session, "waiting", len(good)) as forward:
            for handle in good:
                finished.append(session.client.wait(handle.id))
                forward(1)
        emit(session, finished, TASK_COLUMNS, task_row)
        say_errors(session, finished)
        if any(task.status != "completed" for task in finished):
            code = code or exits.TASK_FAILED
    else:
        _print_ids(session, handles)
        session.say(f"{len(good)} of {len(handles)} tasks submitted")
    raise SystemExit(code)


def _print_ids(session: Session, handles: list[Submitted]) -> None:
    match session.output:
        case "id":
            for handle in handles:
                if not isinstance(handle, OqError):
                    click.echo(handle.id)
        case "table":
            rows = [(str(n), h.id) for n, h in enumerate(handles, 1) if not isinstance(h, OqError)]
            print_table(session, ("TASK", "ID"), rows)
        case _:
            items = [_item(index, handle) for index, handle in enumerate(handles)]
            if session.output == "json":
                click.echo(msgspec.json.format(msgspec.json.encode(items)))
            else:
                for item in items:
                    print_line(item)


def _item(index: int, handle: Submitted) -> dict[str, Any]:
    if isinstance(handle, OqError):
        return {"index": index, "error": handle.message, "code": handle.code}
    return {"index": index, "task_id": handle.id}


@contextmanager
def _open_target(target: str) -> Iterator[IO[bytes]]:
    """Give a file to write to. It takes the place of the one that is there when it is whole: an export that fails costs none."""
    if target == "-":
        yield sys.stdout.buffer
        return
    path = Path(os.path.realpath(target))
    part = path.with_name(path.name + ".part") if path.is_file() else path
    try:
        with part.open("wb") as file:
            if part != path:
                part.chmod(stat.S_IMODE(path.stat().st_mode))
            yield file
        if part != path:
            os.replace(part, path)
    except OSError as error:
        raise click.UsageError(f"cannot write {target!r}: {error.strerror}") from error
    finally:
        if part != path:
            part.unlink(missing_ok=True)
