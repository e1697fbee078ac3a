"""Every route, asked as its own OpenAPI describes it and as it does not, and with JSON that nobody should send.

No answer is a 5xx but the ones that are true (`allowed`), none takes long, the server goes on, and at the end it has
exactly the tasks that its answers named (`tests.fuzz.account`).
"""

from __future__ import annotations

import http.client
import json
import signal
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from oq.web.openapi import openapi_dict
from tests.cli.live import Served
from tests.fuzz.account import Account
from tests.fuzz.hostile import HOSTILE, VALUES

pytestmark = pytest.mark.slow

SECONDS_MOST = (
    60.0  # of one request: generous, for a machine with other work; the server's own bounds are below
)
EXAMPLES = 12
WHOLE_MOST = 10_000_000  # bytes of an answer that has an end
BOUNDED = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
# Stopping the queue would end the run for the others: a test of its own.
LEFT_OUT = {("/api/queue/drain", "POST"), ("/ws", "GET")}

SCHEMA = schemathesis.openapi.from_dict(openapi_dict())
OPERATIONS = {
    f"{operation.method.upper()} {operation.path}": operation
    for operation in (found.ok() for found in SCHEMA.get_all_operations())
    if (operation.path, operation.method.upper()) not in LEFT_OUT
}


def allowed(status: int, body: bytes) -> bool:
    """Return whether an answer may be: no 5xx, but a wait that ended (504), and a server that is full for now."""
    if status < 500:
        return True
    code = json.loads(body).get("code")
    return (status, code) in {(504, "timeout"), (503, "queue_busy")}


def test_all_operations_are_fuzzed() -> None:
    there = {(path, method.upper()) for path, item in openapi_dict()["paths"].items() for method in item}
    there = {(path, method) for path, method in there if method in {"GET", "POST", "DELETE", "HEAD"}}
    assert {tuple(name.split(" ")[::-1]) for name in OPERATIONS} == there - LEFT_OUT


def send(served: Served, account: Account, case: Any) -> tuple[int, bytes]:
    """Send what was drawn, note the answer, and return its status and its body; of a stream nothing."""
    asked = case.as_transport_kwargs(base_url=served.url)
    if isinstance(params := asked.get("params"), dict) and params.get("wait") not in (None, ""):
        params["wait"] = "0.1"  # a long poll may be long
    with requests.request(**{**asked, "stream": True, "timeout": SECONDS_MOST}) as answer:
        method, path = str(answer.request.method), urlsplit(str(answer.request.url)).path
        whole = answer.status_code >= 500 or (method != "GET" and "Content-Length" in answer.headers)
        body = answer.raw.read(WHOLE_MOST, decode_content=True) if whole else b""
    account.note(method, path, sent_of(answer.request.body), answer.status_code, answer.headers, body)
    return answer.status_code, body


def sent_of(body: bytes | str | None) -> bytes:
    return body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body or b""


POSITIVE, NEGATIVE = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE
CASES = [
    pytest.param(name, mode, id=f"{name} {mode.value}")
    for name, operation in sorted(OPERATIONS.items())
    # Nothing can be wrong with a request that has neither a body nor parameters.
    for mode in ([POSITIVE, NEGATIVE] if len(operation.body) or len(operation.query) else [POSITIVE])
]


@pytest.mark.parametrize(("name", "mode"), CASES)
def test_a_route_answers_what_its_description_allows_and_what_it_does_not(
    served: Served, account: Account, name: str, mode: schemathesis.GenerationMode
) -> None:
    operation = OPERATIONS[name]

    @BOUNDED
    @given(case=operation.as_strategy(generation_mode=mode))
    def ask(case: Any) -> None:
        status, body = send(served, account, case)
        assert allowed(status, body), (status, body[:300], case.as_curl_command())

    ask()
    assert requests.post(f"{served.url}/api/queue/resume", timeout=SECONDS_MOST).status_code == 200


# --- JSON that nobody should send

TASK: dict[str, Any] = {"type": "generate", "model": "llama3.2", "payload": {"prompt": "Hi"}}
PASSED_ON = b"404 page not found"  # what the fake model server says to requests that are its own matter
BODIES = sorted(
    name.partition(" ")[2] for name in OPERATIONS if name.startswith("POST ") and "{digest}" not in name
)


