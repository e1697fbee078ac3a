"""What the shell offers when a word is begun: ids and models, asked of the server; nothing if it does not answer."""

from __future__ import annotations

from typing import Any

import click
from click.shell_completion import CompletionItem

from oq.cli.session import Session
from oq.errors import OqError

SECONDS = 1.0  # a person waits for the Tab key
TASKS = 50  # so many of the newest


def _session(context: click.Context) -> Session:
    """Return the session as the words before the one begun have it; the program itself was not run."""
    session = Session()
    outer: click.Context | None = context
    while outer is not None:
        given = outer.params
        session.server = session.server or getattr(outer.obj, "server", None)
        session.config = session.config or given.get("config")
        session.config_dir = session.config_dir or given.get("config_dir")
        outer = outer.parent
    session.timeout = SECONDS
    return session


def _client(session: Session) -> Any:
    from oq.client import Client, Patience

    return Client(
        session.address(), token=session.token(), timeout=SECONDS, patience=Patience(retries=0, total=SECONDS)
    )


def task_ids(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the newest tasks, with what they are."""
    from oq.cli.words import one_line

    try:
        with _client(_session(context)) as client:
            tasks = client.list(limit=TASKS)
    except (OqError, OSError):
        return []
    return [
        CompletionItem(task.id, help=one_line(f"{task.status} {task.type} {task.model}: {task.prompt or ''}"))
        for task in tasks
        if task.id.startswith(incomplete)
    ]


def model_names(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Offer the models that the model servers have."""
    try:
        with _client(_session(context)) as client:
            names = {name for host in client.hosts() for name in host.available}
    except (OqError, OSError):
        return []
    short = (name.removesuffix(":latest") for name in names)
    return [CompletionItem(name) for name in sorted(short) if name.startswith(incomplete)]
