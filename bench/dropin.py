"""What going through oq costs a client of Ollama: ``python bench/dropin.py [--calls N] [--model-server URL] [--batch N]``.

Starts `oq serve` on a fresh data folder in front of bench/fake_model.py (one token every 6 ms, as a small real model
on two cores), or of the model server at a URL. One client streams the same chat by turns directly and through oq, so
that both see the same machine, and prints the time to the first byte and the tokens per second of both.

With ``--batch`` an OpenAI batch of so many lines runs beside people's chats, one at a time, and how long those waited
for their start is printed, next to the longest attempt that ran meanwhile.
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from server import free_port, wait_for  # bench/server.py

HERE = Path(__file__).resolve().parent
TOKENS = 64


def chat(connection: http.client.HTTPConnection, model: str) -> tuple[float, float, http.client.HTTPResponse]:
    """Stream one chat; return seconds to the first byte, tokens per second after it, and the answer's head.

    The last line is no token: oq holds it until the result is on disk, and says so in docs/decisions/dropin.md.
    """
    options = {"num_predict": TOKENS, "temperature": 0, "seed": 1}
    body = json.dumps(
        {"model": model, "messages": [{"role": "user", "content": "Tell a story"}], "options": options}
    )
    began = time.perf_counter()
    connection.request("POST", "/api/chat", body)
    answer = connection.getresponse()
    lines = 0
    first = last = began
    while line := answer.readline():
        if b'"done":true' in line.replace(b" ", b""):
            continue
        last = time.perf_counter()
        first = last if lines == 0 else first
        lines += 1
    return first - began, (lines - 1) / max(last - first, 1e-9), answer


def compare(
    direct: http.client.HTTPConnection, through: http.client.HTTPConnection, model: str, calls: int
) -> None:
    for connection in (direct, through):
        for _ in range(3):
            chat(connection, model)
    found: dict[str, list[tuple[float, float]]] = {"directly": [], "through oq": []}
    for _ in range(calls):
        for name, connection in (("directly", direct), ("through oq", through)):
            found[name].append(chat(connection, model)[:2])
    for name, rows in found.items():
        firsts = sorted(row[0] * 1000 for row in rows)
        rate = statistics.median(row[1] for row in rows)
        print(f"{name:12} first byte p50 {statistics.median(firsts):8.2f} ms   tokens/s p50 {rate:8.1f}")
    one, other = found["directly"], found["through oq"]
    more = statistics.median(r[0] for r in other) - statistics.median(r[0] for r in one)
    slower = 1 - statistics.median(r[1] for r in other) / statistics.median(r[1] for r in one)
    print(f"first byte +{more * 1000:.2f} ms, tokens/s {-slower:+.2%}")


def beside_a_batch(url: str, through: http.client.HTTPConnection, model: str, lines: int, calls: int) -> None:
    requests = "".join(
        json.dumps({"custom_id": str(n), "method": "POST", "url": "/v1/chat/completions", "body": {
            "model": model, "max_tokens": 8, "messages": [{"role": "user", "content": f"Line {n}"}]}}) + "\n"
        for n in range(lines)
    )  # fmt: skip
    file = _post(url, "/v1/files", _form(requests), "multipart/form-data; boundary=b")
    asked = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    batch = _post(url, "/v1/batches", json.dumps(asked).encode(), "application/json")
    while _get(url, f"/v1/batches/{batch['id']}")["request_counts"]["completed"] < 20:
        time.sleep(0.05)
    waits = sorted(float(chat(through, model)[2].headers["X-Queue-Wait"]) for _ in range(calls))
    counts = _get(url, f"/v1/batches/{batch['id']}")["request_counts"]
    tasks = _get(url, f"/api/tasks?tag=batch:{batch['id']}&status=completed&limit=1000")
    longest = max(_seconds(task) for task in tasks)
    print(f"{calls} chats beside a batch of {lines} lines ({counts['completed']} done by then): "
          f"wait p50 {statistics.median(waits) * 1000:.1f} ms, p95 {waits[int(len(waits) * 0.95)] * 1000:.1f} ms; "
          f"the longest attempt of a line took {longest * 1000:.1f} ms")  # fmt: skip


def _seconds(task: Any) -> float:
    from datetime import datetime

    return (
        datetime.fromisoformat(task["completed_at"]) - datetime.fromisoformat(task["started_at"])
    ).total_seconds()


def _form(content: str) -> bytes:
    return (
        '--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
        f'--b\r\nContent-Disposition: form-data; name="file"; filename="in.jsonl"\r\n\r\n{content}\r\n--b--\r\n'
    ).encode()


def _post(url: str, path: str, body: bytes, kind: str) -> Any:
    request = urllib.request.Request(url + path, body, {"Content-Type": kind})
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def _get(url: str, path: str) -> Any:
    with urllib.request.urlopen(url + path) as answer:
        return json.load(answer)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--calls", type=int, default=30)
    parser.add_argument("--model-server", help="a running model server in place of the fake")
    parser.add_argument("--model", default="fake")
    parser.add_argument(
        "--batch", type=int, default=0, help="lines of a batch that runs beside people's chats"
    )
    given = parser.parse_args()
    with ExitStack() as held:
        url = given.model_server
        if url is None:
            port = free_port()
            command = [sys.executable, str(HERE / "fake_model.py"), "--port", str(port), "--latency-ms", "75"]
            model = subprocess.Popen([*command, "--tokens", str(TOKENS), "--token-ms", "6"])
            held.callback(model.wait)
            held.callback(model.terminate)
            wait_for((port, "/api/version"), model)
            url = f"http://127.0.0.1:{port}"
        folder = held.enter_context(tempfile.TemporaryDirectory())
        port = free_port()
        command = [
            sys.executable,
            "-m",
            "oq",
            "serve",
            "--port",
            str(port),
            "--data-dir",
            folder,
            "--ollama-host",
            url,
        ]
        oq = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        held.callback(oq.wait)
        held.callback(oq.terminate)
        wait_for((port, "/health"), oq)
        direct = http.client.HTTPConnection(urlsplit(url).netloc)
        through = http.client.HTTPConnection("127.0.0.1", port)
        compare(direct, through, given.model, given.calls)
        if given.batch:
            beside_a_batch(f"http://127.0.0.1:{port}", through, given.model, given.batch, given.calls)


if __name__ == "__main__":
    main()
