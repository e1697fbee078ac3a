"""The command line with hostile arguments and files, and against a server that answers nonsense.

Never a traceback; an exit code that is documented; and an end, in bounded time and memory.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.cli.live import ROOT, environment

pytestmark = pytest.mark.slow

CODES = {
    int(code)
    for code in re.findall(r"^\| (\d+) \|", (ROOT / "docs/reference/cli.md").read_text(), re.MULTILINE)
}
SECONDS_MOST = 60.0
ID = "0saybcdqh4000"

COMMANDS = [
    ["status"], ["list"], ["list", "-o", "json"], ["show", ID], ["result", ID], ["cancel", ID], ["retry", ID],
    ["delete", ID], ["priority", ID, "high"], ["pause"], ["resume"], ["hosts"], ["models"], ["batch", "OPENAI", "--results", "results.jsonl"],
    ["submit", "generate", "-m", "m", "Hi"], ["submit", "generate", "-m", "m", "Hi", "--wait"], ["attach", ID],
]  # fmt: skip


def run(commands: list[list[str]], cwd: Path, **env: str) -> None:
    """Run *commands*; each must end as it should."""
    child = subprocess.run(
        [sys.executable, "-m", "tests.fuzz.commands"], input=json.dumps(commands), capture_output=True, text=True,
        timeout=SECONDS_MOST * 3, cwd=cwd, env=environment(**env),
    )  # fmt: skip
    assert child.returncode == 0, child.stderr[-3000:]
    ended = [json.loads(line) for line in child.stdout.splitlines()]
    assert len(ended) == len(commands)
    for command, end in zip(commands, ended, strict=True):
        assert "Traceback" not in end["said"], (command, end["said"])
        assert end["code"] in CODES, (command, end)
        assert end["seconds"] < SECONDS_MOST, (command, end)
        if end["code"]:
            assert (end["said"] + end["printed"]).strip(), f"{command} failed without a word"


# --- a server that answers nonsense


def http(body: bytes, head: bytes = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n") -> bytes:
    return head + b"Content-Length: %d\r\n\r\n" % len(body) + body


def _bomb() -> bytes:
    """Return a gigabyte of spaces, packed."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (packer.compress(b" " * 10_000_000) + packer.flush(zlib.Z_FULL_FLUSH)) * 100


