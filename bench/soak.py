"""Mixed work with faults for a set time: ``python bench/soak.py [--minutes 60] [--rate 15] [--seed 1] [--json FILE]``.

Starts `oq serve` on a fresh folder, with retention and packing at a short interval, and a model server that fails in
every way and is killed now and then. Clients submit tasks singly and in batches, cancel, retry, delete and
reprioritise them; readers of streams, events and the monitor's WebSocket come, stop reading, and go in the middle.
Every five seconds it records memory, file descriptors, threads, disk and latency, and at the end it says whether they
level off (`bench/levels.py`). Then it lets the queue run empty and stops the server.

Exit code 1: a figure rises, an answer was a 5xx without need, a task was left, or the server did not stop in time.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import trio
from levels import Bound, judge, table
from server import HERE, Server, free_port, wait_for
from trio_websocket import ConnectionClosed, HandshakeError, open_websocket_url

BOUNDS = {
    "memory": Bound("MB", 0.05, 5),
    "file descriptors": Bound("", 0.1, 20),
    "threads": Bound("", 0.0, 2),
    "disk": Bound("MB", 0.2, 5, highest=True),
    "submit, median": Bound("ms", 0.5, 20),
    "status, median": Bound("ms", 0.5, 20),
}
SETTINGS = {
    "OQ_QUEUE__MAX_COMPLETED_TASKS": "1000",
    "OQ_QUEUE__CLEANUP_INTERVAL": "5s",
    "OQ_QUEUE__PACK_INTERVAL": "15s",
    "OQ_OLLAMA__IDLE_TIMEOUT": "2s",
    "OQ_RETRY_CONFIG__INITIAL_DELAY": "100ms",
    "OQ_RETRY_CONFIG__MAX_DELAY": "2s",
    "OQ_SERVER__SEND_TIMEOUT": "3s",
}
SAMPLE_SECONDS = 5.0
WAITING_MOST = 500  # beyond it the submitters wait: a queue that only grows has no level
EMPTY_SECONDS = 180.0  # for what is left at the end


class Model:
    """The model server, which is killed and comes back at the same address."""

    def __init__(self, seed: int) -> None:
        self.port, self._seed, self.kills = free_port(), seed, 0
        self.start()

    def start(self) -> None:
        command = [sys.executable, str(HERE / "faulty_model.py"), "--port", str(self.port)]
        self.process = subprocess.Popen(
            [*command, "--seed", str(self._seed + self.kills)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.kills += 1


class Soak:
    def __init__(self, server: Server, model: Model, folder: Path, seed: int, rate: float) -> None:
        self.server, self.model, self.folder, self.rate = server, model, folder, rate
        self.url = f"http://127.0.0.1:{server.port}"
        self.draw = random.Random(seed)
        self.ids: collections.deque[str] = collections.deque(maxlen=500)
        self.waiting = 0
        self.counts: collections.Counter[str] = collections.Counter()
        self.wrong: list[str] = []
        self.latency: dict[str, list[float]] = collections.defaultdict(list)
        self.samples: dict[str, list[float]] = collections.defaultdict(list)

    async def ask(
        self, client: httpx.AsyncClient, method: str, path: str, body: Any = None
    ) -> httpx.Response:
        answer = await client.request(method, path, json=body)
        self.counts[f"{method} {answer.status_code}"] += 1
        if answer.status_code >= 500:
            self.wrong.append(f"{method} {path}: {answer.status_code} {answer.text[:200]}")
        return answer

    def task(self) -> dict[str, Any]:
        draw = self.draw
        kind = draw.choice(("chat", "generate", "generate", "embed"))
        text = "lorem ipsum " * draw.choice((1, 10, 100, 1000))
        payload = {
            "chat": {"messages": [{"role": "user", "content": text}]}, "generate": {"prompt": text},
            "embed": {"input": [text, text]},
        }[kind]  # fmt: skip
        task: dict[str, Any] = {"type": kind, "model": draw.choice(("llama3.2", "other")), "payload": payload}
        task["priority"] = draw.choice(("low", "normal", "normal", "high", 7))
        if draw.random() < 0.1:
            task["delay"] = draw.choice((0.5, 5, 20))
        return task

    # --- what clients do, again and again

    async def submits(self, client: httpx.AsyncClient) -> None:
        if self.waiting > WAITING_MOST:
            await trio.sleep(1)
            return
        if self.draw.random() < 0.1:
            answer = await self.ask(client, "POST", "/api/tasks/batch", [self.task() for _ in range(10)])
            self.counts["submitted"] += answer.json()["submitted"]
        else:
            began = time.monotonic()
            answer = await self.ask(client, "POST", "/api/tasks", self.task())
            self.latency["submit, median"].append((time.monotonic() - began) * 1000)
            self.ids.append(answer.json()["task_id"])
            self.counts["submitted"] += 1
        await trio.sleep(self.draw.expovariate(self.rate / 4))

    async def looks(self, client: httpx.AsyncClient) -> None:
        began = time.monotonic()
        answer = await self.ask(client, "GET", "/api/status")
        self.latency["status, median"].append((time.monotonic() - began) * 1000)
        found = answer.json()
        self.waiting = found["pending_tasks"] + found["scheduled_tasks"] + found["running_tasks"]
        paths = (
            "/api/tasks?limit=100",
            "/api/tasks?q=lorem&limit=20",
            "/api/tasks?status=failed",
            "/api/hosts",
        )
        await self.ask(client, "GET", self.draw.choice((*paths, "/metrics", "/health", "/")))
        await trio.sleep(0.3)

    async def changes(self, client: httpx.AsyncClient) -> None:
        if self.ids:
            id, draw = self.draw.choice(self.ids), self.draw.random()
            if draw < 0.5:
                await self.ask(client, "POST", f"/api/tasks/{id}/cancel")
            elif draw < 0.7:
                await self.ask(client, "POST", f"/api/tasks/{id}/retry")
            elif draw < 0.9:
                await self.ask(
                    client, "POST", f"/api/tasks/{id}/priority", {"priority": self.draw.randrange(1000)}
                )
            else:
                await self.ask(client, "DELETE", f"/api/tasks/{id}?force=true")
        await trio.sleep(self.draw.expovariate(2))

    async def reads(self, client: httpx.AsyncClient) -> None:
        """Read a stream or the events for a while, perhaps stop reading, and leave."""
        path = (
            f"/api/tasks/{self.draw.choice(self.ids)}/stream"
            if self.ids and self.draw.random() < 0.8
            else "/api/events"
        )
        with trio.move_on_after(self.draw.uniform(0.1, 8)):
            async with client.stream("GET", path) as answer:
                async for _ in answer.aiter_bytes():
                    if self.draw.random() < 0.02:
                        await trio.sleep_forever()
        self.counts["readers"] += 1

    async def watches(self, _: httpx.AsyncClient) -> None:
        """Be a monitor for a while."""
        with trio.move_on_after(self.draw.uniform(0.5, 15)):
            with contextlib.suppress(ConnectionClosed, HandshakeError):
                async with open_websocket_url(self.url.replace("http", "ws") + "/ws") as socket:
                    rows = list(self.ids)[-40:]
                    await socket.send_message(
                        json.dumps({"type": "watch", "ids": rows, "task": rows[-1] if rows else None})
                    )
                    while self.draw.random() < 0.99:
                        await socket.get_message()
                    await trio.sleep_forever()
        self.counts["monitors"] += 1

    async def is_rude(self, _: httpx.AsyncClient) -> None:
        """Go in the middle of a request, or of its answer."""
        body = json.dumps(self.task()).encode()
        head = f"POST /api/tasks HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        data = head.encode() + body
        stream = await trio.open_tcp_stream("127.0.0.1", self.server.port)
        await stream.send_all(data[: self.draw.randrange(len(data))])
        await trio.sleep(self.draw.choice((0, 0.01, 1)))
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        stream.socket.close()
        self.counts["rude"] += 1
        await trio.sleep(0.5)

    async def kills_the_model(self, _: httpx.AsyncClient) -> None:
        await trio.sleep(self.draw.uniform(15, 45))
        self.model.kill()
        await trio.sleep(self.draw.uniform(0.2, 5))
        self.model.start()

    # --- the run

    async def again(
        self, client: httpx.AsyncClient, do: Callable[[httpx.AsyncClient], Awaitable[None]]
    ) -> None:
        while True:
            try:
                await do(client)
            except httpx.HTTPError as error:
                self.wrong.append(f"{do.__name__}: {error!r}")
                await trio.sleep(0.1)

    async def run(self, seconds: float) -> None:
        crowd = [
            *[self.submits] * 4, *[self.looks] * 2, *[self.changes] * 2, *[self.reads] * 8, *[self.watches] * 6,
            *[self.is_rude] * 2, self.kills_the_model,
        ]  # fmt: skip
        bounds = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=self.url, timeout=30, limits=bounds) as client:
            with trio.move_on_after(seconds):
                async with trio.open_nursery() as nursery:
                    for do in crowd:
                        nursery.start_soon(self.again, client, do)
                    await self.record()

    async def record(self) -> None:
        began = time.monotonic()
        while True:
            await trio.sleep(SAMPLE_SECONDS)
            proc = Path(f"/proc/{self.server.process.pid}")
            threads = next(
                line for line in (proc / "status").read_text().splitlines() if line.startswith("Threads")
            )
            sample = {
                "memory": self.server.memory(),
                "file descriptors": len(os.listdir(proc / "fd")),
                "threads": int(threads.split()[1]),
                "disk": sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file()) / 1e6,
            }
            for name in ("submit, median", "status, median"):
                times, self.latency[name] = self.latency[name], []
                sample[name] = statistics.median(times) if times else 0.0
            for name, value in sample.items():
                self.samples[name].append(value)
            words = ", ".join(f"{name} {value:.0f}" for name, value in sample.items())
            print(
                f"{time.monotonic() - began:5.0f} s: {words}, waiting {self.waiting}",
                file=sys.stderr,
                flush=True,
            )

    async def empty(self) -> int:
        """Let the queue run empty; return how many tasks are left."""
        with trio.move_on_after(EMPTY_SECONDS):
            async with httpx.AsyncClient(base_url=self.url, timeout=30) as client:
                while True:
                    await self.looks(client)
                    if not self.waiting:
                        break
        return self.waiting


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--rate", type=float, default=15, help="submissions a second")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as top:
        folder = Path(top) / "data"
        folder.mkdir()
        model = Model(given.seed)
        wait_for((model.port, "/api/version"), model.process)
        server = Server(HERE.parent, str(folder), model.port, 8, **SETTINGS)
        try:
            soak = Soak(server, model, folder, given.seed, given.rate)
            trio.run(soak.run, given.minutes * 60)
            if model.process.poll() is not None:
                model.start()
            left = trio.run(soak.empty)
            began = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            server.process.wait(30)
            stop_seconds = time.monotonic() - began
        finally:
            model.kill()
            server.kill()
        log = Path(server.log.name).read_text()
    found = [judge(name, soak.samples[name], bound) for name, bound in BOUNDS.items()]
    errors = [
        line for line in log.splitlines() if " ERROR " in line or "Traceback" in line or "CRITICAL" in line
    ]
    print(table(found))
    print()
    print(
        f"{given.minutes:g} minutes, seed {given.seed}; the model server was killed {model.kills - 1} times."
    )
    print(", ".join(f"{name}: {count:,}" for name, count in sorted(soak.counts.items())))
    print(
        f"tasks left: {left}; unexpected answers: {len(soak.wrong)}; errors in the log: {len(errors)}; stopped in {stop_seconds:.1f} s"
    )
    for line in [*soak.wrong[:10], *errors[:10]]:
        print(f"  {line}")
    document = {
        "minutes": given.minutes, "seed": given.seed, "levels": [dataclasses.asdict(one) for one in found],
        "samples": soak.samples, "counts": soak.counts, "left": left, "wrong": soak.wrong, "errors": errors,
        "stop_seconds": stop_seconds, "kills": model.kills - 1,
    }  # fmt: skip
    if given.json:
        given.json.write_text(json.dumps(document, indent=1) + "\n")
    good = all(one.level for one in found) and not (left or soak.wrong or errors) and stop_seconds < 15
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
