"""`oq attach`: the text of a task, so far and as it comes. Ctrl-C leaves it alone; the task runs on."""

from __future__ import annotations

import sys
from typing import Any

import click

from oq.cli import exits, suggest
from oq.cli.output import plain, print_json, print_line, print_result, warn
from oq.cli.session import Command, Session, pass_session
from oq.cli.words import printable
from oq.wire import RemoteLine, RemoteTask


@click.command(cls=Command)
@click.argument("id", shell_complete=suggest.task_ids)
@click.option(
    "--offset", type=click.IntRange(0), default=0, help="Leave out so many characters at the beginning."
)
@click.option("--thinking", is_flag=True, help="Show what the model thinks, too, on stderr.")
@pass_session
def attach(session: Session, id: str, offset: int, thinking: bool) -> None:
    """Show a task's text, so far and as it comes. Ctrl-C detaches; the task runs on."""
    raise SystemExit(follow(session, session.client.get(id).id, offset, thinking))


stream = Command("stream", callback=attach.callback, params=list(attach.params), help=attach.help)


def follow(session: Session, id: str, offset: int = 0, thinking: bool = False) -> int:
    """Print the text of a task until its end; return the exit code."""
    wrote = False
    try:
        for line in session.endure().follow(id, offset):
            if session.output == "jsonl":
                print_line(_told(line))
                if line.task is not None:
                    return _code(line.task)
            elif line.task is not None:
                return _end(session, line.task, wrote)
            elif line.type == "restart":
                session.say(f"\n-- attempt {line.attempt}: the text begins again --")
            elif session.output == "table" and line.kind == "content":
                click.echo(printable(line.text), nl=False)
                sys.stdout.flush()
                wrote = True
            elif thinking and line.kind == "thinking":
                click.echo(printable(line.text), nl=False, err=True)
    except KeyboardInterrupt:
        session.say(f"\ndetached; the task goes on. Come back with: oq attach {id}")
        return exits.INTERRUPTED
    return exits.ERROR


def _told(line: RemoteLine) -> dict[str, Any]:
    """Return a line with what belongs to its type, as REST tells it; the rest of the object is defaults."""
    found: dict[str, Any] = plain(line)
    names = {"end": ("type", "task"), "restart": ("type", "attempt")}.get(line.type, tuple(found))
    return {name: found[name] for name in names}


def _code(task: RemoteTask) -> int:
    return exits.OK if task.status == "completed" else exits.TASK_FAILED


def _end(session: Session, task: RemoteTask, wrote: bool) -> int:
    if session.output == "json":
        print_json(plain(task))
    elif session.output == "id":
        click.echo(task.id)
    elif wrote:
        click.echo()
        if task.status != "completed":
            why = f": {task.error}" if task.error else ""
            click.echo(printable(f"task {task.id} {task.status}{why}"), err=True)
        warn(session, task)
    else:
        return print_result(session, task)
    return _code(task)
