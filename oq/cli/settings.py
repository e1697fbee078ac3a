"""`oq config`, `oq completion`, `oq help`, `oq version`."""

from __future__ import annotations

import platform
import shlex

import click

from oq.cli.output import emit
from oq.cli.session import Command, Group, Session, pass_session
from oq.version import VERSION

SHELLS = {  # where each shell looks for the script of a program
    "bash": ("~/.local/share/bash-completion/completions", "{}"),
    "zsh": ("~/.zfunc", "_{}"),
    "fish": ("~/.config/fish/completions", "{}.fish"),
}
ZSH = "echo 'fpath=(~/.zfunc $fpath); autoload -Uz compinit && compinit' >> ~/.zshrc"  # it looks nowhere by itself


@click.group(cls=Group)
def config() -> None:
    """Show the settings."""


@config.command("show", short_help="Show every setting as `oq serve` would take it.")
@click.option("--origin", is_flag=True, help="Tell where each value comes from.")
@pass_session
def config_show(session: Session, origin: bool) -> None:
    """Show every setting as `oq serve` would take it: flag > environment > file > default."""
    from oq.config import rows

    items = [{"key": key, "value": value, "origin": source} for key, value, source in rows(session.load())]
    if not origin:
        items = [{"key": item["key"], "value": item["value"]} for item in items]
    columns = ("SETTING", "VALUE", "ORIGIN") if origin else ("SETTING", "VALUE")
    emit(session, items, columns, lambda item: tuple(item.values()), id=lambda item: str(item["key"]))


@config.command("get", cls=Command, short_help="Print one setting.")
@click.argument("key", metavar="SETTING")
@pass_session
def config_get(session: Session, key: str) -> None:
    """Print one setting's value as `oq serve` would take it, such as that of queue.max_workers."""
    from oq.config import nearest, rows

    found = next((value for name, value, _ in rows(session.load()) if name == key), None)
    if found is None:
        raise click.BadParameter(f"there is no setting {key!r}; {nearest(key)}", param_hint="SETTING")
    if session.output in ("table", "id"):
        click.echo(found)
    else:
        emit(session, [{"key": key, "value": found}], (), lambda item: (), single=True)


@click.command(cls=Command)
@click.argument("shell", type=click.Choice(list(SHELLS)))
@click.option("--program", default="oq", help="The name it is for: oq or ollama-queue.")
@pass_session
def completion(session: Session, shell: str, program: str) -> None:
    """Print the completion script for bash, zsh or fish."""
    from click.shell_completion import get_completion_class

    from oq.cli import cli

    kind = get_completion_class(shell)
    assert kind is not None
    variable = f"_{program.replace('-', '_').upper()}_COMPLETE"
    script = kind(cli, {}, program, variable).source()
    # Click's script for fish cuts a description at its first comma.
    click.echo(script.replace('string split "," ', 'string split -m 1 "," '))
    session.say(f"to install it: {_installing(shell, program)}")


def _installing(shell: str, program: str) -> str:
    """Return a command that works as it is typed, once."""
    folder, name = SHELLS[shell]
    given = "" if program == "oq" else f" --program {shlex.quote(program)}"
    file = f"{folder}/{shlex.quote(name.format(program))}"
    command = f"mkdir -p {folder} && oq completion {shell}{given} > {file}"
    return f"{command} && {ZSH}" if shell == "zsh" else command


@click.command("help", cls=Command)
@click.argument("words", nargs=-1, metavar="[COMMAND]...")
@click.pass_context
def help_(context: click.Context, words: tuple[str, ...]) -> None:
    """Show the help of a command, such as `oq help submit chat`; without one, of all."""
    shown = context.find_root()
    for word in words:
        if not isinstance(shown.command, click.Group):
            raise click.UsageError(
                f"{shown.command_path} has no commands of its own; leave out {word!r}", shown
            )
        _, command, _ = shown.command.resolve_command(shown, [word])
        assert command is not None
        shown = click.Context(command, parent=shown, info_name=word)
    click.echo(shown.get_help())


@click.command(cls=Command)
@pass_session
def version(session: Session) -> None:
    """Print the version."""
    item = {"version": VERSION, "python": platform.python_version()}
    if session.output == "table":
        click.echo(f"oq {VERSION} (Python {item['python']})")
    else:
        emit(session, [item], (), lambda one: (), id=lambda one: str(one["version"]), single=True)
