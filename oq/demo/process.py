"""The model server as a process of its own, which cannot outlive the one that started it."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import tempfile
import threading
from collections.abc import Mapping
from typing import IO

from oq.demo.runner import module_command, module_environment
from oq.demo.weights import find_weights
from oq.errors import ServerError

START_SECONDS = 60.0
STOP_SECONDS = 5.0
SAID_BYTES = 4_096  # of what it said when it did not start
_LISTENS = re.compile(rb"listening on (http://\S+)")


class RunningServer:
    """A model server at `url`, until `stop`, or until this process ends, even by SIGKILL.

    `pid` is its process, which leads a process group of its own; its engines are in it.
    """

    def __init__(self, process: subprocess.Popen[bytes], said: IO[bytes]) -> None:
        self._process = process
        self.pid = process.pid
        self._said = said
        self._stopping = threading.Lock()
        try:
            self.url = self._wait_listening()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End it and its engines; harmless when done twice."""
        with self._stopping:
            assert self._process.stdin is not None
            self._process.stdin.close()  # which it takes as the sign to end
            try:
                self._process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(self.pid, signal.SIGKILL)
                self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()
            self._said.close()

    def _wait_listening(self) -> str:
        assert self._process.stdout is not None
        poller = select.poll()
        poller.register(self._process.stdout, select.POLLIN)
        line = self._process.stdout.readline() if poller.poll(START_SECONDS * 1000) else b""
        found = _LISTENS.search(line)
        if found is None:
            self._said.seek(0)
            words = self._said.read(SAID_BYTES).decode(errors="replace").strip()
            raise ServerError(f"the model server did not start: {words or 'it says nothing'}")
        return found[1].decode()


def start_model_server(knobs: Mapping[str, str] | None = None) -> RunningServer:
    """Start a model server on a free port of 127.0.0.1 and return when it listens.

    Fetches the weights first if they are not on this machine. *knobs*: Ollama's environment variables for it, such
    as ``{"OLLAMA_NUM_PARALLEL": "4"}``; those of this process are not passed on. Raises `ConfigError`, `ServerError`.
    """
    weights = find_weights()
    kept = {name: value for name, value in module_environment().items() if not name.startswith("OLLAMA_")}
    said = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop
    try:
        process = subprocess.Popen(
            [*module_command("oq.demo"), "--port", "0", "--weights", str(weights), "--while-stdin"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, env=kept | dict(knobs or {}),
            start_new_session=True,  # Ctrl-C in a terminal reaches who started it, who stops it
        )  # fmt: skip
    except BaseException:
        said.close()
        raise
    return RunningServer(process, said)
