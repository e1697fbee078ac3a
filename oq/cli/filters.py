"""The flags that say which tasks: for lists, exports and bulk commands."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from oq.cli import inputs, suggest
from oq.core.model import TASK_TYPES, Status

F = TypeVar("F", bound=Callable[..., Any])

_FLAGS: list[Callable[[Any], Any]] = [
    click.option(
        "--status",
        multiple=True,
        type=click.Choice([str(s) for s in Status]),
        help="Only this; all of these may be repeated.",
    ),
    click.option("--type", "type_", multiple=True, type=click.Choice(TASK_TYPES), help="Only this type."),
    click.option("--priority", "priority", multiple=True, type=inputs.PRIORITY, help="Only this priority."),
    click.option("--model", multiple=True, shell_complete=suggest.model_names, help="Only this model."),
    click.option("--host", multiple=True, help="Only what ran or runs on this model server."),
    click.option("--tag", multiple=True, help="Only with this tag."),
    click.option("--search", metavar="TEXT", help="Only with this text in the prompt, the model or the id."),
]


def filter_flags(function: F) -> F:
    """Add the flags; the function takes ``**which`` and gives it to `chosen`."""
    for flag in reversed(_FLAGS):
        function = flag(function)
    return function


def chosen(which: dict[str, Any]) -> dict[str, Any]:
    """Return the filter of the flags given, with the names of the REST API."""
    found = {
        "status": which["status"], "type": which["type_"], "priority": which["priority"], "model": which["model"],
        "host": which["host"], "tag": which["tag"], "q": which["search"],
    }  # fmt: skip
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in found.items() if value
    }
