"""Many single embed tasks, each alone and sharing calls: ``python bench/embed.py [--tasks N] [--model-server URL]``.

Starts the small real model of `oq demo` (or takes the model server at a URL), and for each way `oq serve` on a fresh
data folder, with a slot. All tasks are submitted while the queue is paused; measured is the time from its resumption to the end of
the last. Then all vectors of the one way are compared with those of the other.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack

from server import free_port, wait_for  # bench/server.py

from oq import builders
from oq.client import Client

MODEL = "smollm2-embed"
WORDS = ("cat", "letter", "map", "sugar", "lamp", "river", "engine", "garden", "window", "question", "song")


def text(number: int) -> str:
    """Return a sentence of its own for each number."""
    words = [WORDS[number // len(WORDS) ** place % len(WORDS)] for place in range(4)]
    return f"The {words[0]} of the {words[1]} and the {words[2]} of the {words[3]}, number {number}."


def embed(url: str, count: int, batch: int) -> tuple[float, list[list[float]]]:
    """Return the seconds that *count* tasks took, and their vectors."""
    with ExitStack() as held:
        folder = held.enter_context(tempfile.TemporaryDirectory())
        port = free_port()
        environment = os.environ | {"OQ_SCHEDULER__EMBED_BATCH": str(batch), "QUEUE_MAX_WORKERS": "1"}
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
        server = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        held.callback(server.wait)
        held.callback(server.terminate)
        wait_for((port, "/health"), server)
        client = held.enter_context(Client(f"http://127.0.0.1:{port}"))
        client.run_batch([builders.embed(MODEL, "The model is loaded by this.")])
        client.pause()
        handles = client.submit_many(builders.embed(MODEL, text(number)) for number in range(count))
        began = time.perf_counter()
        client.resume()
        while client.status().completed_tasks <= count:
            time.sleep(0.02)
        seconds = time.perf_counter() - began
        return seconds, [client.get(handle.id).result["embeddings"][0] for handle in handles]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=5000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--model-server")
    given = parser.parse_args()
    with ExitStack() as held:
        url = given.model_server
        if url is None:
            from oq.demo import start_model_server

            server = start_model_server({})
            held.callback(server.stop)
            url = server.url
        alone, first = embed(url, given.tasks, 1)
        print(
            f"{given.tasks} tasks, each alone:          {alone:7.1f} s, {given.tasks / alone:7.1f} a second",
            flush=True,
        )
        shared, second = embed(url, given.tasks, given.batch)
        print(
            f"{given.tasks} tasks, {given.batch} to a call at most: {shared:7.1f} s, {given.tasks / shared:7.1f} a second"
        )
        apart = max(
            abs(a - b)
            for one, other in zip(first, second, strict=True)
            for a, b in zip(one, other, strict=True)
        )
        print(f"{alone / shared:.2f} times as fast; the numbers of the vectors differ by {apart:.2e} at most")


if __name__ == "__main__":
    main()
