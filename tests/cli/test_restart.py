"""What a client sees when the server is killed and started again in the middle."""

from __future__ import annotations

import signal
import threading
from pathlib import Path

from fake_ollama import FakeOllama, says, unused_port

from oq.builders import generate
from oq.client import Client
from tests.cli.live import Served


def test_streams_waits_and_events_outlive_a_kill(tmp_path: Path, model_server: FakeOllama):
    port = str(unused_port())
    arguments = ("--port", port, "--ollama-host", model_server.url)
    model_server.default = says("Hel", "lo", pause=600.0)
    served = Served(tmp_path / "data", *arguments)
    items, statuses, seen = [], [], []
    with Client(served.url) as client, client.subscribe() as events:
        id = client.submit(generate("m", "x")).id

        def follow() -> None:
            for item in client.follow(id):
                items.append(item)
                first.set()

        def wait() -> None:
            statuses.append(client.wait(id).status)

        def watch() -> None:
            for event in events:
                seen.append(event.type)
                if event.type == "resync":  # the new server does not know what the old one told: look again
                    return

        first = threading.Event()
        threads = [threading.Thread(target=target) for target in (follow, wait, watch)]
        for thread in threads:
            thread.start()
        assert first.wait(10)
        served.stop(signal.SIGKILL)
        model_server.default = says("Good", "bye")
        served = Served(tmp_path / "data", *arguments)
        for thread in threads:
            thread.join(15)
        served.stop()
    model_server.default = says("Hello", " world")
    assert [item.type for item in items][:2] == ["text", "restart"]
    assert "".join(item.text for item in items[2:]) == "Goodbye"
    assert statuses == ["completed"]
    assert seen[0] == "task_submitted"
    assert seen[-1] == "resync"
