"""Measure a running server from outside: ``python bench/server.py [names…] [--against TREE] [--json FILE]``.

Starts a fake model server and `oq serve` on a fresh data folder for each measurement, drives it through its public
HTTP interface, and prints a table, next to what the project wants to reach, and JSON. ``--against`` takes a second
checkout (``git worktree add ../before COMMIT``) and measures both in turn, in the same run: on a shared machine
only ratios of one run mean something.

CPU is the server process's own (user + system), memory its resident set.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import selectors
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

HERE = Path(__file__).resolve().parent
TICKS = os.sysconf("SC_CLK_TCK")
PROMPT = "Summarise the following paragraph in one sentence: " + "lorem ipsum dolor sit amet " * 6


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def wait_for(url_path: tuple[int, str], process: subprocess.Popen[bytes], seconds: float = 120) -> None:
    port, path = url_path
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"a server ended with code {process.returncode}")
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", path)
            connection.getresponse().read()
            connection.close()
            return
        except OSError:
            time.sleep(0.01)
    raise SystemExit("a server did not start")


class FakeModel:
    def __init__(self, latency_ms: float = 0, *flags: str) -> None:
        self.port = free_port()
        command = [sys.executable, str(HERE / "fake_model.py"), "--port", str(self.port)]
        self.process = subprocess.Popen(
            [*command, "--latency-ms", str(latency_ms), *flags], stdout=subprocess.DEVNULL
        )
        wait_for((self.port, "/api/version"), self.process)

    def __enter__(self) -> FakeModel:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()

    def stats(self, slots: int) -> dict[str, object]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        connection.request("GET", f"/stats?slots={slots}")
        found: dict[str, object] = json.loads(connection.getresponse().read())
        return found


class Server:
    """`oq serve` from the checkout *tree*."""

    def __init__(
        self, tree: Path, folder: str, model_port: int, workers: int, *flags: str, **env: str
    ) -> None:
        self.port = free_port()
        environ = {
            name: value for name, value in os.environ.items() if not name.startswith(("OQ_", "QUEUE_"))
        }
        environ |= {"PYTHONPATH": str(tree), **env}
        command = [sys.executable, "-m", "oq", "--data-dir", folder, "serve", "--port", str(self.port)]
        command += ["--ollama-host", f"http://127.0.0.1:{model_port}", "--workers", str(workers), *flags]
        # The log goes to a file, as it does in production.
        self.log = open(os.path.join(folder, "..", f"log-{self.port}"), "wb")  # noqa: SIM115
        began = time.monotonic()
        self.process = subprocess.Popen(command, env=environ, cwd=tree, stdout=self.log, stderr=self.log)
        wait_for((self.port, "/health"), self.process)
        self.start_seconds = time.monotonic() - began
        self._connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
        self.log.close()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.log.close()

    def cpu(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def memory(self) -> float:
        """Resident set in MB."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) * 1024 / 1e6
        return 0.0

    def ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        # One connection for all: a new one for each look at the status would be a part of what is measured.
        self._connection.request(method, path, body, {"Content-Type": "application/json"})
        answer = self._connection.getresponse()
        data = answer.read()
        if answer.status >= 300:
            raise SystemExit(f"{method} {path}: {answer.status} {data[:300]!r}")
        return data

    def submit(self, count: int) -> None:
        answer = json.loads(self.ask("POST", "/api/tasks/batch", batch(count)))
        if answer["submitted"] != count:
            raise SystemExit(f"submitted {answer['submitted']} of {count}")

    def finished(self) -> int:
        status = json.loads(self.ask("GET", "/api/status"))
        if status["failed_tasks"]:
            raise SystemExit(f"{status['failed_tasks']} tasks failed")
        count: int = status["completed_tasks"]
        return count


def one(number: int) -> bytes:
    task = {"type": "generate", "model": "fake", "payload": {"prompt": f"{number}: {PROMPT}"}}
    return json.dumps(task).encode()


def batch(count: int) -> bytes:
    return b"[" + b",".join(one(number) for number in range(count)) + b"]"


