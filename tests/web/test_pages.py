"""The monitor's files and the lists that it reads, as they go over the wire."""

from __future__ import annotations

import gzip
import re

import pytest

from oq.web.packing import MOST
from oq.web.pages import CSP, folder

from .conftest import TASK, House

BROWSER = {"Accept": "text/html", "Accept-Encoding": "gzip, br"}


async def test_every_module_that_the_page_names_is_served_with_its_type(house: House) -> None:
    page = await (await house.client.get("/", headers=BROWSER)).get_data(as_text=False)
    text = gzip.decompress(page).decode()
    wanted = re.findall(r'(?:href|src)="/static/([^"]+)"', text)
    assert {"app.js", "theme.css"} <= set(wanted)
    seen: set[str] = set()
    while wanted:
        name = wanted.pop()
        if name in seen:
            continue
        seen.add(name)
        answer = await house.client.get(f"/static/{name}")
        assert answer.status_code == 200, name
        if name.endswith(".js"):
            assert answer.content_type == "text/javascript; charset=utf-8"
            source = (await answer.get_data(as_text=False)).decode()
            base = name.rpartition("/")[0].split("/") if "/" in name else []
            for path in re.findall(r"""(?:from|import\()\s*["'](\.[^"']+)["']\)?(?!\.)""", source):
                if path.endswith(".js") and "@import" not in path:
                    parts = list(base)
                    for part in path.split("/"):
                        if part == "..":
                            parts.pop()
                        elif part != ".":
                            parts.append(part)
                    if parts[-1] != "types.js":
                        wanted.append("/".join(parts))
    assert {"i18n/en.js", "i18n/zh.js", "vendor/preact.js", "vendor/uplot.js", "views/list.js"} <= seen


async def test_a_file_comes_compressed_to_who_can_take_it_and_as_it_is_to_others(house: House) -> None:
    packed = await house.client.get("/static/theme.css", headers=BROWSER)
    plain = await house.client.get("/static/theme.css")
    assert packed.headers["Content-Encoding"] == "gzip"
    assert packed.headers["Vary"] == plain.headers["Vary"] == "Accept-Encoding"
    assert "Content-Encoding" not in plain.headers
    data = (folder() / "theme.css").read_bytes()
    assert (
        gzip.decompress(await packed.get_data(as_text=False)) == data == await plain.get_data(as_text=False)
    )


async def test_a_file_that_the_browser_has_is_not_sent_again(house: House) -> None:
    first = await house.client.get("/static/app.js", headers=BROWSER)
    again = await house.client.get(
        "/static/app.js", headers={**BROWSER, "If-None-Match": first.headers["ETag"]}
    )
    assert (again.status_code, await again.get_data(as_text=False)) == (304, b"")
    assert again.headers["Content-Security-Policy"] == CSP
    other = await house.client.get("/static/app.js", headers={**BROWSER, "If-None-Match": '"other"'})
    assert other.status_code == 200


@pytest.mark.parametrize("encodings", [None, "identity", "gzip;q=0", "br"])
async def test_a_list_is_not_compressed_for_who_cannot_take_it(house: House, encodings: str | None) -> None:
    for _ in range(10):
        await house.submit(**TASK)
    headers = {} if encodings is None else {"Accept-Encoding": encodings}
    answer = await house.client.get("/api/tasks", headers=headers)
    assert "Content-Encoding" not in answer.headers
    assert len(await answer.get_json()) == 10


async def test_a_screenful_of_a_list_is_compressed_and_a_longer_one_is_not(house: House) -> None:
    for _ in range(10):
        await house.submit(**TASK, tags=["t" * 200] * 1)
    short = await house.client.get("/api/tasks", headers=BROWSER)
    assert short.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(await short.get_data(as_text=False)).count(b'"id"') == 10
    for number in range(3):
        await house.submit(**TASK, tags=[f"{number}{n:03}" + "t" * 190 for n in range(100)])
    for _ in range(2):
        await house.submit(**TASK, tags=[f"{n:03}" + "u" * 190 for n in range(100)])
    long = await house.client.get("/api/tasks", headers=BROWSER)
    assert int(long.headers["Content-Length"]) > MOST
    assert "Content-Encoding" not in long.headers
