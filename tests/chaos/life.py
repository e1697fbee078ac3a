"""One life of the server: a process, from its start to its death."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from tests.cli.live import LISTENS, environment

START_SECONDS = 60.0  # the machine may be busy
FAST = {
    "RETRY_INITIAL_DELAY": "1s",  # many a retry must still be to come when the next life begins
    "RETRY_MAX_DELAY": "3s",
    "OQ_QUEUE__PACK_INTERVAL": "300ms",
    "QUEUE_MAX_COMPLETED_TASKS": "0",
    "LOG_LEVEL": "warning",
}


class Life:
    """A running `oq serve`; *url* is empty when it died before it listened.

    *module* is what stands between it and the world, *env* the variables that it reads.
    """

    def __init__(self, data: Path, model_url: str, workers: int, module: str, **env: str) -> None:
        self.began_at = time.time()
        self.said: list[str] = []
        self.url = ""
        self._heard = threading.Event()
        command = [
            sys.executable, "-m", module, "serve", "--port", "0", "--data-dir", str(data),
            "--ollama-host", model_url, "--workers", str(workers),
        ]  # fmt: skip
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            cwd=data.parent,
            env=environment(**FAST | env),
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._heard.wait(START_SECONDS):
            self.stop()
            raise AssertionError(f"silent after {START_SECONDS} s: {self.said}")

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as stderr:
            for line in stderr:
                self.said.append(line.rstrip())
                found = re.search(LISTENS, line)
                if found:
                    self.url = found[1]
                    self._heard.set()
        self._heard.set()

    def wait_dead(self, seconds: float) -> bool:
        """Return whether it died by itself within *seconds*."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self, number: int = signal.SIGKILL, seconds: float = 30.0) -> int:
        """Send a signal, wait for the end; return the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(seconds)
        self._reader.join(10)
        return code
