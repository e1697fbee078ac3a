"""What every command shares: the global options, the client, and how an error ends the program."""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from oq.cli import exits
from oq.errors import OqError

if TYPE_CHECKING:
    from oq.client import Client
    from oq.config import Loaded

FORMATS = ("table", "json", "jsonl", "id")


class Session:
    """The global options of one run of the program."""

    def __init__(self) -> None:
        self.server: str | None = None
        self.config: str | None = None
        self.config_dir: str | None = None
        self.overrides: dict[str, Any] = {}
        self.output = "table"  # see `asked_for`
        self.quiet = False
        self.color: bool | None = None
        self.timeout = 30.0
        self.verbose = 0
        self._client: Client | None = None
        self._loaded: Loaded | None = None

    def load(self, overrides: dict[str, Any] | None = None) -> Loaded:
        """Return the settings with their origins; *overrides* are a command's own flags."""
        from oq.config import load_settings

        return load_settings(
            self.config, self.config_dir, environ=os.environ, overrides=self.overrides | (overrides or {})
        )

    @property
    def settings(self) -> Any:
        if self._loaded is None:
            self._loaded = self.load()
        return self._loaded.settings

    def address(self) -> str:
        """Return the server's URL: --server, OQ_URL, or where a server with these settings would listen."""
        given = self._address_given()
        if given:
            return given
        server = self.settings.server
        host = "127.0.0.1" if server.host in ("0.0.0.0", "::", "") else server.host
        scheme = "https" if server.tls_cert else "http"
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{server.port}"

    def token(self) -> str | None:
        """Return the token for that server: OQ_TOKEN, or the setting where the server is the settings' own."""
        from oq.client.transport import check_token

        token = os.environ.get("OQ_TOKEN")
        if token is None and not self._address_given():  # never tell one server's token to another
            return check_token(self.settings.server.token, "server.token")
        return check_token(token, "OQ_TOKEN")

    def _address_given(self) -> str | None:
        return self.server or os.environ.get("OQ_URL")

    @property
    def client(self) -> Client:
        """The client; gives up soon: a person waits, and a server that is not there is to be said at once."""
        if self._client is None:
            self._client = self._connect(retries=3, total=15.0)
        return self._client

    def endure(self) -> Client:
        """Return a client that outlives a restart of the server, for those who wait or watch.

        Only once a first request was answered, so that a wrong address is still told at once.
        """
        self.close()
        self._client = self._connect(retries=20, total=90.0)
        return self._client

    def _connect(self, retries: int, total: float) -> Client:
        from oq.client import Client, Patience

        patience = Patience(retries=retries, total=total)
        return Client(self.address(), token=self.token(), timeout=self.timeout, patience=patience)

    def asked_for(self, *formats: str) -> bool:
        """Return whether a person wrote that the output is to be one of *formats*."""
        given: click.Context | None = click.get_current_context()
        while given is not None:
            if given.get_parameter_source("output") is ParameterSource.COMMANDLINE:
                return self.output in formats
            given = given.parent
        return False

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def say(self, text: str) -> None:
        """Tell the person something that is not data."""
        if not self.quiet:
            click.echo(text, err=True, color=self.color)


