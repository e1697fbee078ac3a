"""`oq submit chat|generate|embed`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from oq import builders
from oq.cli import inputs, suggest
from oq.cli.attach import follow
from oq.cli.output import emit
from oq.cli.session import Group, Session, pass_session
from oq.cli.tasks import finish
from oq.core.guard import GUARDS
from oq.core.model import TaskSpec


def _named(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    if value is not None and not value.strip():  # None: the shell completes something else
        raise click.BadParameter("it is empty; give the model's name, such as llama3.2")
    return value


_COMMON: list[Callable[[Any], Any]] = [
    click.option(
        "-m", "--model", required=True, callback=_named, shell_complete=suggest.model_names,
        help="The model's name, such as llama3.2.",
    ),
    click.option(
        "--priority", type=inputs.PRIORITY, default="normal", show_default=True,
        help="low, normal, high, critical, or 0 to 1000.",
    ),
    click.option("--max-retries", type=click.IntRange(0), help="Attempts beyond the first; 0: none."),
    click.option("--timeout", type=inputs.DURATION, help="Bound on one attempt: 30s, 5m; 0: none."),
    click.option("--delay", type=inputs.DURATION, help="Start after this time at the earliest."),
    click.option("--at", type=inputs.TIME, help="Start at this time at the earliest: 2030-01-31T08:00:00Z."),
    click.option("--tag", multiple=True, help="A word to find the task by; may be repeated."),
    click.option("--option", multiple=True, metavar="NAME=VALUE", help="A model option; may be repeated."),
    click.option("--keep-alive", help="How long the model stays loaded: 5m, -1 for ever."),
    click.option("--truncate/--no-truncate", default=None, help="Whether an input that is too long is cut."),
    click.option("--idempotency-key", help="The same key and task, submitted again, is the same task."),
    click.option(
        "--guard", type=click.Choice(GUARDS), default="report", show_default=True,
        help="What to do about an answer that is cut, or not the JSON asked for.",
    ),
    click.option("--wait", is_flag=True, help="Wait for the end and print the result."),
]  # fmt: skip
_TEXT: list[Callable[[Any], Any]] = [
    click.option("--system", help="The instruction to the model; text, @file or -."),
    click.option("--format", metavar="json|@SCHEMA", help="Answer in JSON, or by a JSON schema."),
    click.option("--think", help="true, false, or a level such as high."),
    click.option(
        "--image",
        multiple=True,
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        metavar="FILE",
        help="A picture; may be repeated.",
    ),
    click.option("--stream", is_flag=True, help="Print the text as it comes."),
]


def _with(options: list[Callable[[Any], Any]]) -> Callable[[Any], Any]:
    def add(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return add


class Kinds(Group):
    """The kinds of task. The likeliest mistake is to name none: `oq submit "hi"`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        kind = next((word for word in args if word in self.commands), None)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if kind is None:
                raise self._none_named(ctx) from None
            name = error.option_name
            raise click.UsageError(f"{name} stands after the kind: oq submit {kind} {name} …", ctx) from None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in self.commands:
            raise self._none_named(ctx)
        return super().resolve_command(ctx, args)

    def _none_named(self, ctx: click.Context) -> click.UsageError:
        kinds = "|".join(self.commands)
        return click.UsageError(f"say what kind of task it is: oq submit {kinds} …", ctx)


@click.group(cls=Kinds)
def submit() -> None:
    """Submit a task. It is on the server's disk when its id is printed.

    Texts may be given as @FILE (@@ for an @ itself), or as - or nothing to read them from a pipe.
    """


@submit.command(short_help="Submit a chat.")
@click.argument("text", nargs=-1)
@click.option("--messages", multiple=True, metavar="ROLE:TEXT", help='Such as "user:Hello"; may be repeated.')
@click.option("--tools", metavar="@FILE", help="The tools the model may call, as a JSON list.")
@_with(_TEXT)
@_with(_COMMON)
@pass_session
def chat(session: Session, text: tuple[str, ...], messages: tuple[str, ...], **given: Any) -> None:
    """Submit a chat. TEXT, or what comes through a pipe, is the user's last message."""
    said = inputs.parse_messages(messages)
    if text or not messages:
        said.append({"role": "user", "content": inputs.prompt_from(None, text, "message")})
    pictures = given.pop("image")
    if pictures:
        said[-1]["images"] = list(pictures)
    tools = given.pop("tools")
    if tools is not None:
        tools = inputs.parse_json(tools, "--tools takes a JSON list, best as @tools.json")
    model, options = given.pop("model"), _options(given)
    _submit(session, builders.chat(model, said, tools=tools, **options), given)


