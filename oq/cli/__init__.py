"""The command line: a thin layer over `oq.Client`. `oq.__main__` starts it."""

from __future__ import annotations

import importlib
from typing import Any

import click

from oq.cli.session import Command, Group, Session, pass_session, shared_options
from oq.version import VERSION

# Loaded when used: `oq submit` starts without the server's code, and `oq --help` reads only these lines.
COMMANDS = {
    "serve": ("oq.cli.serve:serve", "Run the queue and its HTTP server."),
    "demo": ("oq.cli.demo:demo", "Show it all with a small real model, without Ollama."),
    "submit": ("oq.cli.submit:submit", "Submit a chat, generate or embed task."),
    "batch": ("oq.cli.transfer:batch", "Submit many tasks from a file or a pipe."),
    "list": ("oq.cli.tasks:list_tasks", "List tasks."),
    "status": ("oq.cli.tasks:status", "Show the queue's statistics, or one task's status."),
    "show": ("oq.cli.tasks:show", "Show all of one task."),
    "wait": ("oq.cli.tasks:wait", "Wait until tasks are finished."),
    "attach": ("oq.cli.attach:attach", "Show a task's text, so far and as it comes."),
    "stream": ("oq.cli.attach:stream", "The same as attach."),
    "top": ("oq.cli.top:top", "Watch the queue live."),
    "cancel": ("oq.cli.change:cancel", "Cancel waiting or running tasks."),
    "retry": ("oq.cli.change:retry", "Run finished tasks again."),
    "delete": ("oq.cli.change:delete", "Forget finished tasks."),
    "priority": ("oq.cli.change:priority", "Change a waiting task's priority."),
    "pause": ("oq.cli.control:pause", "Start no further task."),
    "resume": ("oq.cli.control:resume", "End a pause or a drain."),
    "drain": ("oq.cli.control:drain", "Take and start nothing more, and wait for what runs."),
    "events": ("oq.cli.control:events", "Show what happens, as it happens."),
    "hosts": ("oq.cli.control:hosts", "Show the model servers."),
    "models": ("oq.cli.control:models", "Show the models that can be used."),
    "export": ("oq.cli.transfer:export", "Write tasks to a file, one JSON object a line."),
    "import": ("oq.cli.transfer:import_tasks", "Submit exported tasks again."),
    "backup": ("oq.cli.backup:backup", "Back up the data folder while the server runs."),
    "restore": ("oq.cli.backup:restore", "Make a backup the store of a data folder."),
    "doctor": ("oq.cli.doctor:doctor", "Check settings, data folder, disk, port and model server."),
    "token": ("oq.cli.token:token", "Make, list and revoke access tokens."),
    "config": ("oq.cli.settings:config", "Show the settings."),
    "completion": ("oq.cli.settings:completion", "Print the completion script of a shell."),
    "help": ("oq.cli.settings:help_", "Show the help of a command."),
    "version": ("oq.cli.settings:version", "Print the version."),
}


class Program(Group):
    """The commands, imported one by one when needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        found: click.Command = getattr(importlib.import_module(module), name)
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ". See `oq --help`."
            raise click.UsageError(f"there is no command {args[0]!r}{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def _global_options() -> list[click.Parameter]:
    return [*shared_options()]


ANSWER_SECONDS_MAX = 86_400.0  # of --timeout; sockets take no more than some weeks


def _seconds(context: click.Context, parameter: click.Parameter, value: float) -> float:
    if not 0 < value <= ANSWER_SECONDS_MAX:  # nor is NaN
        raise click.BadParameter(f"it must be more than 0 and at most {ANSWER_SECONDS_MAX:g} seconds")
    return value


@click.group(cls=Program, params=_global_options(), context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--config", metavar="FILE", help="The configuration file.")
@click.option("--config-dir", metavar="FOLDER", help="The folder of config.yaml.")
@click.option("--data-dir", metavar="FOLDER", help="The data folder (queue.storage_path).")
@click.option("--ollama-host", metavar="URL", help="The model server (ollama.host).")
@click.option(
    "--timeout", type=float, default=30.0, show_default=True, callback=_seconds,
    help="Seconds for one answer of the server.",
)  # fmt: skip
@click.option("--color/--no-color", default=None, help="Colours, whatever the terminal (also NO_COLOR).")
@click.option("-v", "--verbose", count=True, help="Tell more, on stderr; -vv tells all.")
@click.version_option(VERSION, "--version", prog_name="oq", message="%(prog)s %(version)s")
@pass_session
@click.pass_context
def cli(
    context: click.Context,
    session: Session,
    config: str | None,
    config_dir: str | None,
    data_dir: str | None,
    ollama_host: str | None,
    timeout: float,
    color: bool | None,
    verbose: int,
) -> None:
    """Ollama Queue: a durable queue in front of a model server.

    Exit codes: 0 ok, 1 error, 2 usage, 3 not found, 4 task failed or cancelled, 5 server unreachable,
    6 conflict, 124 timeout, 130 interrupted.
    """
    session.config, session.config_dir = config, config_dir
    given: dict[str, Any] = {"queue.storage_path": data_dir, "ollama.host": ollama_host}
    session.overrides = {key: value for key, value in given.items() if value is not None}
    session.timeout, session.color, session.verbose = timeout, color, verbose
    if color is not None:
        context.color = color
    if verbose:
        import logging

        logging.basicConfig(level=logging.DEBUG if verbose > 1 else logging.INFO)
    context.call_on_close(session.close)


def main() -> None:
    """Run the command line."""
    cli()


__all__ = ["COMMANDS", "Command", "cli", "main"]
