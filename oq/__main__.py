"""`python -m oq` is `oq`."""

from __future__ import annotations

from oq.cli import cli

if __name__ == "__main__":
    cli(prog_name="oq")