@submit.command(short_help="Submit a prompt to continue.")
@click.argument("text", nargs=-1)
@click.option("--prompt", help="The text to continue; text, @file or -.")
@click.option("--suffix", help="The text after the gap to fill.")
@click.option("--template", help="A prompt template in place of the model's own.")
@click.option("--raw", is_flag=True, default=None, help="Send the prompt without any template.")
@_with(_TEXT)
@_with(_COMMON)
@pass_session
def generate(session: Session, text: tuple[str, ...], prompt: str | None, **given: Any) -> None:
    """Submit a prompt to continue: TEXT, --prompt, or what comes through a pipe."""
    prompt = inputs.prompt_from(prompt, text, "prompt")
    own = {name: given.pop(name) for name in ("suffix", "template", "raw")}
    model, options = given.pop("model"), _options(given)
    _submit(
        session, builders.generate(model, prompt, images=given.pop("image") or None, **own, **options), given
    )


@submit.command(short_help="Submit texts to turn into vectors.")
@click.argument("text", nargs=-1)
@click.option("--input", "input_", multiple=True, help="A text to embed; may be repeated.")
@click.option("--lines", is_flag=True, help="Each line of the input is a text of its own.")
@click.option("--dimensions", type=click.IntRange(1), help="The length of the vectors.")
@_with(_COMMON)
@pass_session
def embed(
    session: Session,
    text: tuple[str, ...],
    input_: tuple[str, ...],
    lines: bool,
    dimensions: int | None,
    **given: Any,
) -> None:
    """Submit texts to turn into vectors: TEXT, --input, or what comes through a pipe."""
    texts = [inputs.read_text(one) for one in input_]
    if text or not texts:
        texts.append(inputs.prompt_from(None, text, "input"))
    if lines:
        texts = [line for one in texts for line in one.splitlines() if line.strip()]
    model, options = given.pop("model"), _options(given)
    what = texts[0] if len(texts) == 1 else texts
    _submit(session, builders.embed(model, what, dimensions=dimensions, **options), given)


def _options(given: dict[str, Any]) -> dict[str, Any]:
    """Take the builder's arguments out of the flags; what stays is how to go on after the submission."""
    if given["delay"] is not None and given["at"] is not None:
        raise click.UsageError("give --delay or --at, not both")
    found: dict[str, Any] = {
        "priority": given.pop("priority"),
        "max_retries": given.pop("max_retries"),
        "timeout": given.pop("timeout"),
        "delay": given.pop("delay"),
        "run_at": given.pop("at"),
        "tags": given.pop("tag"),
        "options": inputs.parse_options(given.pop("option")),
        "keep_alive": inputs.parse_keep_alive(given.pop("keep_alive")),
        "truncate": given.pop("truncate"),
        "idempotency_key": given.pop("idempotency_key"),
        "guard": given.pop("guard"),
    }
    if "system" in given:
        system = given.pop("system")
        found["system"] = None if system is None else inputs.read_text(system)
        found["format"] = inputs.parse_format(given.pop("format"))
        found["think"] = inputs.parse_think(given.pop("think"))
    return found


def _submit(session: Session, spec: TaskSpec, then: dict[str, Any]) -> None:
    handle = session.client.submit(spec)
    if then.get("stream"):
        session.say(f"task {handle.id}")
        raise SystemExit(follow(session, handle.id))
    if then["wait"]:
        session.say(f"task {handle.id}")
        raise SystemExit(finish(session, handle.id))
    if session.output == "table":
        click.echo(f"Task submitted with ID: {handle.id}")
        return
    emit(
        session,
        [{"task_id": handle.id}],
        (),
        lambda item: (),
        id=lambda item: str(item["task_id"]),
        single=True,
    )
