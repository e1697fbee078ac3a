"""Commands that change tasks: cancel, retry, delete, priority. One, several, or all that match a filter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from oq.cli import exits, inputs, suggest
from oq.cli.filters import chosen, filter_flags
from oq.cli.output import TASK_COLUMNS, emit, plain, print_json, progress, task_row
from oq.cli.session import Command, Session, interactive, pass_session
from oq.wire import priority_name

CHUNK = 1000  # ids in one request
DONE = {"cancel": "cancelled", "retry": "queued again", "delete": "deleted"}
# What the action can be done to at all: a filter without a status means these.
FITS = {
    "cancel": ["pending", "scheduled", "running"],
    "retry": ["failed", "cancelled"],
    "delete": ["completed", "failed", "cancelled"],
}
ALL = {
    "cancel": "All tasks that wait or run.",
    "retry": "All failed and cancelled tasks.",
    "delete": "All finished tasks.",
}


def _bulk_command(action: str, help: str) -> click.Command:
    @click.command(action, cls=Command, help=help)
    @click.argument("ids", nargs=-1, metavar="[ID...|-]", shell_complete=suggest.task_ids)
    @filter_flags
    @click.option("--all", "everything", is_flag=True, help=ALL[action])
    @click.option("--dry-run", is_flag=True, help="Only show which tasks they are.")
    @click.option("-y", "--yes", is_flag=True, help="Do not ask.")
    @pass_session
    def command(
        session: Session, ids: tuple[str, ...], everything: bool, dry_run: bool, yes: bool, **which: Any
    ) -> None:
        wanted = chosen(which)
        if bool(ids) == bool(wanted or everything):
            raise click.UsageError("name tasks by their ids, or by a filter such as --status, or take --all")
        if ids:
            _by_ids(session, action, ids, dry_run, yes)
        else:
            wanted.setdefault("status", FITS[action])
            _by_filter(session, action, wanted, dry_run, yes)

    return command


cancel = _bulk_command("cancel", "Cancel waiting or running tasks; a running one really stops.")
retry = _bulk_command("retry", "Run finished tasks again. A filter alone means failed and cancelled ones.")
delete = _bulk_command("delete", "Forget finished tasks and their results.")


def _by_ids(session: Session, action: str, ids: tuple[str, ...], dry_run: bool, yes: bool) -> None:
    wanted = inputs.read_ids(ids)
    if dry_run:
        emit(session, [session.client.get(id) for id in wanted], TASK_COLUMNS, task_row)
        return
    if "-" in ids:
        _confirm(session, action, len(wanted), yes)
    if len(wanted) == 1:
        act: Callable[[str], Any] = getattr(session.client, action)
        _report(session, action, wanted[0], act(wanted[0]))
        return
    done, errors = 0, list[Any]()
    with progress(session, action, len(wanted)) as forward:
        for first in range(0, len(wanted), CHUNK):
            part = wanted[first : first + CHUNK]
            answer = session.client.bulk(action, ids=part)
            done += answer.done
            errors += answer.errors
            forward(len(part))
    _sum_up(session, action, len(wanted), done, errors)


def _by_filter(session: Session, action: str, wanted: dict[str, Any], dry_run: bool, yes: bool) -> None:
    page = session.client.page(limit=1000 if dry_run else 0, **wanted)
    if dry_run:
        emit(session, page.tasks, TASK_COLUMNS, task_row)
        session.say(f"{_tasks(page.total)} would be {DONE[action]}")
        return
    expect = None
    if page.total and not yes:
        _confirm(session, action, page.total, yes)
        expect = page.total
    answer = session.client.bulk(action, filter=wanted, expect=expect)
    _sum_up(session, action, answer.matched, answer.done, list(answer.errors), asked=False)


def _tasks(count: int) -> str:
    return "1 task" if count == 1 else f"{count} tasks"


def _confirm(session: Session, action: str, count: int, yes: bool) -> None:
    if yes:
        return
    if not interactive():
        raise click.UsageError(
            f"{_tasks(count)} would be {DONE[action]}; without a terminal to ask on, add -y"
        )
    click.confirm(f"{action} {_tasks(count)}?", abort=True, err=True)


def _report(session: Session, action: str, id: str, task: Any) -> None:
    if session.output == "table":
        click.echo(f"Task {getattr(task, 'id', id)} {DONE[action]}")
    elif task is None:
        emit(
            session,
            [{"id": id, "deleted": True}],
            (),
            lambda item: (),
            id=lambda item: str(item["id"]),
            single=True,
        )
    else:
        emit(session, [task], (), lambda item: (), single=True)


def _sum_up(
    session: Session, action: str, matched: int, done: int, errors: list[Any], asked: bool = True
) -> None:
    """Tell what was done. A task named by id that could not be is an error; one a filter met too late is not."""
    for error in errors if asked else ():
        click.echo(f"error: {error.id}: {error.error}", err=True)
    if session.output in ("json", "jsonl"):
        said = {
            "matched": matched,
            "done": done,
            "skipped": matched - done,
            "errors": [plain(e) for e in errors],
        }
        print_json(said)
    else:
        click.echo(f"{done} of {matched} tasks {DONE[action]}")
    if asked and errors:
        raise SystemExit(exits.code_of(errors[0].code))


@click.command(cls=Command)
@click.argument("id", shell_complete=suggest.task_ids)
@click.argument("level", type=inputs.PRIORITY)
@pass_session
def priority(session: Session, id: str, level: int) -> None:
    """Change a waiting task's priority to LEVEL: low, normal, high, critical, or 0 to 1000."""
    task = session.client.priority(id, level)
    if session.output == "table":
        click.echo(f"Task {task.id} has priority {priority_name(task.priority)}")
    else:
        emit(session, [task], (), lambda item: (), single=True)