class Bench:
    """The measurements of one checkout. Each returns figures by name."""

    def __init__(self, tree: Path) -> None:
        self.tree = tree

    def _server(
        self, stack: ExitStack, workers: int = 4, latency_ms: float = 0, *flags: str, spread: float = 0
    ) -> Server:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "data"
        folder.mkdir()
        self.model = stack.enter_context(FakeModel(latency_ms, "--spread", str(spread)))
        return stack.enter_context(Server(self.tree, str(folder), self.model.port, workers, *flags))

    def batch(self) -> dict[str, float]:
        with ExitStack() as stack:
            server = self._server(stack, 4, 0, "--paused")
            body = batch(10_000)
            rates = []
            for _ in range(5):
                began = time.monotonic()
                server.ask("POST", "/api/tasks/batch", body)
                rates.append(10_000 / (time.monotonic() - began))
            return {"durable tasks/s, one POST of 10,000 (median of 5)": statistics.median(rates)}

    def single(self) -> dict[str, float]:
        with ExitStack() as stack:
            server = self._server(stack, 4, 0, "--paused")
            hammer(server.port, 64, 500)  # warm up
            cpu, began, count = server.cpu(), time.monotonic(), 8000
            hammer(server.port, 64, count)
            seconds = time.monotonic() - began
            return {
                "durable single submits/s, 64 connections": count / seconds,
                "server CPU per single submit, ms": (server.cpu() - cpu) / count * 1000,
            }

    def _end_to_end(self, count: int, workers: int, latency_ms: float) -> tuple[float, float]:
        """Return tasks/s and the server's CPU in ms per task, of *count* tasks submitted while paused."""
        with ExitStack() as stack:
            server = self._server(stack, workers, latency_ms, "--paused")
            server.submit(count)
            cpu, began = server.cpu(), time.monotonic()
            server.ask("POST", "/api/queue/resume", b"{}")
            time.sleep(
                count * latency_ms / 1000 / workers
            )  # it cannot be done before: do not disturb it by asking
            while server.finished() < count:
                time.sleep(0.02)
            seconds = time.monotonic() - began
            self.gaps = self.model.stats(workers)
            return count / seconds, (server.cpu() - cpu) / count * 1000

    def latency0(self) -> dict[str, float]:
        rate, cpu = self._end_to_end(10_000, 4, 0)
        return {
            "end to end, latency 0, 4 workers, tasks/s": rate,
            "server CPU per task end to end, ms": cpu,
        }

    def latency50(self) -> dict[str, float]:
        figures = {}
        for workers, count in ((4, 400), (16, 1600)):
            ideal, label = workers / 0.05, f"50 ms, {workers} workers, % of ideal"
            figures[f"end to end, {label}"] = self._end_to_end(count, workers, 50)[0] / ideal * 100
            with FakeModel(50) as model:
                began = time.monotonic()
                hammer(model.port, workers, count, model_request)
                bare = count / (time.monotonic() - began)
            figures[f"a bare client that only asks, {label}"] = bare / ideal * 100
        return figures

    def gap(self) -> dict[str, float]:
        """Models never take the same time twice; equal times make all slots end together, and wait for each other."""
        figures = {}
        for spread, label in ((0.25, "gap between attempts on a slot"), (0, "the same, all slots in step")):
            with ExitStack() as stack:
                server = self._server(stack, 4, 20, "--paused", spread=spread)
                server.submit(10_000)
                server.ask("POST", "/api/queue/resume", b"{}")
                while int(str(self.model.stats(4)["answered"])) < 1000:
                    time.sleep(0.1)
                found = self.model.stats(4)["gap_ms"]
                assert isinstance(found, dict)
                figures[f"{label}, 10,000 waiting, p50 ms"] = float(found["50"])
        return figures

    def status(self) -> dict[str, float]:
        found = {}
        for stored in (1000, 50_000):
            with ExitStack() as stack:
                server = self._server(stack, 4, 0, "--paused")
                server.submit(stored)
                times = []
                for _ in range(300):
                    began = time.perf_counter()
                    server.ask("GET", "/api/status")
                    times.append((time.perf_counter() - began) * 1000)
                found[f"GET /api/status with {stored:,} stored, p50 ms"] = statistics.median(times)
        return found

    def memory(self) -> dict[str, float]:
        with ExitStack() as stack:
            server = self._server(stack, 4, 0, "--paused")
            for _ in range(5):
                server.submit(10_000)
            return {"memory with 50,000 pending, MB": server.memory()}

    def million(self) -> dict[str, float]:
        with ExitStack() as stack:
            server = self._server(stack, 4, 0, "--paused")
            for _ in range(100):
                server.submit(10_000)
            return {"memory with 1,000,000 pending, MB": server.memory()}

    def restart(self) -> dict[str, float]:
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "data"
            folder.mkdir()
            model = stack.enter_context(FakeModel())
            server = Server(self.tree, str(folder), model.port, 4, "--paused")
            for _ in range(10):
                server.submit(10_000)
            server.kill()
            again = stack.enter_context(Server(self.tree, str(folder), model.port, 4))
            return {"start after kill -9 with 100,000 unfinished, s": again.start_seconds}