def post(served: Served, account: Account, path: str, body: bytes) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(served.url.removeprefix("http://"), timeout=SECONDS_MOST)
    try:
        connection.request("POST", path, body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        said = answer.read(WHOLE_MOST)
        account.note("POST", path, body, answer.status, answer.headers, said)
        return answer.status, said
    finally:
        connection.close()


def path_of(template: str) -> str:
    return template.replace("{id}", "0000000000000")


@pytest.mark.parametrize("path", BODIES)
def test_hostile_json_is_answered_with_a_sentence(served: Served, account: Account, path: str) -> None:
    for body in HOSTILE:
        status, said = post(served, account, path_of(path), body)
        assert allowed(status, said), (status, said, body[:50])
        if status >= 400 and said != PASSED_ON:
            assert json.loads(said)["error"], (said, body[:50])
    post(served, account, "/api/queue/resume", b"")


def with_field(task: dict[str, Any], field: str, text: str) -> bytes:
    """Return *task* with *field* (``a.b`` goes deeper) as the JSON *text*, twice: the first time it is null."""
    head, _, rest = field.partition(".")
    value = with_field(task.get(head, {}), rest, text).decode() if rest else text
    kept = [f"{json.dumps(name)}:{json.dumps(own)}" for name, own in task.items() if name != head]
    twice = f'"{head}":null,' if text == "1" else ""
    return ("{" + ",".join([*kept, f"{twice}{json.dumps(head)}:{value}"]) + "}").encode()


FIELDS = [
    "type", "model", "payload", "priority", "delay", "run_at", "timeout", "max_retries", "idempotency_key", "tags",
    "payload.prompt", "payload.options", "payload.images", "payload.stream", "payload.format", "payload.nothing",
]  # fmt: skip


@pytest.mark.parametrize("field", FIELDS)
def test_a_hostile_value_is_refused_or_kept_as_it_was(served: Served, account: Account, field: str) -> None:
    """What is taken is a task that can be read again, alone and in a list."""
    for text in VALUES:
        status, said = post(served, account, "/api/tasks", with_field(TASK, field, text))
        assert status in (201, 400, 409, 422, 429), (status, said, text[:50])
        if status == 201:
            id = json.loads(said)["task_id"]
            found = requests.get(f"{served.url}/api/tasks/{id}", timeout=SECONDS_MOST)
            assert found.status_code == 200, (found.text, text[:50])
            assert found.json()["id"] == id
    assert requests.get(f"{served.url}/api/tasks?limit=1000", timeout=SECONDS_MOST).status_code == 200


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.binary().map(repr),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@pytest.mark.parametrize("path", ["/api/tasks", "/api/tasks/batch", "/api/tasks/bulk", "/ws"])
def test_any_json_at_all_is_answered(served: Served, account: Account, path: str) -> None:
    @settings(BOUNDED, max_examples=40)
    @given(value=ANYTHING, inside=st.sampled_from(["", "payload", "filter", "list"]))
    def ask(value: Any, inside: str) -> None:
        whole = {"": value, "list": [value, TASK], "filter": {"action": "cancel", "filter": value}}.get(
            inside, {**TASK, "payload": value}
        )
        status, said = post(served, account, path, json.dumps(whole).encode("utf-8", "surrogatepass"))
        assert allowed(status, said), (status, said)

    ask()


def test_no_task_is_lost_by_all_this(served: Served, account: Account) -> None:
    """Everything that was taken is there and ends, also after a stop and a start; and the log has no error."""
    status, said = post(served, account, "/api/tasks", json.dumps(TASK).encode())
    assert status == 201
    id = json.loads(said)["task_id"]
    found = requests.get(f"{served.url}/api/tasks/{id}/result?wait=60", timeout=90)
    assert found.status_code == 200, found.text
    account.assert_kept(served.url)
    served.stop(timeout=60)
    log = "\n".join(line for line in served._lines.queue if line)
    assert " ERROR " not in log, log[:5000]
    assert "Traceback" not in log

    restarted = Served(
        served.data, "--paused", "--ollama-host", "http://127.0.0.1:9", OQ_QUEUE__MAX_COMPLETED_TASKS="0"
    )
    try:
        account.assert_kept(restarted.url)
    finally:
        restarted.stop(signal.SIGKILL)
