"""`oq token`: who may use a server. It works on the data folder, whether a server runs on it or not."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from oq.cli.output import emit
from oq.cli.session import Group, Session, pass_session
from oq.wire import rfc3339

if TYPE_CHECKING:
    from oq.tokens import TokenFile

COLUMNS = ("NAME", "SCOPE", "CREATED")
SCOPES = ("read", "submit", "admin")


@click.group(cls=Group)
def token() -> None:
    """Make, list and revoke access tokens.

    They are kept in the data folder of this machine (queue.storage_path), as hashes. From the first one on, the server
    asks everybody for a token; a running one notices a change by itself.
    """


@token.command("create")
@click.argument("name")
@click.option(
    "--scope",
    type=click.Choice(SCOPES),
    required=True,
    help="read: see everything. submit: add tasks, too. admin: everything.",
)
@pass_session
def token_create(session: Session, name: str, scope: str) -> None:
    """Make a token and print it. It is shown this once."""
    from oq.tokens import WORDS

    secret = _file(session).create(name, WORDS[scope], time.time())
    item = {"name": name, "scope": scope, "token": secret}
    if session.output == "table":
        click.echo(secret)
    else:
        emit(session, [item], (), lambda one: (), id=lambda one: str(one["token"]), single=True)
    session.say(f"the token {name!r} may {scope}; it cannot be shown again. Clients take it from OQ_TOKEN")


@token.command("list")
@pass_session
def token_list(session: Session) -> None:
    """List the tokens: names, scopes and when each was made."""
    items = [
        {"name": one.name, "scope": one.scope, "created_at": rfc3339(one.created_at)}
        for one in _file(session).read()
    ]
    emit(session, items, COLUMNS, lambda item: tuple(item.values()), id=lambda item: item["name"])


@token.command("revoke")
@click.argument("name")
@pass_session
def token_revoke(session: Session, name: str) -> None:
    """Take a token back; what is open by it ends within a second."""
    file = _file(session)
    file.revoke(name)
    session.say(f"the token {name!r} is revoked")
    if not file.read():
        session.say(
            f"none is left, and the server goes on asking for one; to end that, delete {file.path} and restart the server"
        )


def _file(session: Session) -> TokenFile:
    from oq.tokens import TokenFile

    return TokenFile(session.settings.queue.storage_path)
