from __future__ import annotations

import json

import httpx
import pytest

import oq
from oq import errors
from oq.builders import chat, generate
from oq.client import Client, Patience
from tests.client.conftest import Broken

TASK = {"id": "0f7x3kq2m00a5", "type": "chat", "model": "m", "status": "completed", "result": {"done": True}}


def reply(status: int, value: object = None, **headers: str) -> httpx.Response:
    return httpx.Response(status, json=value, headers={k.replace("_", "-"): v for k, v in headers.items()})


def lines(*items: object) -> bytes:
    return b"".join(json.dumps(item).encode() + b"\n" for item in items)


def text(text: str, offset: int, attempt: int = 1) -> dict[str, object]:
    return {"type": "text", "kind": "content", "attempt": attempt, "offset": offset, "text": text}


END = {"type": "end", "task": TASK}
SUBMITTED = {"task_id": "0f7x3kq2m00a5", "status": "pending"}


def test_a_submission_that_lost_its_answer_is_sent_again_under_the_same_key(serve):
    client, script = serve(httpx.ReadError("reset"), reply(201, SUBMITTED))
    assert client.submit(chat("m", "hi")).id == "0f7x3kq2m00a5"
    first, second = script.requests
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
    assert first.content == second.content


def test_the_callers_own_idempotency_key_is_kept(serve):
    client, script = serve(reply(201, SUBMITTED))
    client.submit(chat("m", "hi", idempotency_key="mine"))
    assert script.requests[0].headers["idempotency-key"] == "mine"


def test_a_body_in_the_shape_of_the_rest_api_can_be_submitted(serve):
    client, script = serve(reply(201, SUBMITTED))
    body = {"type": "generate", "model": "m", "payload": {"prompt": "a"}}
    client.submit(body)
    assert json.loads(script.requests[0].content) == body


def test_a_busy_server_is_asked_again(serve):
    busy = {"error": "the queue is full", "code": "queue_full"}
    client, script = serve(reply(429, busy, Retry_After="0"), reply(503, busy), reply(201, SUBMITTED))
    client.submit(chat("m", "hi"))
    assert len(script.requests) == 3


def test_a_server_that_stays_busy_is_given_up_with_its_own_error(serve):
    client, _ = serve(*[reply(429, {"error": "full", "code": "queue_full"})] * 4)
    with pytest.raises(errors.QueueFull, match="full"):
        client.submit(chat("m", "hi"))


def test_a_longer_retry_after_than_the_patience_is_not_waited_for(serve):
    client, script = serve(reply(503, {"error": "x", "code": "queue_closed"}, Retry_After="3600"))
    with pytest.raises(errors.QueueClosed) as caught:
        client.submit(chat("m", "hi"))
    assert caught.value.retry_after == 3600
    assert len(script.requests) == 1


def test_a_cancel_that_lost_its_answer_is_not_sent_twice(serve):
    client, script = serve(httpx.ReadError("reset"))
    with pytest.raises(errors.ServerUnreachable):
        client.cancel("abc")
    assert len(script.requests) == 1


def test_a_cancel_that_was_never_sent_is_sent_again(serve):
    client, script = serve(httpx.ConnectError("refused"), reply(200, TASK))
    client.cancel("abc")
    assert len(script.requests) == 2


@pytest.mark.parametrize("how", [httpx.ReadError("reset"), httpx.Response(502, text="bad gateway")])
@pytest.mark.parametrize(
    ("verb", "arguments"), [("cancel", ("a",)), ("retry", ("a",)), ("delete", ("a",)), ("bulk", ("cancel",))]
)
def test_what_may_have_been_done_already_is_not_sent_twice(serve, verb, arguments, how):
    client, script = serve(how)
    with pytest.raises((errors.ServerUnreachable, errors.ServerError)):
        getattr(client, verb)(*arguments)
    assert len(script.requests) == 1


