"""A server among rude clients: ``python bench/rude.py [--monitors 1000] [--stalled 200] [--slow 500] [--idle 10000]``.

Starts `oq serve` on a fresh folder with tasks that write text all the time, and measures durable single submits over 16
connections: alone, beside each kind of a crowd (tests/rude_clients.py) on top of the one before, and then, *rounds* times, alone
and beside all of them in turn. On a shared machine only the ratio within a round means something. Clients also leave
at every stage of every kind of request while it measures, and at the end the server is stopped with the crowd there. Prints
rates, the server's CPU, memory and descriptors. The bounds of the server are its defaults, but for the number of subscribers.

Readers that stall are cut off after `server.send_timeout`, so those are opened anew before each measurement: half of them
read a task's text, half the events.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from server import HERE, FakeModel, Server, hammer

sys.path.insert(0, str(HERE.parent / "tests"))

from rude_clients import Crowd, crowd, leave_at_every_stage

GRACE = 10.0
KINDS = {"monitors": 1000, "stalled": 200, "slow": 500, "idle": 10_000}
TALKERS = 4
# 4 kB five times a second for each talker, for half an hour.
TALK = ("--tokens", "9000", "--token-ms", "200", "--padding", "4000")


def rate(port: int, count: int) -> float:
    """Return durable submits a second, from a process of its own."""
    command = [sys.executable, __file__, "--hammer", str(port), str(count)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


class Bench:
    def __init__(self, server: Server, given: argparse.Namespace) -> None:
        self._server, self._given = server, given
        self.left = 0

    def begin_talking(self) -> None:
        """Have tasks that write text, and start nothing more."""
        for _ in range(TALKERS):
            self._server.submit(1)
        while json.loads(self._server.ask("GET", "/api/status"))["running_tasks"] < TALKERS:
            time.sleep(0.05)
        self._server.ask("POST", "/api/queue/pause", b"{}")
        rows = json.loads(self._server.ask("GET", "/api/tasks?status=running"))
        self._texts = [f"/api/tasks/{row['id']}/stream" for row in rows]

    def measure(self, name: str) -> tuple[float, float]:
        """Print and return submits a second and the server's CPU for each, in ms."""
        server, count = self._server, self._given.count
        before, began = server.cpu(), time.monotonic()
        time.sleep(2)
        beside = (server.cpu() - before) / (time.monotonic() - began)
        before = server.cpu()
        found = rate(server.port, count)
        cost = (server.cpu() - before) / count * 1000
        files = len(os.listdir(f"/proc/{server.process.pid}/fd"))
        print(
            f"{name:28} {found:6.0f} submits/s {cost:6.2f} ms CPU each {beside:5.0%} CPU without any "
            f"{server.memory():6.0f} MB, {files:6,d} descriptors",
            flush=True,
        )
        return found, cost

    def settle(self) -> None:
        """Wait until the server has closed what is left of a crowd: ten thousand connections take some seconds."""
        cpu = self._server.cpu()
        for _ in range(120):
            time.sleep(1)
            before, cpu = cpu, self._server.cpu()
            if cpu - before < 0.2:
                return

    def add(self, rude: Crowd, kind: str) -> None:
        number = getattr(self._given, kind)
        if kind == "stalled":
            rude.stalled(number - number // 2, *self._texts)
            rude.stalled(number // 2)
        else:
            getattr(rude, kind)(number)

    @contextmanager
    def leaving(self) -> Iterator[None]:
        """Have clients leave at every stage, over and over."""
        over = threading.Event()

        def leave() -> None:
            while not over.is_set():
                self.left += leave_at_every_stage(self._server.port, 40)
                over.wait(0.5)

        thread = threading.Thread(target=leave)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, number in (*KINDS.items(), ("count", 3000), ("rounds", 3)):
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--hammer", nargs=2, type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.hammer:
        port, count = given.hammer
        began = time.monotonic()
        hammer(port, 16, count)
        print(count / (time.monotonic() - began))
        return
    with tempfile.TemporaryDirectory() as top, FakeModel(0, *TALK) as model:
        folder = Path(top) / "data"
        folder.mkdir()
        most = str(given.monitors + 3 * given.stalled + 100)
        server = Server(
            HERE.parent, str(folder), model.port, TALKERS,
            OQ_SERVER__MAX_SUBSCRIBERS=most, OQ_OLLAMA__TIMEOUT="0", OQ_LOGGING__LEVEL="warning",
        )  # fmt: skip
        bench = Bench(server, given)
        bench.begin_talking()
        rate(server.port, 500)
        with crowd(server.port) as rude:
            bench.measure("alone")
            for kind in KINDS:
                bench.add(rude, kind)
                bench.measure(f"and {getattr(given, kind):,} {kind}")
        rates, costs = [], []
        for number in range(given.rounds):
            bench.settle()
            quiet, quiet_cost = bench.measure(f"round {number + 1}: alone")
            with crowd(server.port) as rude:
                for kind in ("monitors", "slow", "idle", "stalled"):
                    bench.add(rude, kind)
                with bench.leaving():
                    loud, loud_cost = bench.measure(f"round {number + 1}: all of them")
                rates.append(loud / quiet)
                costs.append(loud_cost / quiet_cost)
                if number < given.rounds - 1:
                    continue
                print(
                    f"beside the crowd submits keep {statistics.median(rates):.0%} of their rate (median), and cost "
                    f"{statistics.median(costs):.1f} times the CPU; {bench.left:,} clients left in the middle"
                )
                began = time.monotonic()
                server.process.send_signal(signal.SIGTERM)
                server.process.wait(60)
                print(f"stopped in {time.monotonic() - began:.1f} s with the crowd there (grace {GRACE:g} s)")
        errors = [
            line
            for line in Path(server.log.name).read_text().splitlines()
            if " ERROR " in line or "Error" in line
        ]
        print("\n".join([f"errors in the log: {len(errors)}", *errors[:5]]))


if __name__ == "__main__":
    main()
