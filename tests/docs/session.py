"""Runs a page's code blocks in order, as a reader would: one shell, one folder, one `oq serve` in the background.

What differs from a reader's machine is said here, once: `oq` is this tree's; the demo's model is fetched only once; the
addresses of oq and of Ollama are those of a free port and of the real model server; after ``oq serve … &`` the shell waits
until the server answers, because a loaded machine is slow.
"""

from __future__ import annotations

import os
import re
import select
import shlex
import subprocess
import sys
from pathlib import Path

from tests.cli.live import environment
from tests.docs.pages import Block

BLOCK_SECONDS = 240.0  # for one block; the model is small and the machine may be busy
_SERVE = re.compile(r"^(oq serve\b.*&)$", re.MULTILINE)


class Reader:
    """A shell in *folder*, which is HOME, too, with the real model server for Ollama."""

    def __init__(self, folder: Path, model_server: str, port: int) -> None:
        self._folder, self._port, self._count = folder, port, 0
        self._addresses = {"localhost:7125": f"localhost:{port}", "http://localhost:11434": model_server}
        programs = folder / "bin"
        programs.mkdir()
        for name, arguments in (("oq", " -m oq"), ("python3", "")):
            program = programs / name
            program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)}{arguments} "$@"\n')
            program.chmod(0o755)
        self._env = environment(
            HOME=str(folder),
            XDG_CACHE_HOME=os.environ.get("XDG_CACHE_HOME")
            or str(Path.home() / ".cache"),  # the demo's model
            PATH=os.pathsep.join([str(programs), os.environ["PATH"]]),
            OLLAMA_HOST=model_server,
            OQ_SERVER__PORT=str(port),
            OQ_URL=f"http://localhost:{port}",
        )
        self._said = folder / "said.txt"
        with self._said.open("wb") as said:
            self._shell = subprocess.Popen(
                ["bash", "--norc", "-eo", "pipefail"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True,
                cwd=folder, env=self._env, start_new_session=True,
            )  # fmt: skip

    def run(self, block: Block) -> str:
        """Run a bash or python block and return what it printed; AssertionError with all output if it fails."""
        self._count += 1
        text = block.text
        for written, real in self._addresses.items():
            text = text.replace(written, real)
        if block.language == "python":
            file = self._folder / f"block{self._count}.py"
            file.write_text(text, encoding="utf-8")
            text = f"python3 {file}"
        else:
            answers = f"until curl -sf localhost:{self._port}/health >/dev/null; do sleep 0.1; done"
            text = _SERVE.sub(rf"\1\n{answers}", text)
        script, printed = self._folder / f"block{self._count}.sh", self._folder / f"block{self._count}.out"
        script.write_text(text + "\n", encoding="utf-8")
        assert self._shell.stdout is not None
        self._tell(f"source {script} </dev/null >{printed}; echo done")
        ready, _, _ = select.select([self._shell.stdout], [], [], BLOCK_SECONDS)
        ended = self._shell.stdout.readline() if ready else "not within the time"
        output = printed.read_text(encoding="utf-8") if printed.exists() else ""
        assert ended == "done\n", (
            f"{block.place} failed:\n{text}\n--- printed:\n{output}\n--- said:\n{self.said()}"
        )
        return output

    def said(self) -> str:
        """Return all that went to standard error so far."""
        return self._said.read_text(encoding="utf-8", errors="replace")

    def _tell(self, line: str) -> None:
        assert self._shell.stdin is not None
        self._shell.stdin.write(line + "\n")
        self._shell.stdin.flush()

    def close(self) -> None:
        """End the shell and what it left in the background."""
        if self._shell.poll() is None:
            try:
                self._tell("kill -KILL $(jobs -p) 2>/dev/null; exit 0")
            except BrokenPipeError:
                pass
        for end in (self._shell.stdin, self._shell.stdout):
            if end is not None:
                end.close()
        try:
            self._shell.wait(10)
        except subprocess.TimeoutExpired:
            self._shell.kill()
            self._shell.wait()
