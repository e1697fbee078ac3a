"""Many single embed tasks, each alone and sharing calls: ``python bench/embed.py [--tasks N] [--json FILE]``.

Starts the small real model of `oq demo` (or takes the model server at ``--model-server URL``), and for each way `oq serve` on a
fresh data folder, with one slot. All tasks are submitted while the queue is paused; measured is the time from its resumption to
the end of the last, and the calls that reached the model server. Then all vectors of the one way are compared with those
of the other. The server that shares calls keeps answers, too, and is asked everything once more: that is the last row.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

from server import free_port, wait_for  # bench/server.py

from oq import builders
from oq.client import Client

MODEL = "smollm2-embed"
WORDS = ("cat", "letter", "map", "sugar", "lamp", "river", "engine", "garden", "window", "question", "song")
Vectors = list[list[float]]


def text(number: int) -> str:
    """Return a sentence of its own for each number."""
    words = [WORDS[number // len(WORDS) ** place % len(WORDS)] for place in range(4)]
    return f"The {words[0]} of the {words[1]} and the {words[2]} of the {words[3]}, number {number}."


class Counter:
    """Stands before a model server, passes on bytes, and counts the embed calls in them."""

    def __init__(self, url: str) -> None:
        where = urlsplit(url)
        self._to = where.hostname or "127.0.0.1", where.port or 80
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.calls = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            near, _ = self._listener.accept()
            far = socket.create_connection(self._to)
            for source, sink in ((near, far), (far, near)):
                source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self._pass, args=(source, sink, source is near), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket, counts: bool) -> None:
        try:
            while data := source.recv(65_536):
                if counts and data.startswith(b"POST /api/embed "):  # oq sends a request's head in one piece
                    self.calls += 1
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # one side is gone; the other learns it from its own thread


@contextmanager
def serving(url: str, batch: int, cache: str) -> Iterator[Client]:
    """Run `oq serve` with one slot; the model is loaded when it is handed out."""
    with ExitStack() as held:
        folder = held.enter_context(tempfile.TemporaryDirectory())
        port = free_port()
        environment = os.environ | {
            "OQ_SCHEDULER__EMBED_BATCH": str(batch),
            "OQ_SCHEDULER__EMBED_CACHE_BYTES": cache,
            "QUEUE_MAX_WORKERS": "1",
            "QUEUE_MAX_COMPLETED_TASKS": "1000000",
        }
        command = [sys.executable, "-m", "oq", "serve", "--port", str(port), "--data-dir", folder,
                   "--ollama-host", url]  # fmt: skip
        server = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        held.callback(server.wait)
        held.callback(server.terminate)
        wait_for((port, "/health"), server)
        client = held.enter_context(Client(f"http://127.0.0.1:{port}"))
        client.run_batch([builders.embed(MODEL, "The model is loaded by this.")])
        yield client


def embed(client: Client, count: int) -> tuple[float, Vectors]:
    """Return the seconds that *count* tasks took, and their vectors."""
    client.pause()
    before = client.status().completed_tasks
    handles = client.submit_many(builders.embed(MODEL, text(number)) for number in range(count))
    began = time.perf_counter()
    client.resume()
    while client.status().completed_tasks < before + count:
        time.sleep(0.05)
    seconds = time.perf_counter() - began
    return seconds, [client.get(handle.id).result["embeddings"][0] for handle in handles]


def apart(one: Vectors, other: Vectors) -> float:
    """Return the largest difference of two numbers in the same place."""
    return max(abs(a - b) for pair in zip(one, other, strict=True) for a, b in zip(*pair, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--model-server", metavar="URL")
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_args()
    rows: list[dict[str, object]] = []
    with ExitStack() as held:
        url = given.model_server
        if url is None:
            from oq.demo import start_model_server

            model_server = start_model_server({})
            held.callback(model_server.stop)
            url = model_server.url
        counter = Counter(url)
        first: Vectors = []

        def measure(name: str, client: Client) -> None:
            before = counter.calls
            seconds, vectors = embed(client, given.tasks)
            if not first:
                first.extend(vectors)
            row = {
                "way": name, "tasks": given.tasks, "seconds": round(seconds, 2),
                "per_second": round(given.tasks / seconds, 1), "calls": counter.calls - before,
                "equal_vectors": sum(one == other for one, other in zip(first, vectors, strict=True)),
                "apart": apart(first, vectors),
            }  # fmt: skip
            rows.append(row)
            print("{way:32} {seconds:9.1f} s {per_second:8.1f}/s {calls:6} calls   {equal_vectors} vectors equal to "
                  "those of the first row, largest difference {apart:.1e}".format(**row), flush=True)  # fmt: skip

        with serving(counter.url, 1, "0") as client:
            measure("each alone", client)
        with serving(counter.url, given.batch, "1GiB") as client:
            measure(f"sharing calls, {given.batch} at most", client)
            measure("the same again, from the cache", client)
    if given.json is not None:
        given.json.write_text(json.dumps(rows, indent=2) + "\n")


if __name__ == "__main__":
    main()
