"""The WebSocket with bytes, messages and manners that nobody should have.

What is told wrongly is answered with a sentence or ends that one connection; the memory stays bounded, the others are
told as before, and the log has no error.
"""

from __future__ import annotations

import json
import random
import re
import socket
import time
import zlib
from pathlib import Path
from typing import Any

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from oq.web.live import WATCHED_MAX
from oq.web.serve import FRAME_MAX
from tests.cli.live import Served
from tests.fuzz.account import Account
from tests.fuzz.frames import (
    ASK,
    BINARY,
    CLOSE,
    CONTINUED,
    PING,
    PONG,
    SECONDS_MOST,
    TEXT,
    Socket,
    frame,
)
from tests.fuzz.hostile import HOSTILE, VALUES
from tests.fuzz.test_routes import ANYTHING, BOUNDED, TASK, post

pytestmark = pytest.mark.slow

MEGABYTES_MORE = 60.0  # than before: what one connection may cost for a moment
MESSAGE_TOO_BIG = 1009


def port_of(served: Served) -> int:
    return int(served.url.rpartition(":")[2])


def most_memory(served: Served) -> float:
    """Return the most that the server has had since the last call of `forget_most`, in MB."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{served.process.pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1000


def forget_most(served: Served) -> float:
    """Begin to measure anew; return what the server has now."""
    Path(f"/proc/{served.process.pid}/clear_refs").write_text("5")
    return most_memory(served)


def submitted(served: Served, account: Account) -> str:
    status, said = post(served, account, "/api/tasks", json.dumps(TASK).encode())
    assert status == 201
    id: str = json.loads(said)["task_id"]
    return id


def assert_told(served: Served, account: Account) -> None:
    """A new connection is greeted, and told of a task that it watches."""
    with Socket(port_of(served)) as other:
        hello = other.until("hello")
        assert hello is not None
        id = submitted(served, account)
        other.say({"type": "watch", "ids": [id], "since": hello["seq"]})
        while (delta := other.until("delta")) is not None:
            if id in delta["tasks"]:
                return
    raise AssertionError(f"nothing was told: {other.closed}")


# --- bytes

SPLIT = frame(TEXT, b'{"type":', last=False) + frame(PING, b"x") + frame(CONTINUED, b'"watch"}')
BYTES = {
    "nothing": b"", "not masked": b"\x81\x02{}", "reserved bits": frame(TEXT, b"{}", flags=7),
    "a compressed frame": frame(TEXT, b"{}", flags=4), "an unknown kind": frame(5, b"x"), "an unknown control": frame(11, b"x"),
    "no UTF-8": frame(TEXT, b"\xff\xfe"), "half a character": frame(TEXT, b"\xe2\x82"), "a surrogate": frame(TEXT, b'"\xed\xa0\x80"'),
    "a long ping": frame(PING, b"x" * 126), "a ping in pieces": frame(PING, b"x", last=False), "pongs": frame(PONG, b"x" * 125) * 2000,
    "pings": frame(PING, b"x" * 125) * 2000, "the end of nothing": frame(CONTINUED, b"x"),
    "a beginning in a beginning": frame(TEXT, b"a", last=False) + frame(TEXT, b"b"), "a ping between": SPLIT,
    "empty pieces": frame(TEXT, b"", last=False) + frame(CONTINUED, b"", last=False) * 5000 + frame(CONTINUED, b"{}"),
    "a length of 2^63": frame(TEXT, b"x", length=2**63), "a length of 2^62": frame(TEXT, b"x", length=2**62),
    "an empty text": frame(TEXT), "an empty binary": frame(BINARY), "binary": frame(BINARY, bytes(range(256))),
    "a watch in binary": frame(BINARY, b'{"type":"watch"}'), "a close of one byte": frame(CLOSE, b"\x03"),
    "an unknown close": frame(CLOSE, b"\0\5"), "a close with half a character": frame(CLOSE, b"\x03\xe8\xe2"),
    "a long close": frame(CLOSE, b"\x03\xe8" + b"x" * 200), "words after the close": frame(CLOSE, b"\x03\xe8") + frame(TEXT, b"{}") * 10,
    "HTTP": b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 50,
    "noise": random.Random(7).randbytes(70_000),
}  # fmt: skip


@pytest.mark.parametrize("name", BYTES)
def test_hostile_bytes_end_one_connection_at_most(served: Served, account: Account, name: str) -> None:
    with Socket(port_of(served)) as client:
        assert client.until("hello") is not None
        client.send(BYTES[name])
        client.send(frame(CLOSE, b"\x03\xe8"))
        while client.next() is not None:
            pass
        assert client.closed is not None
    assert_told(served, account)


@pytest.mark.parametrize(
    "more",
    [
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=many\r\n",
        "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=99999\r\n",
        "Sec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Extensions: ;;==,\r\n",
        "Sec-WebSocket-Protocol: ,,,\r\n", "Sec-WebSocket-Protocol: oq, oq.token.\r\n", "Origin: null\r\n", "Upgrade: h2c\r\n",
        "Sec-WebSocket-Version: 99\r\n", "Sec-WebSocket-Version: \r\n", "Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n",
        "Expect: 100-continue\r\n", "Host: \xff\r\n", "Connection: close\r\n", "Cookie: " + "x" * 60_000 + "\r\n",
    ],
)  # fmt: skip
@pytest.mark.parametrize("query", ["", "?token=", "?token=%FF%00", "?" + "a=1&" * 300, "?%ED%A0%80"])
def test_a_hostile_handshake_is_taken_or_refused(served: Served, more: str, query: str) -> None:
    with socket.create_connection(("127.0.0.1", port_of(served)), SECONDS_MOST) as client:
        client.sendall(ASK.format(query=query, more=more).encode("latin-1"))
        answer = client.recv(4096)
    status = int(answer.split(b" ")[1])
    assert status == 101 or 400 <= status < 500, answer


def test_an_offer_to_compress_is_not_taken(served: Served) -> None:
    """So that no few bytes become a gigabyte."""
    offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n"
    before = forget_most(served)
    with Socket(port_of(served), more=offer) as client:
        assert b"permessage-deflate" not in client.head
        deflated = zlib.compressobj(9, zlib.DEFLATED, -15)
        spaces = b"".join(deflated.compress(b" " * 1_000_000) for _ in range(500)) + deflated.flush(
            zlib.Z_SYNC_FLUSH
        )
        client.send(frame(TEXT, spaces, flags=4))
        while client.next() is not None:
            pass
    assert most_memory(served) < before + MEGABYTES_MORE


@pytest.mark.parametrize("pieces", [False, True])
def test_an_endless_message_is_ended_and_takes_no_memory(
    served: Served, account: Account, pieces: bool
) -> None:
    before = forget_most(served)
    with Socket(port_of(served)) as client:
        assert client.until("hello") is not None
        client.send(frame(TEXT, b"", length=2**40) if not pieces else frame(TEXT, b"[", last=False))
        for _ in range(200):
            data = b" " * 1_000_000
            if not client.send(frame(CONTINUED, data, last=False) if pieces else data):
                break
        assert client.until("bye") is None
        assert client.closed == MESSAGE_TOO_BIG
        client.wait_end()
    assert most_memory(served) < before + MEGABYTES_MORE
    assert_told(served, account)


# --- messages


@pytest.fixture(scope="module")
def talk(served: Served) -> Any:
    with Socket(port_of(served)) as client:
        yield client


@pytest.mark.parametrize("kind", [TEXT, BINARY])
def test_hostile_json_is_answered_with_a_sentence_and_the_connection_goes_on(talk: Socket, kind: int) -> None:
    for body in HOSTILE:
        if len(body) > FRAME_MAX or (kind == TEXT and not _is_text(body)):
            continue  # ends the connection: above
        talk.send(frame(kind, body))
        said = talk.until("error")
        assert said is not None, (talk.closed, body[:50])
        assert said["error"]


def _is_text(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def ends_with_an_answer(talk: Socket) -> bool:
    """Send what no other message here is, half an object, and read up to its answer; False if the connection ends before."""
    talk.send(frame(TEXT, b"{"))
    while (said := talk.until("error")) is not None:
        if "truncated" in said["error"]:
            return True
    return False


@pytest.mark.parametrize("field", ["ids", "task", "since", "type", "nothing"])
def test_a_hostile_value_is_answered_or_taken(talk: Socket, field: str) -> None:
    for text in [
        *VALUES,
        '["0"]',
        "[1]",
        '["' + "0" * 13 + '"]',
        json.dumps(["0000000000000"] * (WATCHED_MAX + 1)),
    ]:
        fields = {"type": '"watch"', field: text}
        talk.send(frame(TEXT, ("{" + ",".join(f'"{k}":{v}' for k, v in fields.items()) + "}").encode()))
        assert ends_with_an_answer(talk), (talk.closed, text[:50])


def test_any_message_at_all_is_survived(talk: Socket) -> None:
    @settings(BOUNDED, max_examples=60)
    @given(value=ANYTHING, field=st.sampled_from(["", "ids", "task", "since"]))
    def ask(value: Any, field: str) -> None:
        talk.send(frame(TEXT, json.dumps({"type": "watch", field: value} if field else value).encode()))
        assert ends_with_an_answer(talk)

    ask()


# --- manners


def test_thousands_of_watches_in_a_row_end_with_the_last(served: Served, account: Account) -> None:
    ids = [submitted(served, account) for _ in range(20)]
    before = forget_most(served)
    with Socket(port_of(served)) as client:
        for number in range(5000):
            many = [f"{number:013d}", *ids] * 50
            assert client.say({"type": "watch", "ids": many, "task": ids[number % len(ids)], "since": 0})
        last = submitted(served, account)
        assert requests.get(f"{served.url}/api/tasks/{last}/result?wait=60", timeout=90).status_code == 200
        client.say({"type": "watch", "task": last})
        while (text := client.until("tok")) is not None and text["id"] != last:
            pass
        assert text is not None
    assert most_memory(served) < before + MEGABYTES_MORE


def test_who_never_reads_is_held_up_alone_and_takes_no_memory(served: Served, account: Account) -> None:
    """It says as much as is taken, of which each message is an error to be told."""
    before = forget_most(served)
    clients = [Socket(port_of(served), window=4096) for _ in range(20)]
    try:
        for client in clients:
            client._sock.setblocking(False)
            wrong = frame(TEXT, b'"' + b"x" * 100_000 + b'"')
            deadline = time.monotonic() + 2
            while time.monotonic() < deadline:
                try:
                    client._sock.send(wrong)
                except BlockingIOError:
                    break
                except ConnectionError:
                    break
        assert_told(served, account)
        assert most_memory(served) < before + 3 * MEGABYTES_MORE
    finally:
        for client in clients:
            client.close()


def test_no_task_is_lost_by_all_this_and_the_log_has_no_error(served: Served, account: Account) -> None:
    account.assert_kept(served.url)
    served.stop(timeout=60)
    log = "\n".join(line for line in served._lines.queue if line)
    assert " ERROR " not in log, log[:5000]
    assert "Traceback" not in log