@pytest.mark.parametrize("how", [httpx.ReadError("reset"), httpx.Response(502, text="bad gateway")])
@pytest.mark.parametrize(
    ("verb", "arguments", "answer"),
    [
        ("get", ("a",), TASK),
        ("page", (), []),
        ("priority", ("a", 5), TASK),
        ("pause", (), {}),
        ("drain", (0.0,), {}),
        ("submit", ({"type": "chat"},), SUBMITTED),
        ("submit_many", ([{"type": "chat"}],), {"submitted": 0, "failed": 0, "items": []}),
    ],
)
def test_what_does_no_harm_twice_is_sent_again_as_it_was(serve, verb, arguments, answer, how):
    client, script = serve(how, reply(200, answer))
    getattr(client, verb)(*arguments)
    first, second = script.requests
    assert (first.url, first.content, first.headers) == (second.url, second.content, second.headers)


def test_a_failure_inside_the_server_is_not_asked_for_again(serve):
    client, script = serve(reply(500, {"error": "a mistake", "code": "internal_error"}))
    with pytest.raises(errors.OqError, match="a mistake"):
        client.status()
    assert len(script.requests) == 1


def test_the_pauses_together_are_bounded():
    def refuse(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        raise httpx.ConnectError("refused")

    asked: list[httpx.Request] = []
    patience = Patience(retries=9, first=1e-6, longest=1e-6, total=3.5e-6, jitter=0)
    with Client("http://oq.test", patience=patience, transport=httpx.MockTransport(refuse)) as client:
        with pytest.raises(errors.ServerUnreachable):
            client.status()
    assert len(asked) == 4


def test_each_step_of_a_call_has_its_bound(serve):
    client, script = serve(reply(200, {}), reply(200, TASK), httpx.Response(200, content=lines(END)))
    client.status()
    client.wait("a", 10.0)
    list(client.stream("a"))
    plain, held, stream = [request.extensions["timeout"] for request in script.requests]
    assert plain == {"connect": 5.0, "read": 30.0, "write": 30.0, "pool": None}
    assert held == {**plain, "read": 40.0}
    assert stream == {**plain, "read": 75.0}


def test_an_unreachable_server_says_what_to_do(serve):
    client, _ = serve(*[httpx.ConnectError("refused")] * 4)
    with pytest.raises(errors.ServerUnreachable, match="oq serve"):
        client.status()


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (404, "not_found", errors.TaskNotFound),
        (409, "conflict", errors.TaskConflict),
        (409, "idempotency_conflict", errors.IdempotencyConflict),
        (413, "too_large", errors.TooLarge),
        (422, "invalid_task", errors.InvalidTask),
        (507, "storage_full", errors.StorageFull),
        (418, "brand_new", errors.ServerError),
    ],
)
def test_an_error_comes_back_as_its_class(serve, status, code, kind):
    client, _ = serve(reply(status, {"error": "because", "code": code, "field": "payload.prompt"}))
    with pytest.raises(kind, match="because") as caught:
        client.get("abc")
    assert caught.value.code == code
    assert getattr(caught.value, "field", "payload.prompt") == "payload.prompt"


def test_an_error_page_of_a_proxy_is_an_error_and_not_a_traceback(serve):
    client, _ = serve(httpx.Response(404, text="<html>nothing here</html>"))
    with pytest.raises(errors.ServerError, match=r"404.*Is it an oq server"):
        client.get("abc")


def test_a_task_with_a_number_past_every_range_can_be_read(serve):
    body = b'{"id": "abc", "status": "completed", "payload": {"big": 1e400}, "result": {"x": -1e999}}'
    client, _ = serve(httpx.Response(200, content=body))
    task = client.get("abc")
    assert (task.payload, task.result) == ({"big": float("inf")}, {"x": float("-inf")})


def test_an_answer_that_is_no_json_is_a_server_error(serve):
    client, _ = serve(httpx.Response(200, text="Ollama is running"))
    with pytest.raises(errors.ServerError):
        client.status()


