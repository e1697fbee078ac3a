"""One loaded model: the engine's process and the requests to it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from oq.demo.caller import Caller
from oq.demo.engine_call import EngineCall, EngineLost
from oq.demo.models import Json, Model
from oq.demo.refusals import LOAD_TIMED_OUT, RUNNER_STOPPED, ApiError

LOAD_SECONDS = 300.0  # Ollama's OLLAMA_LOAD_TIMEOUT
# Several engines, the queue and its clients share the cores. llama.cpp's threads wait for one another at every step of
# every layer: with as many as cores, and other work on them, that is 10 times slower than with one thread.
THREADS = min(4, max(1, (os.cpu_count() or 1) // 2))
EXIT_SECONDS = 5.0  # from the end of its output to the end of a process


class Runner:
    """A running engine. Who made it calls `close`.

    The constructor returns when the model is loaded. It raises `ApiError` when that fails, and `Gone`, with the
    load aborted, when the client leaves meanwhile.
    """

    def __init__(self, model: Model, context: int, parallel: int, caller: Caller) -> None:
        self.model = model
        self.context = context  # tokens for each request
        self._process = subprocess.Popen(
            [
                *module_command("oq.demo.engine"),
                *(str(model.weights), str(context), str(parallel)),
                *("1" if model.embeds else "0", str(THREADS)),
            ],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env=module_environment() | {"OMP_WAIT_POLICY": "passive"},  # a thread that waits does not spin
        )  # fmt: skip
        try:
            self._port = self._wait_loaded(caller)
        except BaseException:
            self.close()
            raise

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def call(self, path: str, body: Json, caller: Caller) -> Any:
        """POST *body* as JSON; return the answer's JSON. Raises `ApiError`, `Gone`."""
        with self.open(path, body, caller) as call:
            try:
                return json.loads(call.read())
            except EngineLost:
                raise ApiError(500, RUNNER_STOPPED) from None

    def tokens(self, text: str, caller: Caller, *, special: bool = True) -> list[int]:
        """Return the tokens of *text*; *special*: it holds the marks of the chat format."""
        tokens: list[int] = self.call("/tokenize", {"content": text, "parse_special": special}, caller)[
            "tokens"
        ]
        return tokens

    @contextmanager
    def open(self, path: str, body: Json, caller: Caller) -> Iterator[EngineCall]:
        """POST *body*; give the answer to read, which ends with the block. Leaving early stops the generation."""
        call = EngineCall(self._port, caller)
        try:
            try:
                status = call.send(path, json.dumps(body).encode())
                problem = call.read() if status >= 400 else b""
            except EngineLost:
                raise ApiError(500, RUNNER_STOPPED) from None
            if status >= 400:
                raise ApiError(status, problem.decode(errors="replace"))
            yield call
        finally:
            call.close()

    def close(self) -> None:
        """End the engine at once; harmless when done twice."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _wait_loaded(self, caller: Caller) -> int:
        """Return the engine's port."""
        assert self._process.stdout is not None
        if not caller.wait_readable(self._process.stdout.fileno(), LOAD_SECONDS):
            raise ApiError(500, LOAD_TIMED_OUT)
        port = urlsplit(self._process.stdout.readline().decode().strip()).port
        if port is None:
            try:
                code: int | None = self._process.wait(EXIT_SECONDS)
            except subprocess.TimeoutExpired:
                code = None
            raise ApiError(500, f"llama-server process has terminated: exit status {code}")
        return port


def module_command(name: str) -> list[str]:
    return [sys.executable, "-m", name]


def module_environment() -> dict[str, str]:
    """Return the environment in which `module_command` finds this oq, installed or not."""
    path = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(path), "PYTHONSAFEPATH": "1"}
