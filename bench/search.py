"""Measure text search in a running server: ``python bench/search.py [--tasks 100000] [--changes 200]``.

Starts `oq serve` on a fresh folder, submits tasks of varied text, opens the monitor's WebSocket (which has the
texts read), and asks `GET /api/tasks?q=…` as a person who types: each text letter by letter, then pages of it, with
and without filters, first in quiet and then while so many changes a second happen. Beside it a second
connection asks /health all the time: the longest answer shows what a search costs everybody else.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import statistics
import tempfile
import threading
import time
from collections import deque
from pathlib import Path
from urllib.parse import quote

from server import FakeModel, Server
from watching import connect, drain

HERE = Path(__file__).resolve().parent
WORDS = [
    "summarise",
    "the",
    "attached",
    "incident",
    "report",
    "and",
    "list",
    "its",
    "root",
    "causes",
    "explain",
    "quantum",
    "entanglement",
    "to",
    "a",
    "ten-year-old",
    "in",
    "three",
    "short",
    "paragraphs",
    "write",
    "a",
    "Go",
    "function",
    "that",
    "reverses",
    "linked",
    "lists",
    "product",
    "catalogue",
    "chunk",
    "translate",
    "this",
    "text",
    "为斐波那契数列写一个高效的",
    "Python",
    "函数",
    "并解释其复杂度",
]
TYPED = ("entangle", "reverses l", "斐波那契", "nothing like it", "e", "catalogue chunk", "qwen", "00042")
FILTERS = ("", "&status=pending", "&priority=high&model=gemma2:9b", "&sort=-priority", "&offset=30000")


def body(first: int, count: int) -> bytes:
    chance = random.Random(first)
    models, levels = ("gemma2:9b", "qwen2.5:7b", "llama3.2:3b"), ("low", "normal", "high")
    tasks = [
        {
            "type": "generate", "model": models[n % 3], "priority": levels[n % 7 % 3],
            "payload": {"prompt": f"{' '.join(chance.choices(WORDS, k=24))} {n:06d}"},
        }
        for n in range(first, first + count)
    ]  # fmt: skip
    return json.dumps(tasks).encode()


class Asker:
    """One kept connection."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def ask(self, path: str) -> tuple[float, http.client.HTTPResponse]:
        """Return the milliseconds and the answer, read."""
        began = time.perf_counter()
        self._connection.request("GET", path)
        answer = self._connection.getresponse()
        answer.read()
        return (time.perf_counter() - began) * 1000, answer


def typing(port: int, prefix: str = "") -> list[float]:
    """Ask as a person who types each text, then turns pages of it and filters it."""
    asker, times = Asker(port), []
    for text in TYPED:
        for end in range(1, len(text) + 1):
            times.append(asker.ask(f"/api/tasks?limit=100&q={quote(prefix + text[:end])}")[0])
        for more in FILTERS:
            times.append(asker.ask(f"/api/tasks?limit=100&q={quote(prefix + text)}{more}")[0])
    return times


def tell(name: str, times: list[float]) -> None:
    times = sorted(times)
    p95 = times[int(0.95 * len(times))]
    print(
        f"{name:<58} p50 {statistics.median(times):7.1f}  p95 {p95:7.1f}  max {times[-1]:7.1f} ms  n={len(times)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--changes", type=int, default=200, help="a second")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as top, FakeModel() as model:
        folder = Path(top) / "data"
        folder.mkdir()
        with Server(HERE.parent, str(folder), model.port, 4, "--paused") as server:
            for first in range(0, given.tasks, 10_000):
                server.ask("POST", "/api/tasks/batch", body(first, min(10_000, given.tasks - first)))
            before = server.memory()
            ends = threading.Event()
            watcher = connect(server.port)
            threading.Thread(target=drain, args=(watcher, ends), daemon=True).start()
            asker, began, cpu = Asker(server.port), time.monotonic(), server.cpu()
            while asker.ask("/api/tasks?limit=1&q=warm")[1].headers["X-Search-Complete"] != "true":
                pass
            print(
                f"{given.tasks:,} tasks, texts read in {time.monotonic() - began:.1f} s "
                f"({server.cpu() - cpu:.1f} s CPU), memory {before:.0f} -> {server.memory():.0f} MB"
            )
            health: list[float] = []

            def look() -> None:
                beside = Asker(server.port)
                while not ends.is_set():
                    health.append(beside.ask("/health")[0])
                    time.sleep(0.005)

            threading.Thread(target=look, daemon=True).start()
            time.sleep(2)
            tell("/health with nothing else to do", health[:])
            health.clear()
            tell("search, quiet, typed for the first time", typing(server.port))
            tell("search, quiet, a second round", typing(server.port))
            tell("/health meanwhile", health[:])
            change = threading.Thread(target=churn, args=(server, given.changes, ends), daemon=True)
            change.start()
            time.sleep(1)
            health.clear()
            tell(f"search, {given.changes} changes/s, a third round", typing(server.port))
            tell(f"search, {given.changes} changes/s, other texts", typing(server.port, "a "))
            tell("/health meanwhile", health[:])
            print(f"memory {server.memory():.0f} MB")
            ends.set()
            change.join(5)


def churn(server: Server, changes: int, ends: threading.Event) -> None:
    """Submit, reprioritize and cancel: half of the changes are new tasks."""
    number, count = 10_000_000, max(1, changes // 40)
    older: deque[list[str]] = deque()
    while not ends.is_set():
        began = time.monotonic()
        answer = json.loads(server.ask("POST", "/api/tasks/batch", body(number, count * 2)))
        number += count * 2
        older.append([item["task_id"] for item in answer["items"]])
        ids = older.popleft() if len(older) > 10 else []  # rows that a page has had time to see
        for action in (
            {"action": "priority", "priority": 7, "ids": ids[:count]},
            {"action": "cancel", "ids": ids[:count]},
        ):
            server.ask("POST", "/api/tasks/bulk", json.dumps(action).encode())
        time.sleep(max(0.0, 4 * count / changes - (time.monotonic() - began)))


if __name__ == "__main__":
    main()
