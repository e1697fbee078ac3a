"""Commands for the queue as a whole: pause, resume, drain, events, hosts, models."""

from __future__ import annotations

import re
from typing import Any

import click

from oq.cli import exits, inputs
from oq.cli.output import emit, plain, print_json, print_line, print_table
from oq.cli.session import Command, Session, pass_session
from oq.cli.words import one_line, when
from oq.core.events import EventType
from oq.wire import RemoteEvent, RemoteHost


@click.command(cls=Command)
@pass_session
def pause(session: Session) -> None:
    """Start no further task; what runs goes on. The switch survives a restart of the server."""
    _say(session, session.client.pause(), "The queue is paused")


@click.command(cls=Command)
@pass_session
def resume(session: Session) -> None:
    """End a pause or a drain."""
    _say(session, session.client.resume(), "The queue is open")


@click.command(cls=Command)
@click.option("--grace", type=inputs.DURATION, help="After this time what runs goes back to pending.")
@pass_session
def drain(session: Session, grace: float | None) -> None:
    """Take and start nothing more, and wait for what runs. `oq resume` ends it."""
    _say(session, session.client.drain(grace), "The queue is drained: nothing runs")


def _say(session: Session, answer: dict[str, Any], text: str) -> None:
    if session.output != "table":
        print_json(answer)
    elif not session.quiet:
        click.echo(text)


# A number, or an id as the server sends it: what ran then, and the number.
EVENT = re.compile(r"(\w+-)?\d+", re.ASCII)
LOST = "events up to number {} may be missing here: begin again from what is now (`oq status`, `oq list`)"


def _event(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and not EVENT.fullmatch(value):
        raise click.BadParameter(f"{value!r} is no event's number: it is 0 or more")
    return value


@click.command(cls=Command)
@click.option(
    "--type", "types", multiple=True, type=click.Choice([str(kind) for kind in EventType]), help="Only this."
)
@click.option("--follow", "-f", is_flag=True, help="Go on until Ctrl-C; this is what happens anyway.")
@click.option(
    "--after",
    metavar="NUMBER",
    callback=_event,
    help="Begin after this event; 0: with the oldest that is still known.",
)
@click.option("--limit", type=click.IntRange(1), help="End after so many events.")
@pass_session
def events(
    session: Session, types: tuple[str, ...], follow: bool, after: str | None, limit: int | None
) -> None:
    """Show what happens, one line each, until Ctrl-C."""
    seen = 0
    session.client.status()
    with session.endure().subscribe(types or None, after) as happening:
        for event in happening:
            _print_event(session, event)
            seen += 1
            if limit is not None and seen >= limit:
                return


def _print_event(session: Session, event: RemoteEvent) -> None:
    match session.output:
        case "json" | "jsonl":
            print_line(plain(event))
        case "id":
            click.echo(event.task_id or event.subject or event.type)
        case _ if event.type == "resync":
            session.say(LOST.format(event.seq))
        case _:
            error = event.task.error if event.task is not None else None
            about = event.task_id or event.subject or ""
            more = one_line(error or event.detail or "", 100)
            click.echo(f"{when(event.timestamp)}  {event.type:<18} {about}  {more}".rstrip())


@click.command(cls=Command)
@pass_session
def hosts(session: Session) -> None:
    """Show the model servers: whether they are up, their slots and their loaded models."""

    def row(host: RemoteHost) -> tuple[str, ...]:
        state, slots = "up" if host.up else "down", f"{host.busy}/{host.slots}"
        note = ", ".join(host.loaded) if host.up else one_line(host.error or "", 80)
        return (host.name, host.url, state, slots, host.version or "", note)

    columns = ("NAME", "URL", "STATE", "BUSY", "VERSION", "LOADED")
    emit(session, session.client.hosts(), columns, row, id=lambda host: str(host.name))


@click.command(cls=Command)
@pass_session
def models(session: Session) -> None:
    """Show the models that can be used, and where."""
    found: dict[str, dict[str, Any]] = {}
    down = []
    for host in session.client.hosts():
        if not host.up:
            down.append(host.name)
        for name in host.available:
            entry = found.setdefault(name, {"model": name, "hosts": [], "loaded": False})
            entry["hosts"].append(host.name)
            entry["loaded"] = entry["loaded"] or name in host.loaded
    items = [found[name] for name in sorted(found)]
    if session.output == "table":
        rows = [
            (one_line(item["model"]), "yes" if item["loaded"] else "", ", ".join(item["hosts"]))
            for item in items
        ]
        print_table(session, ("MODEL", "LOADED", "HOSTS"), rows)
    else:
        emit(session, items, (), lambda item: (), id=lambda item: str(item["model"]))
    for name in down:
        session.say(f"the model server {name} cannot be reached; see `oq hosts`")
    if down and not items:
        raise SystemExit(exits.ERROR)