OPENAI = '{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"m","messages":[]}}\n'
PACKED = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Encoding: deflate\r\n"
BOMB = _bomb()
DRIP_SECONDS = 0.05
# A command that only reads tries each of these again for some seconds: so there are few.
TRIED_AGAIN = {
    "half of it",
    "not HTTP",
    "cut off",
    "two lengths",
    "no length that is",
    "broken pieces",
    "a bomb",
    "nothing packed",
    "a drip",
}
FEW = [["status"], ["cancel", ID]]
ENDLESS = [["cancel", ID], ["attach", ID]]
FAILED = b"HTTP/1.1 500 Oops\r\nContent-Type: text/html\r\n"
# What is sent, and whether it goes on for ever.
NONSENSE: dict[str, tuple[bytes, bytes]] = {
    "html": (http(b"<html><body>It works!</body></html>", b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"), b""),
    "an error page": (http(b"<html>500</html>", FAILED), b""),
    "nothing": (http(b""), b""),
    "null": (http(b"null"), b""),
    "a list of nulls": (http(b"[null, null]"), b""),
    "a number": (http(b"1e400"), b""),
    "text": (http(b'"text"'), b""),
    "wrong types": (
        http(b'{"id":[],"task_id":{},"status":7,"created_at":"then","error":[1],"pending_tasks":"x","tasks":4,"attempts":"a","hosts":[1],"items":null,"total":{},"code":5}'),
        b"",
    ),
    "wrong types in a list": (http(b'[{"id":[],"status":7,"created_at":"then","model":null,"priority":"x"}]'), b""),
    "half of it": (http(b'{"id":"0say')[:-4], b""),
    "deep": (http(b"[" * 100_000), b""),
    "not UTF-8": (http(b'{"id":"\xff\xfe"}'), b""),
    "not HTTP": (b"SSH-2.0-OpenSSH_9.6\r\n", b""),
    "a redirect": (http(b"", b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n"), b""),
    "an endless body": (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n[", b'{"a":"' + b"x" * 65_000 + b'"},'),
    "an endless head": (b"HTTP/1.1 200 OK\r\n", b"X-More: " + b"x" * 60_000 + b"\r\n"),
    "cut off": (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{", b""),
    "two lengths": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 9\r\n\r\n{}", b""),
    "no length that is": (b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n{}", b""),
    "broken pieces": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n", b""),
    "a bomb": (http(BOMB, PACKED), b""),
    "nothing packed": (http(b"{}", PACKED), b""),
    "a redirect to itself": (http(b"", b"HTTP/1.1 307 Again\r\nLocation: /\r\n"), b""),
    "a drip": (b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n[", b" "),
    "an endless error": (b"HTTP/1.1 500 Oops\r\n\r\n", b"x" * 65_536),
}  # fmt: skip


@contextmanager
def answering(first: bytes, then: bytes) -> Iterator[str]:
    """Answer every request with *first*, and then with *then* for as long as the client listens."""
    listener = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def serve(sock: socket.socket) -> None:
        with sock:
            try:
                sock.recv(65_536)
                sock.sendall(first)
                while then and not ended.is_set():
                    sock.sendall(then)
                    if len(then) == 1:
                        ended.wait(DRIP_SECONDS)
            except OSError:
                pass

    def accept() -> None:
        while not ended.is_set():
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(sock,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        ended.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


@pytest.mark.parametrize("name", NONSENSE)
def test_a_server_that_answers_nonsense_is_told_in_a_sentence(tmp_path: Path, name: str) -> None:
    with answering(*NONSENSE[name]) as url:
        commands = (
            FEW[name == "a bomb" :] if name in TRIED_AGAIN else ENDLESS if NONSENSE[name][1] else COMMANDS
        )
        (tmp_path / "OPENAI").write_text(OPENAI)
        run([["--timeout", "2", *command] for command in commands], tmp_path, OQ_URL=url)


# --- hostile arguments and files

WORDS = st.text(st.characters(exclude_characters="\0"), max_size=20) | st.sampled_from(
    ["-", "--", "--wait", "-o", "json", "id", "@", "@@", "@/", "@/nonexistent", "--server", "http://[", "x" * 5000, "-1",
     "1e400", "NaN", "--limit", "--priority", "--delay", "--tag", "--status", "--config", "/", "--timeout", "0", "%s"]
)  # fmt: skip
NAMES = ["submit", "batch", "list", "status", "show", "wait", "cancel", "retry", "delete", "priority", "config", "token",
         "export", "import", "hosts", "models", "doctor", "backup", "restore"]  # fmt: skip


def test_hostile_arguments_are_told_in_a_sentence(tmp_path: Path) -> None:
    commands: list[list[str]] = []

    @settings(
        max_examples=150,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.sampled_from(NAMES), st.lists(WORDS, max_size=4))
    def draw(name: str, more: list[str]) -> None:
        commands.append(["--timeout", "1", name, *more])

    draw()
    assert len(commands) > 100
    with answering(*NONSENSE["html"]) as url:  # it answers at once: nothing is tried again
        run(commands, tmp_path, OQ_URL=url, OQ_QUEUE__STORAGE_PATH=str(tmp_path / "data"))


FILES = {
    "empty": b"", "binary": bytes(range(256)) * 100, "not UTF-8": b'{"a":"\xff"}', "deep": b"[" * 100_000,
    "long line": b"x" * 5_000_000, "html": b"<html>", "number": b"1e400", "null": b"null\n" * 1000, "NUL": b"\0" * 1000,
    "yaml": b"a: &a [*a]\n", "bomb": b"a: &a [1,1]\nb: &b [*a,*a]\nc: [*b,*b]\n", "surrogate": b'{"a":"\\ud800"}\n',
    "twice": b'{"type":"chat","type":"embed"}\n', "bom": b"\xef\xbb\xbf{}\n", "crlf": b"{}\r\n{}\r\n",
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_a_hostile_file_is_told_in_a_sentence(tmp_path: Path, name: str) -> None:
    file = tmp_path / "file"
    file.write_bytes(FILES[name])
    path = str(file)
    commands = [
        ["--config", path, "config", "show"], ["--config", path, "status"], ["batch", path], ["import", path],
        ["submit", "generate", "-m", "m", f"@{path}"], ["submit", "chat", "-m", "m", f"@{path}"],
        ["submit", "generate", "-m", "m", "Hi", "--image", path], ["restore", path],
    ]  # fmt: skip
    with answering(*NONSENSE["html"]) as url:
        run([["--timeout", "1", *command] for command in commands], tmp_path, OQ_URL=url)