REACH = {
    "durable tasks/s, one POST of 10,000 (median of 5)": "≥ 30,000",
    "durable single submits/s, 64 connections": "≥ 1,500",
    "server CPU per single submit, ms": "≤ 0.65",
    "end to end, latency 0, 4 workers, tasks/s": "≥ 800",
    "end to end, 50 ms, 4 workers, % of ideal": "≥ 97",
    "end to end, 50 ms, 16 workers, % of ideal": "≥ 95",
    "gap between attempts on a slot, 10,000 waiting, p50 ms": "< 1",
    "memory with 50,000 pending, MB": "< 150",
    "memory with 1,000,000 pending, MB": "< 1,000",
    "start after kill -9 with 100,000 unfinished, s": "< 3",
}
NAMES = ["batch", "single", "latency0", "latency50", "gap", "status", "memory", "million", "restart"]


def submit_request(number: int) -> bytes:
    return post("/api/tasks", one(number))


def model_request(number: int) -> bytes:
    return post("/api/generate", json.dumps({"model": "fake", "prompt": f"{number}: {PROMPT}"}).encode())


def post(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def is_whole(answer: bytes) -> bool:
    """Whether an answer is there to its end; anything but a success stops the measurement."""
    head, found, body = answer.partition(b"\r\n\r\n")
    if not found:
        return False
    if not head.startswith(b"HTTP/1.1 2"):
        raise SystemExit(f"a request was refused: {head!r} {body!r}")
    length = head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]
    return len(body) >= int(length) if length else body.endswith(b"0\r\n\r\n")


def hammer(port: int, connections: int, count: int, request: Callable[[int], bytes] = submit_request) -> None:
    """Send *count* requests over keep-alive connections, each with one at a time."""
    selector = selectors.DefaultSelector()
    sent = done = 0

    def send(sock: socket.socket) -> None:
        nonlocal sent
        sock.sendall(request(sent))
        sent += 1

    for _ in range(connections):
        sock = socket.create_connection(("127.0.0.1", port))
        selector.register(sock, selectors.EVENT_READ, bytearray())
        send(sock)
    while done < count:
        for key, _ in selector.select(30):
            sock, buffer = key.fileobj, key.data
            assert isinstance(sock, socket.socket)
            buffer += sock.recv(65536)
            if not is_whole(bytes(buffer)):
                continue
            buffer.clear()
            done += 1
            if sent < count:
                send(sock)
    for key in list(selector.get_map().values()):
        key.fileobj.close()  # type: ignore[union-attr]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"which of {', '.join(NAMES)}; all by default")
    parser.add_argument("--against", type=Path, help="a second checkout to compare with")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(NAMES)
    if unknown:
        parser.error(f"no such measurement: {', '.join(sorted(unknown))}")
    trees = [HERE.parent, *([arguments.against.resolve()] if arguments.against else [])]
    figures: dict[str, list[float]] = {}
    for name in arguments.names or NAMES:
        for tree in trees:
            measure: Callable[[], dict[str, float]] = getattr(Bench(tree), name)
            for label, value in measure().items():
                figures.setdefault(label, []).append(value)
                print(f"  {label}: {value:,.2f}", file=sys.stderr, flush=True)
    width = max(map(len, figures))
    heads = ["here", *(["against", "ratio"] if arguments.against else []), "reach"]
    print(f"{'':{width}}  " + "  ".join(f"{head:>12}" for head in heads))
    for label, values in figures.items():
        cells = [f"{value:12,.2f}" for value in values]
        if len(values) == 2:
            cells.append(f"{values[0] / values[1]:12.2f}")
        print(f"{label:{width}}  " + "  ".join([*cells, f"{REACH.get(label, ''):>12}"]))
    document = {"python": sys.version.split()[0], "cores": os.cpu_count(), "figures": figures}
    print(json.dumps(document))
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
