"""A server that is no oq server, or no sound one: every verb ends with an error of ours, or with what it could read."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from oq import errors
from oq.client import transport
from oq.client.flows import Lines
from tests.client.conftest import Broken
from tests.client.test_client import END, lines, sse, text, told

HTML = b"<html><body>It works!</body></html>"
BODIES = {
    "nothing": b"", "null": b"null", "a number": b"1e400", "text": b'"text"', "a list": b"[null, 1]", "an object": b"{}",
    "html": HTML, "not UTF-8": b'{"id":"\xff"}', "deep": b"[" * 100_000, "half of it": b'{"id":"0say',
    "wrong types": b'{"id":[],"task_id":{},"status":7,"created_at":"then","items":null,"hosts":[1],"type":[]}',
}  # fmt: skip
SPEC = {"type": "generate", "model": "m", "payload": {"prompt": "x"}}
VERBS: dict[str, tuple[Any, ...]] = {
    "submit": (SPEC,), "submit_many": ([SPEC],), "get": ("a",), "page": (), "wait": ("a", 0.0), "status": (), "hosts": (),
    "health": (), "pause": (), "drain": (1.0,), "cancel": ("a",), "priority": ("a", "high"), "bulk": ("cancel",),
    "follow": ("a",),
}  # fmt: skip


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("what", BODIES)
def test_an_answer_that_makes_no_sense_is_an_error_of_ours_or_read_as_far_as_it_goes(serve, what, verb):
    client, script = serve(*[httpx.Response(200, content=BODIES[what]) for _ in range(4)])
    error = None
    try:
        found = getattr(client, verb)(*VERBS[verb])
        list(found) if verb == "follow" else found
    except errors.OqError as said:
        error = said
    assert script.requests
    assert error is None or isinstance(error, errors.ServerError | errors.ServerUnreachable), repr(error)


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "follow"])
def test_a_page_of_html_is_no_answer(serve, verb):
    client, script = serve(httpx.Response(200, content=HTML))
    with pytest.raises(errors.ServerError, match="not what this client knows"):
        getattr(client, verb)(*VERBS[verb])
    assert len(script.requests) == 1, "it is not asked again"


def test_a_total_that_is_no_number_is_the_number_of_tasks(serve):
    client, _ = serve(httpx.Response(200, content=b'[{"id": "a"}]', headers={"X-Total-Count": "many"}))
    assert client.page().total == 1


def test_an_answer_that_tells_no_events_is_not_asked_for_them_for_ever(serve):
    client, script = serve(httpx.Response(200, content=HTML, headers={"Content-Type": "text/html"}))
    with pytest.raises(errors.ServerError, match="Is it an oq server"), client.subscribe():
        pass
    assert len(script.requests) == 1


def test_events_that_never_end_a_line_are_given_up(serve):
    client, script = serve(*[told(stream=Broken(b"data: ")) for _ in range(4)])
    with client.subscribe() as events, pytest.raises(errors.ServerUnreachable):
        next(events)
    assert len(script.requests) == 4


def test_a_stream_that_lives_is_opened_again_for_ever(serve):
    alive = [told(stream=Broken(b": beat\n\n")) for _ in range(9)]
    client, _ = serve(*alive, told(content=sse(1, "task_started")))
    with client.subscribe() as events:
        assert next(events).type == "task_started"


@pytest.mark.parametrize("data", [b"null", b"{", b"[]", b'{"seq": "x"}', b'"\xff"'])
def test_an_event_that_makes_no_sense_is_an_error_of_ours(serve, data):
    client, _ = serve(told(content=b"id: 1\ndata: " + data + b"\n\n"))
    with client.subscribe() as events, pytest.raises(errors.ServerError, match="not what this client knows"):
        next(events)


def test_the_name_of_an_event_need_not_be_text(serve):
    client, script = serve(told(stream=Broken(b"event: \xff\nid: \xff\n" + sse(1, "task_started"))))
    with client.subscribe() as events:
        assert next(events).seq == 1
    assert len(script.requests) == 1


def test_a_line_beyond_its_most_bytes_is_given_up(serve, monkeypatch):
    monkeypatch.setattr(transport, "ANSWER_MAX", 1000)
    endless = [httpx.Response(200, stream=Broken(*[b"x" * 100] * 11)) for _ in range(4)]
    client, script = serve(*endless)
    with pytest.raises(errors.ServerUnreachable, match="a line of its answer has more than 1000 bytes"):
        list(client.follow("a"))
    assert len(script.requests) == 4


def test_a_stream_of_many_lines_may_be_longer_than_one_line(serve, monkeypatch):
    monkeypatch.setattr(transport, "ANSWER_MAX", 1000)
    said = b"".join(lines(text("x" * 100, 100 * n)) for n in range(20)) + lines(END)
    pieces = [
        said[begin : begin + 90] for begin in range(0, len(said), 90)
    ]  # most end in the middle of a line
    client, _ = serve(httpx.Response(200, stream=Broken(*pieces)))
    assert "".join(client.stream("a")) == "x" * 2000


def test_a_line_in_many_pieces_is_put_together_once():
    found = Lines()
    for _ in range(3):
        assert found.feed(b"a") == []
    assert found.feed(b"b\r\nc") == [b"aaab"]
    assert found.feed(b"\n") == [b"c"]
