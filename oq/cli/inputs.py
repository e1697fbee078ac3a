"""What people write on a command line, as values: texts, messages, options."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from click.shell_completion import CompletionItem

from oq.core.model import PRIORITIES
from oq.errors import InvalidTask
from oq.wire import parse_duration, parse_priority, parse_time

ROLES = ("system", "user", "assistant", "tool")
# The original splits at every comma. A comma is part of the text here, unless a role follows it at once.
_NEXT = re.compile(rf",(?=(?:{'|'.join(ROLES)}):)")
KEEP_ALIVE = re.compile(
    r"[-+]?((\d+(\.\d*)?|\.\d+)(ns|us|µs|ms|s|m|h))+", re.ASCII
)  # Go's durations, as Ollama reads them


if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:  # click before 8.5 has no parameter for it
    _ParamType = click.ParamType


class Value(_ParamType):
    """A parameter read by one of `oq.wire`'s functions, so that flags and JSON take the same words."""

    def __init__(self, name: str, read: Any, names: Sequence[str] = ()) -> None:
        self.name = name
        self._read = read
        self._names = names

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        return [CompletionItem(name) for name in self._names if name.startswith(incomplete)]

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self._read(value)
        except InvalidTask as error:
            self.fail(error.message, param, ctx)


PRIORITY = Value("priority", parse_priority, tuple(PRIORITIES))
DURATION = Value("duration", parse_duration)
TIME = Value("time", parse_time)


def read_text(text: str) -> str:
    """Return *text*; ``-`` is what comes through the pipe, ``@file`` a file's content, ``@@x`` is "@x" itself."""
    if text == "-":
        return _decoded(sys.stdin.buffer.read(), "the standard input")
    if text.startswith("@@"):
        return text[1:]
    if text.startswith("@") and len(text) > 1:
        return _decoded(read_bytes(text[1:]), text[1:])
    return text


def read_bytes(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise click.UsageError(f"cannot read {path!r}: {error.strerror}") from error


def _decoded(data: bytes, source: str) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{source} is not UTF-8 text") from error


def prompt_from(given: str | None, words: Sequence[str], what: str) -> str:
    """Return the text of an option, of the words after the command, or of the pipe."""
    if given is not None and words:
        raise click.UsageError(f"give the {what} once: as an option or after the command")
    if given is None and not words:
        if sys.stdin.isatty():
            raise click.UsageError(
                f"there is no {what}: give it after the command, as @file, or through a pipe"
            )
        given = "-"
    text = read_text(given if given is not None else " ".join(words))
    if not text.strip():
        raise click.UsageError(f"the {what} is empty")
    return text


def parse_messages(values: Sequence[str]) -> list[dict[str, Any]]:
    """Return the messages of ``role:text`` values.

    >>> parse_messages(["system:Be brief.", "user:Hello, world,assistant:Hi, you"])[1:]
    [{'role': 'user', 'content': 'Hello, world'}, {'role': 'assistant', 'content': 'Hi, you'}]
    """
    messages = []
    for part in (part for value in values for part in _NEXT.split(value)):
        role, colon, text = part.partition(":")
        if not colon or role.strip() not in ROLES:
            raise click.UsageError(
                f'--messages takes "role:text" with a role of {", ".join(ROLES)}, such as "user:Hello"; not {part!r}'
            )
        messages.append(
            {"role": role.strip(), "content": read_text(text.lstrip() if text[:2] != " @" else text)}
        )
    return messages


def parse_options(pairs: Sequence[str]) -> dict[str, Any] | None:
    """Return the options of K=V pairs; V is JSON when it can be, else text.

    >>> parse_options(["temperature=0.2", "stop=END", 'stop=["a"]'])
    {'temperature': 0.2, 'stop': ['a']}
    """
    found: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise click.UsageError(f"--option takes NAME=VALUE, such as temperature=0.2; not {pair!r}")
        try:
            found[name.strip()] = msgspec.json.decode(value)
        except (ValueError, RecursionError):
            found[name.strip()] = value
    return found or None


def parse_format(value: str | None) -> Any:
    """Return ``json``, or the JSON schema in a file or in the text itself."""
    if value is None or value == "json":
        return value
    return parse_json(value, "--format takes json, @schema.json or a JSON schema")


def parse_json(value: str, complaint: str) -> Any:
    try:
        return msgspec.json.decode(read_text(value))
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"{complaint} ({error})") from error


def parse_keep_alive(value: str | None) -> Any:
    """Return a number of seconds as a number, and a duration, as model servers read it, as its text.

    >>> parse_keep_alive("-1"), parse_keep_alive("5m")
    (-1, '5m')
    """
    if value is None:
        return None
    try:
        return int(value)
    except ValueError:
        if KEEP_ALIVE.fullmatch(value):
            return value
    raise click.BadParameter(
        f"{value!r} is neither a duration, such as 5m or 1h30m, nor a number of seconds; -1 is for ever, 0 not at all",
        param_hint="'--keep-alive'",
    )


def parse_think(value: str | None) -> Any:
    return {"true": True, "false": False}.get(value, value) if value is not None else None


def read_ids(ids: Sequence[str]) -> list[str]:
    """Return the ids; ``-`` stands for those that come through the pipe, one a line."""
    found: list[str] = []
    for id in ids:
        found += read_text("-").split() if id == "-" else [id]
    return list(dict.fromkeys(found))