def test_an_id_cannot_change_the_path(serve):
    client, script = serve(reply(404, {"error": "no", "code": "not_found"}))
    with pytest.raises(errors.TaskNotFound):
        client.get("../queue/pause")
    assert script.paths == ["GET /api/tasks/..%2Fqueue%2Fpause"]


def test_filters_become_parameters_and_the_total_is_told(serve):
    client, script = serve(reply(200, [TASK], X_Total_Count="41"))
    page = client.page(status=["failed", "cancelled"], tag="a", limit=1)
    assert (page.total, [task.id for task in page.tasks]) == (41, ["0f7x3kq2m00a5"])
    assert script.paths == ["GET /api/tasks?status=failed&status=cancelled&tag=a&limit=1"]


def test_an_unknown_filter_is_named(serve):
    client, _ = serve()
    with pytest.raises(errors.InvalidTask, match="colour"):
        client.list(colour="red")


# --- waiting


def test_waiting_polls_until_the_end(serve):
    client, script = serve(reply(202), reply(200, TASK))
    assert client.wait("abc").status == "completed"
    assert script.requests[0].url.params["wait"] == "30.000"


def test_waiting_survives_a_restart_of_the_server(serve):
    client, _ = serve(httpx.ReadError("gone"), httpx.ConnectError("no"), reply(200, TASK))
    assert client.result("abc") == {"done": True}


def test_a_wait_that_is_too_long_times_out(serve):
    client, _ = serve(reply(202))
    with pytest.raises(errors.WaitTimeout, match="abc"):
        client.wait("abc", timeout=0)


def test_the_result_of_a_failed_task_raises_its_reason(serve):
    failed = TASK | {"status": "failed", "error": "no such model", "error_code": "model_not_found"}
    client, _ = serve(reply(200, failed))
    with pytest.raises(errors.TaskFailed, match="no such model") as caught:
        client.result("abc")
    assert caught.value.task_code == "model_not_found"


def test_the_result_of_a_cancelled_task_raises(serve):
    cancelled = TASK | {"status": "cancelled"}
    client, _ = serve(reply(200, cancelled))
    with pytest.raises(errors.TaskCancelled):
        client.result("abc")


# --- what cannot be sent


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.list(tag="a\udcff"),
        lambda client: client.get("a\udcff"),
        lambda client: client.priority("a", "\udcff"),
        lambda client: client.bulk("cancel", filter={"tag": "\udcff"}),
        lambda client: client.submit({"type": "generate", "model": "\udcff"}),
        lambda client: client.submit(oq.TaskSpec("generate", "\udcff", b"{}")),
        lambda client: list(client.stream("a\udcff")),
        lambda client: client.subscribe(after="é").__enter__(),
    ],
)
def test_text_that_utf8_cannot_write_is_refused_before_it_is_sent(serve, ask):
    client, script = serve()
    with pytest.raises(errors.InvalidTask):
        ask(client)
    assert not script.requests


@pytest.mark.parametrize(
    "make", [lambda: generate("m\udcff", "a"), lambda: generate("m", "a", tags=["\udcff"])]
)
def test_a_task_of_such_text_is_not_built(make):
    with pytest.raises(errors.InvalidTask, match="UTF-8"):
        make()


def test_an_idempotency_key_that_no_header_can_hold_goes_in_the_body(serve):
    client, script = serve(reply(201, SUBMITTED))
    client.submit(generate("m", "a", idempotency_key="é"))
    assert json.loads(script.requests[0].content)["idempotency_key"] == "é"


def test_a_token_that_no_header_can_hold_is_named(monkeypatch):
    with pytest.raises(errors.ConfigError, match="the token"):
        Client("http://oq.test", token="é")
    monkeypatch.setenv("OQ_TOKEN", "b\udcff")
    with pytest.raises(errors.ConfigError, match="OQ_TOKEN"):
        Client()


