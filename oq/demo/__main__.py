"""``python -m oq.demo``: the model server alone, on Ollama's port unless told otherwise."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from pathlib import Path

from oq.demo.knobs import knobs_from
from oq.demo.loading import LoadedModels
from oq.demo.models import models_of
from oq.demo.server import ModelServer
from oq.demo.weights import find_weights
from oq.errors import ConfigError

STOP_POLL_SECONDS = 0.1  # how soon it stops listening when told to


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m oq.demo",
        description="A small real language model that speaks Ollama's protocol.",
        epilog="Ollama's OLLAMA_NUM_PARALLEL, OLLAMA_MAX_QUEUE, OLLAMA_MAX_LOADED_MODELS, OLLAMA_KEEP_ALIVE and "
        "OLLAMA_CONTEXT_LENGTH work here too.",
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=11434, help="0 is any free one")
    parser.add_argument("--weights", type=Path, help="a GGUF file [default: SmolLM2-135M-Instruct]")
    parser.add_argument("--while-stdin", action="store_true", help="end, at once, when standard input does")
    arguments = parser.parse_args()
    if arguments.weights is not None and not arguments.weights.is_file():
        parser.error(f"there is no file {arguments.weights}; --weights wants a GGUF file")
    if arguments.while_stdin:
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    try:
        models = LoadedModels(models_of(arguments.weights or find_weights()), knobs_from(os.environ))
        server = ModelServer(arguments.host, arguments.port, models)
    except ConfigError as error:
        sys.exit(f"error: {error}")
    except OSError as error:
        sys.exit(f"error: cannot serve on {arguments.host}:{arguments.port}: {error}")
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=server.shutdown).start())
    print(f"listening on {server.url}", flush=True)
    try:
        server.serve_forever(STOP_POLL_SECONDS)
    except KeyboardInterrupt:
        pass
    finally:
        models.close()
        server.server_close()


def _end_with_stdin() -> None:
    """Wait for the end of standard input, which whoever started this holds open; then end this and all engines."""
    sys.stdin.buffer.read()
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(0)


if __name__ == "__main__":
    main()