def pass_session(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the session as its first argument."""

    @functools.wraps(function)
    def call(*args: Any, **more: Any) -> Any:
        return function(click.get_current_context().ensure_object(Session), *args, **more)

    return call


def _set(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def store(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value is not None and value is not False and value != 0:
            setattr(context.ensure_object(Session), name, value)

    return store


def shared_options() -> list[click.Parameter]:
    """Return the options that may stand before a command and after it."""

    def option(*names: str, to: str, help: str, **more: Any) -> click.Option:
        return click.Option(names, expose_value=False, callback=_set(to), help=help, **more)

    return [
        option(
            "-o",
            "--output",
            to="output",
            type=click.Choice(FORMATS),
            help="How to print data [default: table].",
        ),
        option("-q", "--quiet", to="quiet", is_flag=True, help="Say nothing but data and errors."),
        option("--server", to="server", metavar="URL", help="The server's address (also OQ_URL)."),
    ]


class _Told(click.Command):
    """A command that knows which options stand before it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            name, program = error.option_name, ctx.find_root()
            for option in program.command.params if ctx.parent is not None else ():
                if name in (*option.opts, *option.secondary_opts):
                    value = (
                        "" if getattr(option, "is_flag", False) or getattr(option, "count", False) else " …"
                    )
                    rest = ctx.command_path.removeprefix(program.command_path).strip()
                    raise click.UsageError(
                        f"{name} stands before the command: {program.command_path} {name}{value} {rest}", ctx
                    ) from None
            raise


class Command(_Told):
    """A command that takes the shared options, too."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        taken = {name for parameter in self.params for name in parameter.opts}
        self.params += [option for option in shared_options() if not taken & set(option.opts)]


class ReaderGone(Exception):
    """Nobody reads our output any more. In place of `BrokenPipeError`, of which click makes exit code 1."""


@contextmanager
def _heeding_the_reader() -> Iterator[None]:
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()  # here, where its error can be told, and not at the end of the process
    except BrokenPipeError as error:
        raise ReaderGone from error


class Group(_Told, click.Group):
    """The program: errors become one sentence and an exit code, never a traceback."""

    command_class = Command

    def make_context(self, *args: Any, **more: Any) -> click.Context:
        with _heeding_the_reader():  # --help and --version print here
            return super().make_context(*args, **more)

    def invoke(self, ctx: click.Context) -> Any:
        with _heeding_the_reader():
            return super().invoke(ctx)

    def main(  # type: ignore[override]  # two overloads in click, one here
        self, args: Sequence[str] | None = None, prog_name: str | None = None, **more: Any
    ) -> Any:
        if not more.pop("standalone_mode", True):
            return super().main(args, prog_name, standalone_mode=False, **more)
        code: Any = exits.OK
        try:
            code = super().main(args, prog_name, standalone_mode=False, **more)
        except click.ClickException as error:
            error.show()
            code = error.exit_code
        except (click.Abort, KeyboardInterrupt):
            click.echo("interrupted", err=True)
            code = exits.INTERRUPTED
        except OqError as error:
            if isinstance(error.__cause__, UnicodeEncodeError):
                code = _complain_of_text(error.__cause__)
            else:
                complain(error)
                code = exits.exit_code(error)
        except UnicodeEncodeError as error:
            code = _complain_of_text(error)
        except ReaderGone:  # it has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except OSError as error:  # the disk under our output is full, the terminal is gone
            what = f"{error.filename}:" if error.filename else "the output cannot be written:"
            click.echo(f"error: {what} {error.strerror or error}", err=True)
            code = exits.ERROR
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is not tried again
        sys.exit(code if isinstance(code, int) else exits.OK)


def complain(error: OqError) -> None:
    """Print an error for a person, on stderr."""
    from oq.cli.words import one_line

    field = getattr(error, "field", None)
    text = f"{field}: {error.message}" if field and field not in error.message else error.message
    click.echo(f"error: {one_line(text, 2000)}", err=True)


def _complain_of_text(error: UnicodeEncodeError) -> int:
    """Say which text cannot be written, and return the exit code."""
    odd = error.object[error.start]
    if "\ud800" <= odd <= "\udfff":  # so Python reads the bytes of an argument that are no text
        text = repr(error.object[max(0, error.start - 30) : error.start + 30])
        click.echo(f"error: an argument is not UTF-8 text: {text}; see LC_ALL", err=True)
        return exits.USAGE
    where = f"{odd!a} cannot be written in the encoding of the output, {error.encoding}"
    click.echo(f"error: {where}; see LC_ALL and PYTHONIOENCODING", err=True)
    return exits.ERROR


def interactive() -> bool:
    """Return whether a person can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()
