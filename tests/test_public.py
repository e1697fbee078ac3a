"""`oq/__init__.py` lists what is public, three times: for readers, for type checkers and for import. They agree."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import oq

SOURCE = ast.parse(Path(oq.__file__).read_text(encoding="utf-8"))


def type_checkers_names() -> set[str]:
    """What the block for type checkers imports."""
    (block,) = [
        node
        for node in SOURCE.body
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
    ]
    return {
        alias.asname or alias.name
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def test_type_checkers_see_the_names_of_all() -> None:
    assert type_checkers_names() == set(oq.__all__) - {"__version__", "errors"}


def test_each_name_for_type_checkers_comes_from_where_it_is_imported_from() -> None:
    (block,) = [node for node in SOURCE.body if isinstance(node, ast.If)]
    places = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert places == oq._WHERE


@pytest.mark.parametrize("name", oq.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(oq, name) is not None
    namespace: dict[str, object] = {}
    exec(f"from oq import {name}", namespace)
    assert namespace[name] is getattr(oq, name)


def test_all_is_sorted_without_repeats_and_what_dir_shows() -> None:
    assert oq.__all__ == sorted(set(oq.__all__))
    assert dir(oq) == oq.__all__


def test_any_other_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'oq' has no attribute 'Quee'"):
        oq.Quee  # noqa: B018


@pytest.mark.slow
def test_importing_oq_loads_neither_the_store_nor_the_web() -> None:
    """The command line imports it first, and must start fast."""
    code = (
        "import oq, sys; print([name for name in ('ZODB', 'quart', 'httpx', 'trio') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