def test_an_address_that_no_name_server_knows_is_no_address():
    with pytest.raises(errors.ServerUnreachable, match="is not a server's address"):
        Client("http://\udcff")


# --- batches


def test_a_refused_task_of_a_batch_has_its_error_in_its_place(serve):
    items = [
        {"index": 0, "task_id": "a"},
        {"index": 1, "error": "prompt is empty", "code": "invalid_task", "field": "payload.prompt"},
    ]
    client, _ = serve(reply(200, {"submitted": 1, "failed": 1, "items": items}))
    good, bad = client.submit_many([generate("m", "a"), {"type": "generate"}])
    assert not isinstance(good, errors.OqError)
    assert good.id == "a"
    assert isinstance(bad, errors.InvalidTask)
    assert bad.field == "payload.prompt"


def test_a_batch_beyond_the_servers_limit_is_halved(serve):
    def half(request: httpx.Request) -> httpx.Response:
        count = len(json.loads(request.content))
        items = [{"index": i, "task_id": f"t{i}"} for i in range(count)]
        return reply(200, {"submitted": count, "failed": 0, "items": items})

    client, script = serve(reply(413, {"error": "too many", "code": "too_large"}), half, half)
    assert len(client.submit_many([generate("m", "a")] * 3)) == 3
    assert len({request.headers["idempotency-key"] for request in script.requests}) == 3


def test_an_atomic_batch_is_one_request(serve):
    client, script = serve(reply(200, {"submitted": 0, "failed": 0, "items": []}))
    client.submit_many([generate("m", "a")], atomic=True)
    assert script.paths == ["POST /api/tasks/batch?atomic=true"]


REFUSED = {
    "submitted": 0, "failed": 1,
    "items": [{"index": 0}, {"index": 1}, {"index": 2, "error": "it is missing", "code": "invalid_task", "field": "payload"}],
}  # fmt: skip


def test_an_atomic_batch_with_a_wrong_task_raises_what_is_wrong_with_it(serve):
    client, _ = serve(reply(422, REFUSED))
    with pytest.raises(errors.InvalidTask, match="task 3: payload: it is missing") as caught:
        client.submit_many([generate("m", "a")] * 3, atomic=True)
    assert caught.value.field == "payload"


def test_a_batch_waits_for_all_and_keeps_the_order(serve):
    def answer(request: httpx.Request) -> httpx.Response:
        id = request.url.path.split("/")[3]
        if id == "b":
            return reply(200, TASK | {"id": id, "status": "failed", "error": "boom"})
        return reply(200, TASK | {"id": id, "result": {"response": id}})

    items = [{"index": i, "task_id": id} for i, id in enumerate("abc")]
    client, _ = serve(reply(200, {"submitted": 3, "failed": 0, "items": items}), *[answer] * 3)
    seen = []
    results = client.run_batch([generate("m", "a")] * 3, callback=seen.append)
    assert results[0] == {"response": "a"}
    assert results[2] == {"response": "c"}
    assert isinstance(results[1], errors.TaskFailed)
    assert [task.id for task in seen] == ["a", "b", "c"]


# --- text


def test_text_goes_on_where_the_connection_broke(serve):
    client, _script = serve(
        httpx.Response(200, stream=Broken(lines(text("Hel", 0)), b'{"type":"te')),
        httpx.Response(200, content=lines(text("Hel", 0), text("lo", 3), END)),
    )
    assert list(client.stream("abc")) == ["Hel", "lo"]


def test_text_that_comes_again_in_other_pieces_is_delivered_once(serve):
    client, _ = serve(
        httpx.Response(200, stream=Broken(lines(text("Hel", 0)))),
        httpx.Response(200, content=lines(text("Hello", 0), END)),
    )
    assert list(client.stream("abc")) == ["Hel", "lo"]


