"""`oq top`: the queue, live."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from oq.cli import exits, inputs
from oq.cli.output import STYLES, console, rich_table
from oq.cli.session import Command, Session, pass_session
from oq.cli.words import one_line, seconds, when
from oq.errors import ServerUnreachable
from oq.wire import RemoteStats, RemoteTask, priority_name

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table


@click.command(cls=Command)
@click.option("--interval", type=inputs.DURATION, default=1.0, help="Pause between two looks [default: 1s].")
@click.option("--rows", type=click.IntRange(1, 500), default=15, show_default=True, help="Tasks to show.")
@click.option("--once", is_flag=True, help="Show it once.")
@pass_session
def top(session: Session, interval: float, rows: int, once: bool) -> int:
    """Watch the queue live, until Ctrl-C."""
    screen = console(session)
    if once or not screen.is_terminal:
        screen.print(_look(session, rows, screen.width))
        return exits.OK
    from rich.live import Live

    with Live(console=screen, auto_refresh=False, screen=True) as live:
        try:
            while True:
                try:
                    live.update(_look(session, rows, screen.width), refresh=True)
                except ServerUnreachable as error:
                    from rich.text import Text

                    live.update(Text(f"{error.message}\nstill trying …", style="red"), refresh=True)
                time.sleep(max(0.1, interval))
        except KeyboardInterrupt:
            return exits.INTERRUPTED


def _look(session: Session, rows: int, width: int) -> Group:
    client = session.client
    stats = client.status()
    tasks = client.list(status="running", limit=rows)
    if len(tasks) < rows:
        tasks += client.list(status=["pending", "scheduled"], sort="-priority", limit=rows - len(tasks))
    if len(tasks) < rows:
        tasks += client.list(status=["completed", "failed", "cancelled"], limit=rows - len(tasks))
    return render(stats, tasks, f"{client.url}  {when(time.time())}", width)


def render(stats: RemoteStats, tasks: list[RemoteTask], title: str, width: int) -> Group:
    """Return the picture of a queue: a line of counts, its hosts, its tasks."""
    from rich.console import Group
    from rich.text import Text

    counts = Text()
    for name, count in (
        ("pending", stats.pending_tasks), ("scheduled", stats.scheduled_tasks), ("running", stats.running_tasks),
        ("completed", stats.completed_tasks), ("failed", stats.failed_tasks), ("cancelled", stats.cancelled_tasks),
    ):  # fmt: skip
        counts.append(f"{name} ", style="dim").append(f"{count}   ", style=STYLES[name])
    counts.append("draining" if stats.draining else "paused" if stats.paused else "", style="bold red")
    hosts = Text("\n").join(
        Text(f"{host.name}  {host.busy}/{host.slots}  ").append(
            "up" if host.up else "down", style=STYLES["up" if host.up else "down"]
        )
        for host in stats.hosts
    )
    return Group(Text(title, style="bold"), counts, hosts, Text(), task_table(tasks, width))


def task_table(tasks: list[RemoteTask], width: int) -> Table:
    now = time.time()
    rows = []
    for task in tasks:
        since = task.started_at if task.started_at is not None else task.created_at
        until = task.completed_at if task.completed_at is not None else now
        took = "" if since is None else seconds(max(0.0, until - since))
        text = one_line(task.error or task.output or task.prompt or "", 60)
        row = (
            task.id,
            task.type,
            one_line(task.model, 24),
            priority_name(task.priority),
            str(task.status),
            took,
            text,
        )
        rows.append(row)
    return rich_table(("ID", "TYPE", "MODEL", "PRIORITY", "STATUS", "TIME", "TEXT"), rows, width)
