"""No link leads nowhere, and every page can be reached."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.pages import PAGES, README, README_ZH, ROOT, anchors_of, links_of


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def target_of(page: Path, link: str) -> Path:
    return (page.parent / link.partition("#")[0]).resolve() if not link.startswith("#") else page


def inner_links(page: Path) -> list[str]:
    return [link for link in links_of(page) if "://" not in link and not link.startswith("mailto:")]


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_link_leads_nowhere(page: Path):
    for link in inner_links(page):
        target = target_of(page, link)
        assert target.exists(), f"{name(page)} links to {link}"
        anchor = link.partition("#")[2]
        if anchor and target.suffix == ".md":
            assert anchor in anchors_of(target), f"{name(page)} links to {link}"


@pytest.mark.parametrize("start", [README, README_ZH], ids=name)
def test_every_page_can_be_reached(start: Path):
    reached, open_ends = {start}, [start]
    while open_ends:
        page = open_ends.pop()
        for link in inner_links(page):
            target = target_of(page, link)
            if target.suffix == ".md" and target not in reached:
                reached.add(target)
                open_ends.append(target)
    assert {name(page) for page in PAGES} - {name(page) for page in reached} == set()
