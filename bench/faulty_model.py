"""A model server with faults, for the soak: ``python bench/faulty_model.py --port N [--seed S] [--faults 0.15]``.

The scripted fake of the tests, with an answer drawn for each request: most are good and of varied length and speed,
the others are what goes wrong with model servers.
"""

from __future__ import annotations

import argparse
import random
import sys
from pathlib import Path

import trio

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from fake_ollama import (
    Exchange,
    Reply,
    error_line,
    falls_silent,
    open_fake_ollama,
    resets,
    says,
    sends,
    status,
    stops_without_done,
)

FAULTS: list[Reply] = [
    status(503, "server busy, please try again"),
    status(500, "llama runner process has terminated: exit status 2"),
    status(404, "model 'llama3.2' not found"),
    resets(),
    resets("half ", "an "),
    error_line("an error in the middle", "some "),
    stops_without_done("never "),
    falls_silent("and then "),
    sends(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n\r\n{broken\n"),
]


async def main(port: int, seed: int, faults: float) -> None:
    draw = random.Random(seed)

    async with open_fake_ollama(port) as fake:

        async def reply(exchange: Exchange) -> None:
            fake.requests.clear()  # it remembers all, and a soak is long
            if draw.random() < faults:
                await draw.choice(FAULTS)(exchange)
                return
            words = ["word "] * draw.choice((1, 5, 20, 200))
            await says(
                *words, first_after=draw.choice((0.0, 0.02, 0.1)), pause=draw.choice((0.0, 0.0, 0.005))
            )(exchange)

        fake.default = reply
        print(fake.url, flush=True)
        await trio.sleep_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--faults", type=float, default=0.15, help="the share of answers that go wrong")
    given = parser.parse_args()
    trio.run(main, given.port, given.seed, given.faults)
