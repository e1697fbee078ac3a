"""A server among rude clients: ``python bench/rude.py [--monitors 1000] [--stalled 200] [--slow 500] [--idle 10000]``.

Starts `oq serve` on a fresh folder, measures durable single submits over 16 connections alone, then opens the
crowd (tests/rude_clients.py), measures again beside each kind and beside all of them, has clients leave at every
byte of every kind of request, and stops the server with the crowd still there. Prints rates, memory, descriptors and
how long the stop took. The bounds of the server are its defaults, but for the number of subscribers.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from server import HERE, FakeModel, Server, hammer

sys.path.insert(0, str(HERE.parent / "tests"))

from rude_clients import crowd, leave_at_every_stage

GRACE = 10.0


def rate(port: int, count: int) -> float:
    """Return durable submits a second, from a process of its own."""
    command = [sys.executable, __file__, "--hammer", str(port), str(count)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def figures(server: Server) -> str:
    files = len(os.listdir(f"/proc/{server.process.pid}/fd"))
    return f"{server.memory():6.0f} MB, {files:6,d} descriptors"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name, number in (
        ("monitors", 1000),
        ("stalled", 200),
        ("slow", 500),
        ("idle", 10_000),
        ("count", 3000),
    ):
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--hammer", nargs=2, type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.hammer:
        port, count = given.hammer
        began = time.monotonic()
        hammer(port, 16, count)
        print(count / (time.monotonic() - began))
        return
    with tempfile.TemporaryDirectory() as top, FakeModel() as model:
        folder = Path(top) / "data"
        folder.mkdir()
        most = str(given.monitors + given.stalled + 100)
        server = Server(HERE.parent, str(folder), model.port, 4, "--paused", OQ_SERVER__MAX_SUBSCRIBERS=most)
        with crowd(server.port) as rude:

            def measure(name: str) -> None:
                before, began = server.cpu(), time.monotonic()
                time.sleep(3)
                beside = (server.cpu() - before) / (time.monotonic() - began)
                before = server.cpu()
                found = rate(server.port, given.count)
                cost = (server.cpu() - before) / given.count * 1000
                print(
                    f"{name:24} {found:6.0f} submits/s {cost:6.2f} ms CPU each {beside:5.0%} CPU without any "
                    f"{figures(server)}",
                    flush=True,
                )

            rate(server.port, 500)
            measure("alone")
            for kind in ("monitors", "stalled", "slow", "idle"):
                number = getattr(given, kind)
                if number:
                    getattr(rude, kind)(number)
                    measure(f"and {number:,} {kind}")
            left = leave_at_every_stage(server.port, 4)
            measure(f"after {left:,} that left")
            began = time.monotonic()
            server.process.send_signal(signal.SIGTERM)
            server.process.wait(60)
            print(f"stopped in {time.monotonic() - began:.1f} s with the crowd there (grace {GRACE:g} s)")
            log = Path(server.log.name).read_text()
            errors = [line for line in log.splitlines() if " ERROR " in line or "Error" in line]
            print("\n".join([f"errors in the log: {len(errors)}", *errors[:5]]))


if __name__ == "__main__":
    main()
