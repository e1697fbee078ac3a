"""`oq backup` and `oq restore`: on the machine of the data folder, beside its server or without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from oq.cli import inputs
from oq.cli.output import print_json
from oq.cli.session import Command, Session, pass_session
from oq.config import without_password
from oq.errors import StorageError
from oq.wire import rfc3339

data_dir = click.option("--data-dir", metavar="FOLDER", help="The data folder (queue.storage_path).")


@click.command(cls=Command)
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--full", is_flag=True, help="All of it again, not only what came since the last backup.")
@data_dir
@pass_session
def backup(session: Session, folder: Path, full: bool, data_dir: str | None) -> None:
    """Back up the data folder to FOLDER while the server runs; only what came since the last backup, where that can be."""
    from oq.store.backup import back_up

    made = back_up(data_folder(session, data_dir), folder.expanduser(), full=full)
    answer: dict[str, Any] = {
        "kind": made.kind,
        "path": str(made.path),
        "bytes": made.size,
        "files": made.files,
    }
    files = f"; {made.files} new file{'s' if made.files > 1 else ''} of batches" if made.files else ""
    if made.kind == "unchanged":
        _say(session, answer, f"nothing has changed since the last backup in {folder}{files}")
    else:
        _say(session, answer, f"{made.path}: {made.kind}, {made.size} bytes{files}")


@click.command(cls=Command)
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--at", type=inputs.TIME, help="The newest backup of this time or before, not the newest.")
@click.option("--force", is_flag=True, help="Replace the store that is in the data folder.")
@data_dir
@pass_session
def restore(session: Session, folder: Path, at: float | None, force: bool, data_dir: str | None) -> None:
    """Make a backup in FOLDER the store of the data folder; it is read to its end first. The server must be stopped."""
    from oq.store.backup import restore as restore_store

    target = data_folder(session, data_dir)
    done = restore_store(folder.expanduser(), target, at=at, force=force)
    answer = {"tasks": done.tasks, "taken_at": rfc3339(done.taken_at), "data_dir": str(target)}
    _say(session, answer, f"{target} holds {done.tasks} tasks, as they were at {answer['taken_at']}")


def data_folder(session: Session, given: str | None) -> Path:
    """Return the data folder of the settings, or the one *given*; `StorageError` when the tasks are elsewhere."""
    if given is not None:
        session.overrides["queue.storage_path"] = given
    queue = session.settings.queue
    if queue.storage:
        raise StorageError(
            f"the tasks are in {without_password(queue.storage)}, not in a data folder: use that server's own backup"
        )
    return Path(queue.storage_path).expanduser()


def _say(session: Session, answer: dict[str, Any], text: str) -> None:
    if session.output == "table":
        click.echo(text)
    else:
        print_json(answer)
