"""What a browser can be made to do, and what a request can reach."""

from __future__ import annotations

import re
from typing import Any

import pytest

from oq.config import settings_from
from oq.web.openapi import openapi_dict
from oq.web.pages import folder
from oq.web.safety import SAFE_HEADERS

from .conftest import TASK, House, open_house
from .test_guard import knock

SAFE = {
    "content-security-policy", "x-content-type-options", "x-frame-options", "referrer-policy",
    "cross-origin-opener-policy", "cross-origin-resource-policy", "cache-control",
}  # fmt: skip


def names_of(answer: Any) -> set[str]:
    return {name.lower() for name, _ in answer.headers}


@pytest.mark.parametrize(
    "kind",
    [
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "",
        "text/plain; application/json",
    ],
)
@pytest.mark.parametrize(
    "path", ["/api/tasks", "/api/tasks/batch", "/api/tasks/bulk", "/api/tasks/x/priority"]
)
async def test_a_form_of_a_page_cannot_post(house: House, path: str, kind: str) -> None:
    answer = await house.post(path, TASK, Content_Type=kind)
    assert answer.status_code == 415
    assert house.queue.stats().total == 0


async def test_a_foreign_page_may_change_nothing_by_any_route(house: House) -> None:
    seen = 0
    for path, item in openapi_dict()["paths"].items():
        for method in {"post", "delete", "put", "patch"} & set(item):
            real = re.sub(r"\{\w+\}", "x", path)
            headers = {"Origin": "https://evil.example", "Content-Type": "text/plain"}
            answer = await house.client.open(real, method=method.upper(), data=b"{}", headers=headers)
            assert answer.status_code == 403, (method, path)
            seen += 1
    assert seen > 20
    assert house.backend.seen == []


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [
        ("/", "GET", 200), ("/health", "GET", 200), ("/metrics", "GET", 200), ("/api/status", "GET", 200),
        ("/api/tasks", "GET", 200), ("/api/tasks", "POST", 415), ("/api/nothing", "GET", 404), ("/api/status", "POST", 405),
        ("/static/app.js", "GET", 200), ("/static/nothing.js", "GET", 404), ("/openapi.json", "GET", 200),
    ],
)  # fmt: skip
async def test_every_answer_has_the_safe_headers(house: House, path: str, method: str, status: int) -> None:
    for host, expected in (("localhost", status), ("evil.example", 403)):
        answer = await house.client.open(path, method=method, headers={"Host": host})
        assert answer.status_code == expected
        assert names_of(answer) >= SAFE
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
        assert len(answer.headers.getlist("Content-Security-Policy")) == 1


async def test_a_refused_request_has_them_too(autojump_clock: Any) -> None:
    async with open_house(settings_from(token="x", max_body_bytes=1024)) as house:
        refused = await house.client.get("/api/status")
        large = await house.client.post(
            "/api/tasks",
            data=b"x" * 2000,
            headers={"Authorization": "Bearer x", "Content-Type": "application/json"},
        )
        assert (refused.status_code, large.status_code) == (401, 413)
        for answer in (refused, large):
            assert names_of(answer) >= SAFE
        start = (await knock(house))[0]
        assert (
            {name.decode() for name, _ in start["headers"]}
            >= SAFE
            == {name.decode() for name, _ in SAFE_HEADERS}
        )


async def test_the_page_may_run_its_own_files_alone(house: House) -> None:
    answer = await house.client.get("/", headers={"Accept": "text/html"})
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["Content-Security-Policy"].split(";"))
    assert policy["default-src"] == "'self'"
    assert policy["object-src"] == policy["base-uri"] == policy["frame-ancestors"] == "'none'"
    assert "unsafe" not in answer.headers["Content-Security-Policy"].replace(
        "style-src 'self' 'unsafe-inline'", ""
    )
    assert not {"script-src", "connect-src"} & set(policy)


@pytest.mark.parametrize(
    "name",
    [
        "../setup.cfg", "..%2fsetup.cfg", "%2e%2e/setup.cfg", "views/../../setup.cfg", "/etc/passwd", "%2fetc%2fpasswd",
        "../docs/pictures/tasks.png", "%2e%2e/docs/pictures/tasks.png", "views/../../docs/pictures/tasks.png", "..\\setup.cfg", "....//setup.cfg", "app.js%00.txt", "", ".", "views", "__init__.py", "app.js/", ".hidden.js",
        "views//list.js",
    ],
)  # fmt: skip
async def test_no_path_leads_out_of_the_folder(house: House, name: str) -> None:
    assert (folder() / "../docs/pictures/tasks.png").is_file()  # one of a kind that is served
    answer = await house.client.get(f"/static/{name}")
    assert answer.status_code == 404
    assert b"metadata" not in await answer.get_data(as_text=False)


@pytest.mark.parametrize("name", ["a" * 300 + ".js", "a/" * 3000 + "app.js", "\u00e9" * 200 + ".js"])
async def test_a_name_that_no_file_system_takes_is_not_found(house: House, name: str) -> None:
    assert (await house.client.get(f"/static/{name}")).status_code == 404


@pytest.mark.parametrize(
    "field", ["host", "url", "base_url", "ollama_host", "callback", "webhook", "backend"]
)
async def test_no_request_can_name_a_model_server(house: House, field: str) -> None:
    address = "http://evil.example:1"
    refused = await house.post("/api/tasks", {**TASK, field: address})
    assert refused.status_code == 422
    # Within the payload it is the model's business: it is passed on to the model server, and used for nothing.
    id = await house.submit(payload={**TASK["payload"], field: address})
    task = await house.finished(id)
    assert (task["host"], len(house.backend.seen)) == ("default", 1)