def test_an_attempt_that_began_while_the_connection_was_lost_is_a_restart(serve):
    client, _ = serve(
        httpx.Response(200, stream=Broken(lines(text("Hello", 0)))),
        httpx.Response(200, content=lines(text("Bye", 0, attempt=2), END)),
    )
    assert [item.text or item.type for item in client.follow("abc")] == ["Hello", "restart", "Bye", "end"]


def test_a_new_attempt_is_told_and_its_text_is_whole(serve):
    client, script = serve(
        httpx.Response(200, stream=Broken(lines(text("lo", 3)))),
        httpx.Response(200, content=lines(text("d by", 3, attempt=2))),
        httpx.Response(200, content=lines(text("Good by", 0, attempt=2), text("e", 7, attempt=2), END)),
    )
    items = list(client.follow("abc", offset=3))
    assert [item.type for item in items] == ["text", "restart", "text", "text", "end"]
    assert items[2].text + items[3].text == "Good bye"
    assert script.requests[2].url.params["offset"] == "0"


def test_a_stream_of_a_missing_task_is_not_found(serve):
    client, _ = serve(reply(404, {"error": "no task abc", "code": "not_found"}))
    with pytest.raises(errors.TaskNotFound):
        list(client.stream("abc"))


def test_a_silent_stream_is_opened_again_without_end(serve):
    silent = [httpx.Response(200, stream=Broken(error=httpx.ReadTimeout("silence"))) for _ in range(9)]
    client, _ = serve(*silent, httpx.Response(200, content=lines(text("x", 0), END)))
    assert "".join(client.stream("abc")) == "x"


def test_a_stream_that_always_breaks_is_given_up(serve):
    client, _ = serve(*[httpx.Response(200, stream=Broken()) for _ in range(4)])
    with pytest.raises(errors.ServerUnreachable):
        list(client.stream("abc"))


# --- events


def sse(seq: int, type: str) -> bytes:
    data = json.dumps({"seq": seq, "type": type, "task_id": "a"})
    return f"id: e1-{seq}\nevent: {type}\ndata: {data}\n\n".encode()


def told(**more: object) -> httpx.Response:
    return httpx.Response(200, headers={"Content-Type": "text/event-stream"}, **more)


def test_events_reconnect_after_the_last_one_seen(serve):
    client, script = serve(
        told(stream=Broken(sse(1, "task_started"), b"id: e1-2\nevent: x\n")),
        told(content=sse(2, "task_completed")),
    )
    with client.subscribe(["task_started", "task_completed"]) as events:
        seen = [next(iter(events)).type for _ in range(2)]
    assert seen == ["task_started", "task_completed"]
    assert script.requests[1].headers["last-event-id"] == "e1-1"
    assert script.paths[0] == "GET /api/events?type=task_started&type=task_completed"


def test_entering_a_subscription_waits_until_it_is_live(serve):
    client, script = serve(reply(503, {"error": "x", "code": "too_many"}), told(content=b""))
    with client.subscribe():
        assert len(script.requests) == 2


# --- addresses


def test_a_bare_host_and_port_is_an_address():
    assert Client("localhost:7125/").url == "http://localhost:7125"


@pytest.mark.parametrize("url", ["ftp://x", "http://", "http://[::1", "http://x:99999"])
def test_a_wrong_address_is_an_error_of_ours(url):
    with pytest.raises(errors.ServerUnreachable, match="address"):
        Client(url)


def test_the_token_is_sent():
    def answer(request: httpx.Request) -> httpx.Response:
        assert request.headers["authorization"] == "Bearer secret"
        return reply(200, {"pending_tasks": 3, "queues_by_priority": {"5": 3}})

    with Client("http://oq.test", token="secret", transport=httpx.MockTransport(answer)) as client:
        assert client.status().queues_by_priority == {5: 3}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(serve, status):
    client, script = serve(reply(status, {}, Location="http://elsewhere.example/api/status"))
    with pytest.raises(errors.ServerError, match=r"elsewhere\.example"):
        client.status()
    assert len(script.requests) == 1
