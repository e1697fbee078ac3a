"""The documentation as data: its pages, their code blocks and their links."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
README, README_ZH, CONTRIBUTING = ROOT / "README.md", ROOT / "README_zh.md", ROOT / "CONTRIBUTING.md"
TUTORIAL = ROOT / "docs/tutorial.md"
HOW_TO = sorted((ROOT / "docs/how-to").glob("*.md"))
PAGES = sorted([README, README_ZH, CONTRIBUTING, ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])

_FENCE = re.compile(r"^ *(```+)(\S*)\n(.*?)^ *\1$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)


class Block(NamedTuple):
    """A fenced code block; *line* is that of its first line of code."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, found.start(3)) + 1, found[2], found[3])
        for found in _FENCE.finditer(text)
    ]


def links_of(page: Path) -> list[str]:
    """Return the targets of the page's links, those in code left out."""
    return _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8")))


def anchors_of(page: Path) -> set[str]:
    """Return what a link's ``#…`` may be, by GitHub's rule."""
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-")
        for heading in _HEADING.findall(text)
    }
