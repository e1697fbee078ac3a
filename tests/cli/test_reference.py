"""docs/reference/cli.md names every command, every flag and every exit code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from oq.cli import cli, exits
from oq.cli.change import FITS

PAGE = (Path(__file__).parents[2] / "docs/reference/cli.md").read_text(encoding="utf-8")


def commands(group: click.Group, path: str = "") -> Iterator[tuple[str, click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield f"{path} {name}".strip(), command
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}".strip())


ALL = dict(commands(cli))


def section(name: str) -> str:
    """Return the part of the page about a command; a subcommand's shares its group's."""
    parts = re.split(r"^#{2,3} oq ", PAGE, flags=re.MULTILINE)
    return "\n".join(part for part in parts if part.partition("\n")[0] in (name, name.rpartition(" ")[0]))


@pytest.mark.parametrize("name", ALL)
def test_every_command_and_flag_is_documented(name):
    text = section(name) + PAGE.partition("\n## oq ")[0]
    assert re.search(rf"^#+ oq {name}$", PAGE, re.MULTILINE), f"{name} has no section"
    for parameter in ALL[name].params:
        if isinstance(parameter, click.Option):
            for flag in (*parameter.opts, *parameter.secondary_opts):
                assert re.search(rf"`{flag}[ `]", text), f"{flag} of {name}"


def test_every_documented_command_exists():
    assert set(re.findall(r"^#+ oq (.+)$", PAGE, re.MULTILINE)) == set(ALL)


@pytest.mark.parametrize("flag", [flag for option in cli.params for flag in option.opts])
def test_every_global_flag_is_documented(flag):
    assert f"`{flag}" in PAGE


def test_every_exit_code_is_documented():
    codes = {value for name, value in vars(exits).items() if name.isupper() and isinstance(value, int)}
    assert codes == {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)}


def test_the_help_shows_every_command(bare):
    listed = re.findall(r"^  (\w+) ", bare("--help").stdout.partition("Commands:")[2], re.MULTILINE)
    assert listed == [name for name in ALL if " " not in name]


@pytest.mark.parametrize("name", ALL)
def test_the_help_of_every_command_can_be_shown(bare, name):
    found = bare(*name.split(), "--help")
    assert (found.exit_code, found.stderr) == (0, "")


@pytest.mark.parametrize("name", [name for name, command in ALL.items() if isinstance(command, click.Group)])
def test_no_description_is_cut_in_an_overview(bare, name):
    assert "..." not in bare(name, "--help").stdout.partition("Commands:")[2]


def test_what_all_means_is_what_a_filter_alone_means():
    said = {name: next(o.help for o in ALL[name].params if "--all" in o.opts) for name in FITS}
    assert said["retry"] == "All failed and cancelled tasks."
    assert FITS["retry"] == ["failed", "cancelled"]
    for name, text in said.items():
        assert f"| `--all` | {text} |" in section(name)


@pytest.mark.parametrize("name", ["", *ALL])
def test_help_shows_what_the_flag_shows(name: str) -> None:
    runner, words = CliRunner(), name.split()
    by_flag = runner.invoke(cli, [*words, "--help"], prog_name="oq")
    by_command = runner.invoke(cli, ["help", *words], prog_name="oq")
    assert (by_command.exit_code, by_command.stdout) == (0, by_flag.stdout)


@pytest.mark.parametrize(
    ("words", "says"),
    [(("sub",), "did you mean 'submit'?"), (("list", "all"), "leave out 'all'"), (("token", "maek"), "maek")],
)
def test_help_for_no_command_says_so(words: tuple[str, ...], says: str) -> None:
    found = CliRunner().invoke(cli, ["help", *words])
    assert (found.exit_code, says in found.stderr) == (2, True)
