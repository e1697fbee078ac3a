"""`oq`, `ollama-queue` and `python -m oq`: imports so little that a Ctrl-C while the rest is imported is heard, too."""

from __future__ import annotations

import sys


def main(prog_name: str | None = None) -> None:
    """Run the command line; *prog_name* is what it calls itself, where that is not the file's name."""
    try:
        from oq.cli import cli

        cli(prog_name=prog_name)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)  # `oq.cli.exits.INTERRUPTED`, which may not be imported yet


if __name__ == "__main__":
    main("oq")
