"""A real `oq serve` process with a fake model server, for tests that use the command line as people do."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty, Queue

import trio
from fake_ollama import FakeOllama, open_fake_ollama

ROOT = Path(__file__).parents[2]
LISTENS = re.compile(r"listens on (https?://\S+)")


@contextmanager
def fake_model_server() -> Iterator[FakeOllama]:
    """Run the fake in a thread of its own."""
    started: Queue[FakeOllama] = Queue()
    tokens: list[tuple[trio.lowlevel.TrioToken, trio.Event]] = []

    async def main() -> None:
        stop = trio.Event()
        tokens.append((trio.lowlevel.current_trio_token(), stop))
        async with open_fake_ollama() as fake:
            started.put(fake)
            await stop.wait()

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    try:
        yield started.get(timeout=10)
    finally:
        token, stop = tokens[0]
        token.run_sync_soon(stop.set)
        thread.join(10)


def environment(**more: str) -> dict[str, str]:
    """Return an environment in which no setting of this machine counts."""
    prefixes = ("OQ_", "QUEUE_", "OLLAMA_", "LOG_", "RETRY_", "SCHEDULER_")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}
    return kept | {"PYTHONPATH": str(ROOT), "HOME": "/nonexistent", "NO_COLOR": "1"} | more


def refused(*arguments: str, **env: str) -> str:
    """Run a server that cannot start; return its one line on stderr."""
    command = [sys.executable, "-m", "oq", "serve", *arguments]
    found = subprocess.run(command, capture_output=True, text=True, env=environment(**env), timeout=30)
    assert found.returncode == 1, found.stderr
    assert "Traceback" not in found.stderr
    (line,) = found.stderr.splitlines()
    return line


class Served:
    """A running `oq serve`."""

    def __init__(self, data: Path, *arguments: str, **env: str) -> None:
        command = [sys.executable, "-m", "oq", "serve", "--port", "0", "--data-dir", str(data), *arguments]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=environment(**env),
            cwd=data.parent,
        )
        self.data = data
        self.said: list[str] = []
        self._lines: Queue[str | None] = Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.url = ""
        try:
            found = self.wait_said(LISTENS)
            assert found is not None, "\n".join(self.said)
        except AssertionError:
            self.stop(signal.SIGKILL)
            raise
        self.url = found[1]

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stderr:
            for line in stderr:
                self._lines.put(line.rstrip())
        self._lines.put(None)

    def wait_said(self, pattern: re.Pattern[str], timeout: float = 20.0) -> re.Match[str] | None:
        """Wait for a line with *pattern* on stderr; None if the process ends without it."""
        while True:
            try:
                line = self._lines.get(timeout=timeout)
            except Empty:
                raise AssertionError(f"no {pattern.pattern!r} in {self.said}") from None
            if line is None:
                self._lines.put(None)
                return None
            self.said.append(line)
            match = pattern.search(line)
            if match:
                return match

    def stop(self, number: int = signal.SIGTERM, timeout: float = 20.0) -> int:
        """Send a signal and return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(timeout)
        self._reader.join(5)
        return code
