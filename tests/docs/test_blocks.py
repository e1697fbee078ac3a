"""Every code block of README and tutorial is run, in order, with a real server and a real model; how-to blocks are read."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import Result

from oq.config import load_settings
from tests import run
from tests.cli.conftest import bare  # noqa: F401 - a fixture
from tests.docs.pages import HOW_TO, PAGES, README, README_ZH, TUTORIAL, Block, blocks_of
from tests.docs.session import Reader

# What a reader's machine needs and the test's has already: the environment in which the tests run.
INSTALL = "python3 -m venv .venv && .venv/bin/pip install -q '.[demo]' && .venv/bin/oq demo\n"
INSTALLED = "oq demo --once\n"
TUTORIAL_INSTALL = "python3 -m venv .venv\n. .venv/bin/activate\npip install '.[demo]'\n"
RUN_TESTS = "python3 tests/run.py\n"  # it would run itself

RUN = {"bash", "python"}
CALL = re.compile(r"""(?:^|[|&(] ?|\w=\S+ |/bin/)oq ((?:"[^"]*"|'[^']*'|[^"'|;&<>()\n#])*)""", re.MULTILINE)
NOT_OURS = re.compile(r"# [\w-]+\.yml\n")  # another program's file says its name in the first line
READ = {"ini", "text", "mermaid"}


def run_page(reader: Reader, page: Path) -> list[tuple[Block, str]]:
    """Run all blocks; return them with what they printed."""
    found = []
    for block in blocks_of(page):
        if block.text == RUN_TESTS:
            continue
        if block.text == INSTALL:
            block = block._replace(text=INSTALLED)
        if block.text == TUTORIAL_INSTALL:
            continue
        if block.language in RUN:
            found.append((block, reader.run(block)))
        else:
            check(block)
    return found


def check(block: Block) -> None:
    """Read a block as what it says it is."""
    match block.language:
        case "python":
            compile(block.text, block.place, "exec")
        case "bash":
            said = subprocess.run(
                ["bash", "-n"], input=block.text, text=True, capture_output=True, check=False
            )
            assert said.returncode == 0, f"{block.place}: {said.stderr}"
        case "json":
            json.loads(block.text)
        case "yaml":
            yaml.safe_load(block.text)
        case language:
            assert language in READ, f"{block.place}: no block may be {language!r}"


@pytest.mark.slow
@pytest.mark.parametrize("page", [README, README_ZH], ids=lambda page: page.name)
def test_readme_does_what_it_says(page: Path, reader: Reader):
    demo, commands, curl, client, library = [text for _, text in run_page(reader, page)]
    assert "a question, high" in demo
    assert commands.count("completed") >= 2  # in the list
    assert '"status":"completed"' in curl
    assert client.strip()
    assert library.strip()


@pytest.mark.slow
def test_the_tutorial_does_what_it_says(reader: Reader):
    printed = {block.text: text for block, text in run_page(reader, TUTORIAL)}
    (after_the_kill,) = [text for block, text in printed.items() if "oq wait -o jsonl" in block]
    assert after_the_kill.count('"status":"completed"') == 20
    assert any("exit code 4" in text for text in printed.values())
    assert any("2 vectors of 576 dimensions" in text for text in printed.values())


def test_readme_names_the_command_that_runs_all_checks():
    for page in (README, README_ZH):
        assert RUN_TESTS in [block.text for block in blocks_of(page)]
    names = [name for name, _, _ in run.CHECKS]
    assert {"ruff check", "mypy", "import-linter", "flake8-async", "pytest"} <= set(names)


def test_readme_begins_with_the_demo():
    for page in (README, README_ZH):
        assert blocks_of(page)[0].text == INSTALL


ALL = [block for page in PAGES for block in blocks_of(page) if page not in (README, README_ZH, TUTORIAL)]


@pytest.mark.parametrize("block", ALL, ids=lambda block: block.place)
def test_a_block_is_what_it_says_it_is(block: Block, tmp_path: Path):
    if block.language == "yaml" and not NOT_OURS.match(block.text):
        file = tmp_path / "config.yaml"
        file.write_text(block.text, encoding="utf-8")
        assert load_settings(file, environ={}).settings
    else:
        check(block)


def commands_of(block: Block) -> list[list[str]]:
    """Return the arguments of each call of `oq` in a bash block."""
    return [shlex.split(found) for found in CALL.findall(block.text.replace("\\\n", " "))]


@pytest.mark.parametrize(
    "block", [block for block in ALL if block.language == "bash"], ids=lambda block: block.place
)
def test_every_command_and_flag_that_is_shown_exists(block: Block, bare: Callable[..., Result]):  # noqa: F811
    for arguments in commands_of(block):
        said = bare(*arguments, "--help")  # flags are parsed first, then the help is shown and nothing done
        assert said.exit_code == 0, f"{block.place}: oq {shlex.join(arguments)}: {said.output}"


def test_how_to_pages_have_blocks_to_copy():
    assert [page for page in HOW_TO if not blocks_of(page)] == []
