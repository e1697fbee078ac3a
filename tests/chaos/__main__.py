"""``python -m tests.chaos --kills 1000 --seed 7``, from the root of a checkout: a kill campaign, then its figures.

Exits with 1 when a promise was broken, and says with which seed to begin again. See docs/reliability.md.
"""

from __future__ import annotations

import argparse
import json
import math
import secrets
import sys
import tempfile
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]  # as pytest does

from tests.chaos.campaign import Campaign  # noqa: E402
from tests.chaos.ledger import Broken  # noqa: E402


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--seconds", type=float, default=math.inf, help="no kill later than that")
    parser.add_argument("--seed", type=int, default=None, help="by default a new one, which is told")
    parser.add_argument("--keep", metavar="FOLDER", type=Path, help="leave the data folder there")
    given = parser.parse_args()
    seed = secrets.randbelow(10**6) if given.seed is None else given.seed
    print(f"seed {seed}, {given.kills} kills", flush=True)
    with tempfile.TemporaryDirectory(prefix="oq-chaos-") as folder:
        try:
            figures = Campaign(
                given.keep or Path(folder),
                given.kills,
                seed,
                lambda line: print(line, flush=True),
                given.seconds,
            ).run()
        except Exception as error:  # whatever it is: without the seed it is of no use
            if not isinstance(error, Broken):
                traceback.print_exc()
            print(f"BROKEN: {error}\nagain: python -m tests.chaos --kills {given.kills} --seed {seed}")
            return 1
    print(json.dumps(figures, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
