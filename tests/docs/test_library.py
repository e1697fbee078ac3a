"""docs/reference/library.md names every public name, method and argument, and no other."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import pytest

import oq
from oq import client
from oq.builders import Common
from oq.errors import OqError
from tests.docs.pages import ROOT, Block, blocks_of
from tests.docs.session import Reader

PAGE = ROOT / "docs/reference/library.md"
TEXT = PAGE.read_text(encoding="utf-8")
INNER = {"clock", "epoch", "settings", "started_at"}  # attributes of a queue for the layers above it


def signature(name: str, function: Any) -> str:
    """Return ``name(arguments with their defaults)``, as the page writes it."""
    found = inspect.signature(function)
    parameters = [
        parameter.replace(annotation=inspect.Parameter.empty)
        for parameter in found.parameters.values()
        if parameter.name != "self"
    ]
    return name + str(found.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


def members(cls: type) -> Iterator[tuple[str, Any]]:
    for name, member in inspect.getmembers(cls):
        if not name.startswith("_"):
            yield name, member


def section(name: str) -> str:
    """Return the text under a heading, with those of deeper headings."""
    found = re.search(rf"^(#+) {re.escape(name)}$\n(.*?)(?=^#{{1,2}} |\Z)", TEXT, re.MULTILINE | re.DOTALL)
    assert found is not None, f"{name} has no heading"
    return found[2]


def test_every_public_name_has_a_heading_and_no_other():
    headings = re.findall(r"^##+ oq\.(\S+)$", TEXT, re.MULTILINE)
    assert sorted(heading.replace("\\", "") for heading in headings) == sorted(oq.__all__)


@pytest.mark.parametrize("name", [name for name in oq.__all__ if inspect.isfunction(getattr(oq, name))])
def test_every_function_stands_with_its_arguments(name: str):
    assert f"`{signature(name, getattr(oq, name))}`" in section(f"oq.{name}")


@pytest.mark.parametrize("name", sorted(Common.__annotations__))
def test_every_common_argument_of_a_task_is_explained(name: str):
    assert re.search(rf"^\| [^|]*`{name}`[^|]* \|", section("oq.embed"), re.MULTILINE)


@pytest.mark.parametrize("cls", [oq.Queue, oq.TaskHandle, oq.Client], ids=lambda cls: cls.__name__)
def test_every_method_stands_with_its_arguments_and_no_other(cls: type):
    name = f"oq.{cls.__name__}"
    start = TEXT.index(f"# {name}\n")
    text = TEXT[start : TEXT.index("\n#", start)]
    rows = set(re.findall(r"^\| `(\w+(?:\([^`]*\))?)` \|", text, re.MULTILINE))
    there = {
        signature(name, member) if callable(member) else name
        for name, member in members(cls)
        if name not in INNER
    }
    settings_of_client = {row for row in rows if "(" not in row} - there  # the table of its arguments
    assert rows - settings_of_client == there
    if cls is oq.Client:
        assert settings_of_client == set(inspect.signature(cls).parameters)
    else:
        assert settings_of_client == set()


def test_both_clients_have_the_same_methods():
    def verbs(cls: type) -> dict[str, str]:
        return {name: signature(name, member) for name, member in members(cls)}

    assert verbs(oq.AsyncClient) == verbs(oq.Client)
    assert verbs(client.AsyncTaskHandle) == verbs(client.TaskHandle)
    for name in ("Client", "AsyncClient"):
        assert f"`{signature(name, getattr(oq, name))}`" in section(f"oq.{name}")


@pytest.mark.parametrize("name", [name for name, _ in members(client.TaskHandle)])
def test_every_method_of_a_clients_handle_is_named(name: str):
    assert f"`{signature(name, getattr(client.TaskHandle, name))}`" in section("oq.Client")


def test_every_error_is_named_and_no_other():
    there = {
        cls.__name__ for cls in vars(oq.errors).values() if isinstance(cls, type) and issubclass(cls, OqError)
    }
    assert set(re.findall(r"^\| `(\w+)` \|", section("oq.errors"), re.MULTILINE)) == there


@pytest.mark.slow
def test_the_examples_run(reader: Reader):
    reader.run(Block(PAGE, 0, "bash", "oq serve &\n"))
    printed = [reader.run(block) for block in blocks_of(PAGE)]
    assert "task_completed" in printed[1]
    assert printed[2].rstrip().endswith("completed")
    assert printed[3] == "2 environment QUEUE_MAX_WORKERS\n"
