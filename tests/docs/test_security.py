"""docs/security.md: every promise names its tests, and they are there."""

from __future__ import annotations

import ast
import re

import pytest

from tests.docs.pages import ROOT

TEXT = (ROOT / "docs/security.md").read_text(encoding="utf-8")
ROWS = [
    row for row in TEXT.partition("## Promises")[2].partition("\n## ")[0].splitlines()
    if row.startswith("| ") and not row.startswith(("| promise", "| ---", "| **"))
]  # fmt: skip
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", TEXT)))


@pytest.mark.parametrize("row", ROWS)
def test_every_promise_names_a_test(row: str):
    assert re.search(r"`tests/[\w/]+\.py::test_\w+`", row)


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_the_test_of_a_promise_is_there(file: str, name: str):
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert name in {
        node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_there_are_promises():
    assert len(ROWS) >= 20
    assert len(NAMED) >= len(ROWS)
