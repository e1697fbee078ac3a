"""Bad input: the right status, a sentence, never a 500."""

from __future__ import annotations

import inspect
import json
from typing import Any

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import oq.errors
from oq.config import settings_from
from oq.core.ids import format_id
from oq.errors import OqError, StorageError, StorageFull
from oq.web import errors
from oq.web.errors import STATUS, answer_of

from .conftest import TASK, House, open_house


def all_errors() -> list[type[OqError]]:
    found = [kind for kind in vars(oq.errors).values() if inspect.isclass(kind) and issubclass(kind, OqError)]
    return found + [
        kind for kind in vars(errors).values() if inspect.isclass(kind) and issubclass(kind, OqError)
    ]


def test_every_error_has_a_status_of_its_own_or_of_its_base() -> None:
    for kind in all_errors():
        error = kind("what happened")
        status, body, headers = answer_of(error)
        assert 400 <= status < 600
        assert json.loads(body) == {"error": "what happened", "code": error.code}
        assert headers["Content-Type"] == "application/json"
        assert status != 500 or kind in (OqError, errors.InternalError)


def test_every_row_is_of_a_class() -> None:
    assert all(issubclass(kind, OqError) for kind in STATUS)


def test_a_full_disk_is_507_and_another_failure_of_the_disk_503() -> None:
    assert answer_of(StorageFull("full"))[0] == 507
    status, _, headers = answer_of(StorageError("broken"))
    assert (status, headers["Retry-After"]) == (503, "5")


@pytest.mark.parametrize(
    ("method", "path", "body", "kind", "status", "code"),
    [
        ("POST", "/api/tasks", b"{", "application/json", 400, "not_json"),
        ("POST", "/api/tasks", b"", "application/json", 400, "not_json"),
        ("POST", "/api/tasks", b"{}", "text/plain", 415, "unsupported_media_type"),
        ("POST", "/api/tasks", b"{}", None, 415, "unsupported_media_type"),
        ("POST", "/api/tasks", b"{}", "application/json", 422, "invalid_task"),
        ("POST", "/api/tasks", b"[]", "application/json", 422, "invalid_task"),
        ("POST", "/api/tasks/batch", b"{}", "application/json", 422, "invalid_task"),
        ("POST", "/api/tasks/batch", b"[{]", "application/json", 400, "not_json"),
        ("POST", "/api/tasks/batch", b"[]", "text/csv", 415, "unsupported_media_type"),
        ("POST", "/api/tasks/batch?atomic=perhaps", b"[]", "application/json", 422, "invalid_task"),
        ("POST", "/api/tasks/bulk", b"{}", "application/json", 422, "invalid_task"),
        ("POST", "/api/tasks/bulk", b"{}", "text/plain", 415, "unsupported_media_type"),
        ("PUT", "/api/tasks", b"", None, 405, "method_not_allowed"),
        ("POST", "/api/status", b"", None, 405, "method_not_allowed"),
        ("GET", "/api/nothing", b"", None, 404, "no_such_route"),
        ("GET", "/api/tasks/%00", b"", None, 404, "not_found"),
        ("GET", "/api/tasks/l/result?wait=x", b"", None, 422, "invalid_task"),
        ("GET", "/api/tasks?limit=1e3", b"", None, 422, "invalid_task"),
        ("GET", "/api/tasks?colour=red", b"", None, 422, "invalid_task"),
        ("GET", "/api/events?type=nothing", b"", None, 422, "invalid_task"),
        ("POST", "/api/queue/drain?grace=long", b"", None, 422, "invalid_task"),
        ("DELETE", "/api/tasks/0000000000000", b"", None, 404, "not_found"),
    ],
)  # fmt: skip
async def test_bad_input_has_its_answer(
    house: House, method: str, path: str, body: bytes, kind: str | None, status: int, code: str
) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    answer = await house.client.open(path, method=method, data=body, headers=headers)
    said = await answer.get_json()
    assert (answer.status_code, said["code"]) == (status, code)
    assert said["error"]
    assert answer.headers["X-Request-ID"]


async def test_a_wrong_method_is_told_the_right_ones(house: House) -> None:
    answer = await house.client.put("/api/tasks")
    assert answer.headers["Allow"] == "GET, POST"


