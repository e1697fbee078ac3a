"""Runs several commands of `oq` in one process, with bounded memory: ``python -m tests.fuzz.commands`` < JSON.

Standard input is a JSON list of commands, each a list of arguments; one JSON line comes out for each: its exit code, its
seconds, and the last of what it said.
"""

from __future__ import annotations

import contextlib
import io
import json
import resource
import sys
import time
import traceback

MEMORY_MOST = 1_500_000_000  # address space, in bytes
SAID_MOST = 4000


def main() -> None:
    from oq.cli import main as oq

    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_MOST, MEMORY_MOST))
    commands = json.load(sys.stdin)
    for arguments in commands:
        printed, said, sys.stdin = (io.TextIOWrapper(io.BytesIO(), "utf-8") for _ in range(3))
        sys.argv = ["oq", *arguments]
        began, code = time.monotonic(), 0
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(said):
            try:
                oq()
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else int(end.code is not None)
            except BaseException:
                traceback.print_exc()
                code = 1
        line = {
            "code": code,
            "seconds": time.monotonic() - began,
            "said": text_of(said),
            "printed": text_of(printed),
        }
        print(json.dumps(line), flush=True)


def text_of(stream: io.TextIOWrapper) -> str:
    stream.flush()
    stream.seek(0)
    return stream.read()[-SAID_MOST:]


if __name__ == "__main__":
    main()
