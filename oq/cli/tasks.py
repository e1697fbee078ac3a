"""Commands that look at tasks: list, status, show, wait."""

from __future__ import annotations

import time
from typing import Any

import click
import msgspec

from oq.cli import exits, inputs, suggest
from oq.cli.filters import chosen, filter_flags
from oq.cli.output import (
    TASK_COLUMNS,
    emit,
    plain,
    print_json,
    print_line,
    print_result,
    print_table,
    progress,
    say_errors,
    task_row,
    vectors_of,
    warnings_of,
)
from oq.cli.session import Command, Session, complain, pass_session
from oq.cli.words import printable, seconds, when
from oq.errors import OqError, WaitTimeout
from oq.wire import RemoteStats, RemoteTask, priority_name

SORTS = ("-created", "created", "-priority", "priority")


@click.command("list", cls=Command)
@filter_flags
@click.option("--limit", type=click.IntRange(0, 1000), default=20, show_default=True, help="So many at most.")
@click.option("--offset", type=click.IntRange(0), default=0, help="Leave out so many at the beginning.")
@click.option("--sort", type=click.Choice(SORTS), default="-created", show_default=True, help="The order.")
@pass_session
def list_tasks(session: Session, limit: int, offset: int, sort: str, **which: Any) -> None:
    """List tasks, newest first."""
    page = session.client.page(limit=limit, offset=offset, sort=sort, **chosen(which))
    emit(session, page.tasks, TASK_COLUMNS, task_row)
    if session.output == "table" and page.total > len(page.tasks):
        session.say(f"{len(page.tasks)} of {page.total} tasks; --limit and --offset show others")


@click.command(cls=Command)
@click.argument("id", required=False, shell_complete=suggest.task_ids)
@click.option("--watch", is_flag=True, help="Show it again and again, until Ctrl-C.")
@click.option("--interval", type=inputs.DURATION, default=2.0, help="Pause between two looks [default: 2s].")
@pass_session
def status(session: Session, id: str | None, watch: bool, interval: float) -> None:
    """Show the queue's statistics, or the status of one task."""
    while True:
        finished = False
        if id is None:
            _print_stats(session, session.client.status())
        else:
            task = session.client.get(id)
            emit(session, [task], TASK_COLUMNS, task_row, single=True)
            say_errors(session, [task])
            finished = task.finished
        if not watch or finished:
            return
        time.sleep(max(0.1, interval))
        if session.output == "table":
            click.echo()


def _print_stats(session: Session, stats: RemoteStats) -> None:
    match session.output:
        case "json":
            print_json(plain(stats))
        case "jsonl":
            print_line(plain(stats))
        case "id":
            raise click.UsageError("the queue's statistics have no id; use -o json")
        case _:
            print_table(session, ("QUEUE", ""), stats_rows(stats))


def stats_rows(stats: RemoteStats) -> list[tuple[str, str]]:
    """Return the statistics as lines of a table."""
    levels = sorted(((int(level), count) for level, count in stats.queues_by_priority.items()), reverse=True)
    state = "draining" if stats.draining else "paused" if stats.paused else "open"
    rows = [
        ("state", state if stats.storage_ok else f"{state}; the disk refuses writes"),
        ("pending", str(stats.pending_tasks)),
        *((f"  {priority_name(level)}", str(count)) for level, count in levels if count),
        ("scheduled", str(stats.scheduled_tasks)),
        ("running", str(stats.running_tasks)),
        ("completed", str(stats.completed_tasks)),
        ("failed", str(stats.failed_tasks)),
        ("cancelled", str(stats.cancelled_tasks)),
        ("total", str(stats.total_tasks)),
        ("workers", f"{stats.workers_active} active, {stats.workers_idle} idle"),
    ]
    if stats.oldest_waiting_at is not None:
        rows.append(("longest wait", seconds(max(0.0, time.time() - stats.oldest_waiting_at))))
    for host in stats.hosts:
        rows.append(
            (f"host {host.name}", f"{'up' if host.up else 'down'} {host.busy}/{host.slots} {host.url}")
        )
    return rows