async def test_a_bug_is_a_500_that_tells_nothing_and_is_logged(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(house.queue, "stats", broken)
    answer = await house.client.get("/api/status")
    assert (answer.status_code, (await answer.get_json())["code"]) == (500, "internal_error")
    assert b"secret" not in await answer.get_data()
    assert "secret" in caplog.text
    monkeypatch.undo()
    assert (await house.client.get("/api/status")).status_code == 200


async def test_a_bug_on_the_short_way_is_a_500_too(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(house.queue, "submit_keys", broken)
    answer = await house.post("/api/tasks", TASK)
    assert (answer.status_code, (await answer.get_json())["code"]) == (500, "internal_error")
    assert "secret" in caplog.text


# --- the short way and Quart's way give the same answers
BODIES: list[tuple[bytes, dict[str, str]]] = [
    (json.dumps(TASK).encode(), {"Content-Type": "application/json"}),
    (json.dumps(TASK).encode(), {"Content-Type": "application/json; charset=utf-8", "Idempotency-Key": "k"}),
    (json.dumps({**TASK, "delay": "1h"}).encode(), {"Content-Type": "application/vnd.oq+json"}),
    (
        json.dumps({**TASK, "model": "other"}).encode(),
        {"Content-Type": "application/json", "Idempotency-Key": "k"},
    ),
    (b"{}", {"Content-Type": "application/json"}),
    (b"nope", {"Content-Type": "application/json"}),
    (b"{}", {"Content-Type": "text/plain"}),
    (b"{}", {}),
    (b"{}", {"Content-Type": "application/json", "Idempotency-Key": "x" * 600}),
]


async def test_both_ways_to_submit_answer_alike(house: House) -> None:
    guard = house.app.asgi_app
    fast = guard._app  # type: ignore[attr-defined]
    slow_app, fast_answers, slow_answers = fast._app, [], []
    await house.queue.pause()
    for answers, app in ((fast_answers, fast), (slow_answers, slow_app)):
        guard._app = app  # type: ignore[attr-defined]
        for body, headers in BODIES:
            answer = await house.client.post("/api/tasks", data=body, headers=headers)
            said = await answer.get_json()
            same_id = answer.headers.get("Location", "").endswith(said.pop("task_id", ""))
            names = {name.lower() for name, _ in answer.headers.items()}
            answers.append((answer.status_code, said, same_id, names, answer.content_type))
    assert fast_answers == slow_answers


# --- any body, any query: never a 5xx
PATHS = [
    ("POST", "/api/tasks"), ("POST", "/api/tasks/batch"), ("POST", "/api/tasks/bulk"), ("GET", "/api/tasks"),
    ("POST", "/api/tasks/{id}/priority"), ("GET", "/api/tasks/{id}/result"), ("GET", "/api/tasks/{id}"),
    ("POST", "/api/tasks/{id}/cancel"), ("DELETE", "/api/tasks/{id}"), ("GET", "/api/tasks/{id}/stream"),
    ("GET", "/health"),
]  # fmt: skip
JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["type", "model", "payload", "priority", "action", "ids", "filter", "expect", "messages", "prompt", "tags"]
    ), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip
REQUESTS = st.tuples(
    st.sampled_from(PATHS),
    st.binary(max_size=40) | JSONISH.map(lambda value: json.dumps(value).encode()),
    st.sampled_from(["application/json", "application/x-ndjson", "text/plain", ""]),
    st.dictionaries(
        st.sampled_from(["limit", "offset", "cursor", "sort", "status", "wait", "atomic", "q", "type", "x"]),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
        max_size=2,
    ),
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/?#"), min_size=1, max_size=14)
    | st.none(),
)


@hypothesis_settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(REQUESTS, min_size=4, max_size=12))
def test_any_request_is_answered_and_never_with_a_server_error(requests: list[Any]) -> None:
    async def main() -> None:
        async with open_house(settings_from(server__max_body_bytes=4096)) as house:
            known = await house.submit()
            for (method, path), body, kind, query, id in requests:
                path = path.replace("{id}", id or known).replace("%", "%25")
                data = body if method == "POST" else b""
                answer = await house.client.open(
                    path, method=method, data=data, query_string=query, headers={"Content-Type": kind}
                )
                assert answer.status_code < 500, (method, path, body, query, await answer.get_data())
            assert (await house.client.get("/api/status")).status_code == 200

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


async def test_an_unknown_id_is_404_on_every_route(house: House) -> None:
    id = format_id(12345)
    for method, path in PATHS:
        if "{id}" in path:
            body = b'{"priority":1}' if path.endswith("priority") else b""
            answer = await house.client.open(
                path.format(id=id), method=method, data=body, headers={"Content-Type": "application/json"}
            )
            assert (answer.status_code, (await answer.get_json())["code"]) == (404, "not_found"), path


async def test_what_is_missing_below_v1_is_said_in_openais_form(house: House) -> None:
    answer = await house.post("/v1/responses", {})
    assert answer.status_code == 404
    problem = (await answer.get_json())["error"]
    assert problem["code"] == "no_such_route"
    assert "'/v1/responses'" in problem["message"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/nothing", 404, "no_such_route"),
        ("GET", "/v1/", 404, "no_such_route"),
        ("DELETE", "/v1/chat/completions/a/b", 404, "no_such_route"),
        ("PUT", "/v1/batches", 405, "method_not_allowed"),
        ("GET", "/v1/chat/completions", 405, "method_not_allowed"),
    ],
)
async def test_what_does_not_go_below_v1_is_said_in_openais_form(
    house: House, method: str, path: str, status: int, code: str
) -> None:
    answer = await house.client.open(path, method=method)
    said = await answer.get_json()
    assert (answer.status_code, answer.content_type) == (status, "application/json")
    assert list(said) == ["error"]
    assert said["error"] == {
        "message": said["error"]["message"], "type": "invalid_request_error", "param": None, "code": code,
    }  # fmt: skip
    assert said["error"]["message"]
    assert ("Allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize("path", ["/api/v1/", "/v10/chat", "/v1x", "/api/generate/more", "/nothing"])
async def test_what_is_missing_elsewhere_is_said_in_our_form(house: House, path: str) -> None:
    answer = await house.client.get(path)
    said = await answer.get_json()
    assert (answer.status_code, said["code"]) == (404, "no_such_route")
    assert repr(path) in said["error"]
