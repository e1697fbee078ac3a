"""Measure what watching costs: ``python bench/monitors.py [--clients 50] [--changes 20] [--seconds 20]``.

Starts `oq serve` on a fresh folder with 5,000 finished and waiting tasks, makes so many changes a second with and
without monitors connected, and prints the server's CPU for each, their difference, and the bytes a second that a
monitor receives. Each monitor watches the 40 newest rows, as a page at the top of its list does, and one has a
task open.
"""

from __future__ import annotations

import argparse
import json
import selectors
import socket
import tempfile
import threading
import time
from pathlib import Path

from search import body, churn
from server import FakeModel, Server
from watching import connect, send

HERE = Path(__file__).resolve().parent


def read_for(clients: list[socket.socket], seconds: float) -> int:
    """Return how many bytes came in that time."""
    poll, count, until = selectors.DefaultSelector(), 0, time.monotonic() + seconds
    for client in clients:
        client.setblocking(False)
        poll.register(client, selectors.EVENT_READ)
    while (left := until - time.monotonic()) > 0:
        for key, _ in poll.select(left):
            piece = key.fileobj.recv(65536)  # type: ignore[union-attr]
            if not piece:
                raise SystemExit("a monitor was disconnected")
            count += len(piece)
        time.sleep(0.02)
    return count


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--changes", type=int, default=20, help="a second")
    parser.add_argument("--seconds", type=float, default=20)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as top, FakeModel() as model:
        folder = Path(top) / "data"
        folder.mkdir()
        with Server(HERE.parent, str(folder), model.port, 4, "--paused") as server:
            server.ask("POST", "/api/tasks/batch", body(0, 5000))
            ends = threading.Event()
            change = threading.Thread(target=churn, args=(server, given.changes, ends), daemon=True)
            change.start()

            def cpu_share(clients: list[socket.socket]) -> tuple[float, int]:
                began, before = time.monotonic(), server.cpu()
                count = read_for(clients, given.seconds)
                return (server.cpu() - before) / (time.monotonic() - began) * 100, count

            time.sleep(2)
            alone, _ = cpu_share([])
            rows = [task["id"] for task in json.loads(server.ask("GET", "/api/tasks?limit=40"))]
            clients = [connect(server.port) for _ in range(given.clients)]
            for number, client in enumerate(clients):
                send(client, {"type": "watch", "ids": rows, "task": rows[0] if number == 0 else None})
            read_for(clients, 3)
            following = threading.Thread(target=follow, args=(server, clients, ends), daemon=True)
            following.start()
            watched, count = cpu_share(clients)
            ends.set()
            change.join(5)
            following.join(5)
            print(f"{given.clients} monitors, {given.changes} changes/s, {given.seconds:g} s")
            print(f"server CPU without monitors {alone:5.1f} % of a core")
            print(f"server CPU with monitors    {watched:5.1f} %: {watched - alone:.1f} % for the monitors")
            print(f"received by a monitor       {count / given.clients / given.seconds / 1000:5.2f} KB/s")
            print(f"memory                      {server.memory():5.0f} MB")


def follow(server: Server, clients: list[socket.socket], ends: threading.Event) -> None:
    """Keep the newest rows watched, as a page does once a second; the list is asked once for all of them."""
    while not ends.wait(1):
        rows = [task["id"] for task in json.loads(server.ask("GET", "/api/tasks?limit=40"))]
        for client in clients:
            client.setblocking(True)
            send(client, {"type": "watch", "ids": rows, "task": None})
            client.setblocking(False)


if __name__ == "__main__":
    main()