@click.command(cls=Command)
@click.argument("id", shell_complete=suggest.task_ids)
@pass_session
def show(session: Session, id: str) -> None:
    """Show all of one task: what was asked, its attempts, its result."""
    task = session.client.get(id)
    if session.output != "table":
        emit(session, [task], (), lambda item: (), single=True)
        return
    print_table(session, ("TASK", task.id), _details(task))
    if task.attempts:
        click.echo()
        columns = ("ATTEMPT", "HOST", "STARTED", "TOOK", "OUTCOME", "ERROR")
        print_table(session, columns, [_attempt_row(attempt) for attempt in task.attempts])
    if task.output:
        click.echo(f"\n{printable(task.output)}")


def _details(task: RemoteTask) -> list[tuple[str, str]]:
    rows = [
        ("type", task.type),
        ("model", task.model),
        ("priority", priority_name(task.priority)),
        ("status", str(task.status)),
        ("waits", _why_waiting(task)),
        ("place", "" if task.queue_position is None else str(task.queue_position)),
        ("expected start", when(task.expected_start_at)),
        ("created", when(task.created_at)),
        ("due", when(task.run_at)),
        ("started", when(task.started_at)),
        ("finished", when(task.completed_at)),
        ("host", task.host or ""),
        ("tokens", _tokens(task)),
        ("retries", f"{task.retry_count} of {task.max_retries}"),
        ("timeout", "" if task.timeout is None else seconds(task.timeout) if task.timeout else "none"),
        ("keep alive", "" if task.keep_alive is None else str(task.keep_alive)),
        ("guard", "" if task.guard == "report" else task.guard),
        ("tags", ", ".join(task.tags)),
        ("options", _json(task.options)),
        ("payload", _json(task.payload)),
        ("error", task.error or ""),
        *(("warning", found) for found in warnings_of(task)),
        ("result", vectors_of(task)),
    ]
    return [(name, printable(value)) for name, value in rows if value]


def _why_waiting(task: RemoteTask) -> str:
    waiting = task.waiting
    if waiting is None:
        return ""
    error = f" ({waiting.error})" if waiting.error and waiting.error != task.error else ""
    return f"{waiting.text or waiting.reason}{error}"


def _tokens(task: RemoteTask) -> str:
    rate = f", {task.tokens_per_second:g} a second" if task.tokens_per_second else ""
    return f"{task.tokens}{rate}" if task.tokens else ""


def _json(value: Any) -> str:
    text = "" if not value else msgspec.json.encode(value).decode()
    return text if len(text) <= 300 else text[:299] + "…"


def _attempt_row(attempt: Any) -> tuple[str, ...]:
    took = None if attempt.finished_at is None else attempt.finished_at - (attempt.started_at or 0)
    outcome = attempt.outcome or "running"
    error = printable(attempt.error or "")
    return (str(attempt.number), attempt.host, when(attempt.started_at), seconds(took), outcome, error)


@click.command(cls=Command)
@click.argument("ids", nargs=-1, required=True, metavar="ID...", shell_complete=suggest.task_ids)
@click.option(
    "--timeout", "limit", type=inputs.DURATION, help="Wait so long for all of them; then exit with 124."
)
@pass_session
def wait(session: Session, ids: tuple[str, ...], limit: float | None) -> None:
    """Wait until tasks are finished. "-" reads ids from a pipe. Exits with 4 if one failed or was cancelled."""
    wanted = inputs.read_ids(ids)
    deadline = None if limit is None else time.monotonic() + limit
    code, finished = exits.OK, list[RemoteTask]()
    session.client.status()
    client = session.endure()
    with progress(session, "waiting", len(wanted)) as forward:
        for id in wanted:
            try:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                task = client.wait(id, left)
            except OqError as error:
                if len(wanted) == 1:
                    raise
                complain(error)
                code = exits.exit_code(error)
                if isinstance(error, WaitTimeout):
                    break
                continue
            finished.append(task)
            forward(1)
            if task.status != "completed":
                code = code or exits.TASK_FAILED
    emit(session, finished, TASK_COLUMNS, task_row, single=len(wanted) == 1)
    say_errors(session, finished)
    raise SystemExit(code)


def finish(session: Session, id: str) -> int:
    """Wait for one task and print its result; return the exit code."""
    try:
        task = session.endure().wait(id)
    except KeyboardInterrupt:
        session.say(f"\nthe task goes on. Come back with: oq wait {id}")
        return exits.INTERRUPTED
    if session.output == "table":
        return print_result(session, task)
    emit(session, [task], (), lambda item: (), single=True)
    return exits.OK if task.status == "completed" else exits.TASK_FAILED
