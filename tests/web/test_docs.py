"""The reference pages name every route, parameter, field, error code, event and metric that there is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from oq.actors.workers import TIMEOUT_RETRIES
from oq.backends import verdicts
from oq.core.events import EventType
from oq.core.guard import FINDINGS
from oq.web.errors import status_of
from oq.web.openapi import openapi_dict
from oq.wire.queries import ACTIONS, PARAMETERS, SORTS

from .conftest import House
from .test_errors import all_errors
from .test_openapi import METHODS

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


def page(name: str) -> str:
    return (REFERENCE / f"{name}.md").read_text(encoding="utf-8")


def test_every_route_has_its_place() -> None:
    text = page("rest")
    for path, item in openapi_dict()["paths"].items():
        for method in METHODS & set(item):
            wanted = f"{method.upper()} {path}"
            assert re.search(rf"(^### |`){re.escape(wanted)}(`|$)", text, re.MULTILINE), wanted


def test_no_route_is_described_that_is_not_there() -> None:
    for method, path in re.findall(r"^### ([A-Z]+) (\S+)$", page("rest"), re.MULTILINE):
        assert method.lower() in openapi_dict()["paths"].get(path, {}), f"{method} {path}"


@pytest.mark.parametrize("words", [PARAMETERS, SORTS, ACTIONS])
def test_every_parameter_is_explained(words: tuple[str, ...]) -> None:
    for word in words:
        assert f"`{word}`" in page("rest"), word


def test_every_field_of_a_new_task_is_explained() -> None:
    for name in openapi_dict()["components"]["schemas"]["NewTask"]["properties"]:
        assert f"`{name}`" in page("rest"), name


@pytest.mark.parametrize("name", sorted(openapi_dict()["components"]["schemas"]))
def test_every_field_of_an_answer_is_named(name: str) -> None:
    text = page("rest") + page("websocket") + page("events") + page("errors")
    for field in openapi_dict()["components"]["schemas"][name].get("properties", {}):
        assert re.search(rf"[`\"]{field}[`\"]", text), f"{name}.{field}"


def test_every_field_of_the_status_is_explained() -> None:
    for name in openapi_dict()["components"]["schemas"]["Status"]["properties"]:
        assert f"`{name}`" in page("rest"), name


def test_every_error_code_stands_with_its_status() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (\d{3}) \|", page("errors"), re.MULTILINE))
    there = {error.code: str(status_of(error)) for error in (kind("x") for kind in all_errors())}
    assert rows == there


def test_every_code_of_a_failed_task_stands_with_its_bound() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| ([^|]*) \|", page("errors").partition("## Codes of failed")[2], re.MULTILINE
    )
    there: dict[str, set[str]] = {
        "internal_error": {"no"},
        "cancelled": {"no"},
        "timeout": {str(TIMEOUT_RETRIES)},
        **{code: {"1 with `guard: retry`"} for code in FINDINGS},
    }
    single = [verdict for verdict in vars(verdicts).values() if isinstance(verdict, verdicts.Verdict)]
    for verdict in [*single, *verdicts.BY_STATUS.values(), *(verdict for _, verdict in verdicts.BY_TEXT)]:
        bound = "as allowed" if verdict.retry_limit is None else str(verdict.retry_limit)
        always = verdict is verdicts.UNREACHABLE
        there.setdefault(verdict.code, set()).add(
            "always" if always else bound if verdict.retryable else "no"
        )
    assert {code: set(bounds.split("; ")) for code, bounds in rows} == there


def test_every_event_is_explained_and_no_other() -> None:
    table = page("events").partition("## The text")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == {str(kind) for kind in EventType}


async def test_every_metric_stands_with_its_type_and_labels_and_no_other(house: House) -> None:
    await house.queue.pause()
    await house.submit()  # a gauge by priority has a line only where something waits
    text = (await (await house.client.get("/metrics")).get_data()).decode()
    types = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
    labels = dict(re.findall(r"^(\w+)\{(\w+)=", text, re.MULTILINE))
    there = {(name, kind, labels.get(name, "")) for name, kind in types.items()}
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| `?(\w*)`? ?\|", page("metrics"), re.MULTILINE)
    assert set(rows) == there
