"""The model server of a campaign: late, faulty, and with a memory of everything it was asked."""

from __future__ import annotations

import random
import re
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from fake_ollama import Exchange, error_line, hangs_up, resets, says, status

MARKER = re.compile(rb"task-\d+\.\d+")


@dataclass
class Asked:
    """One request: for which task, when (Unix seconds), in which life of the server, and what came of it."""

    marker: str
    serial: int
    at: float
    life: int
    answered: bool = False


@dataclass
class Model:
    """`reply` is a reply of `fake_ollama`.

    What becomes of a request follows from *seed*, its task, and how often that was asked before: not from the order in
    which requests arrive, which is the machine's. Each life of the server is given an address with its number as the
    path, so each request tells its life.
    """

    seed: int
    asked: list[Asked] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)
    _times: Counter[str] = field(default_factory=Counter)

    async def reply(self, exchange: Exchange) -> None:
        found = MARKER.search(exchange.request.body)
        assert found is not None, exchange.request.body
        life = int(exchange.request.prefix.strip("/"))
        with self.lock:
            asked = Asked(found[0].decode(), len(self.asked), time.time(), life)
            self.asked.append(asked)
            luck = random.Random(f"{self.seed}/{asked.marker}/{self._times[asked.marker]}")
            self._times[asked.marker] += 1
        text = (f"{asked.marker} ", f"answer {asked.serial}")
        late = luck.choice((0.0, 0.0, 0.01, 0.05, 0.3))
        fate = luck.random()
        await exchange.pause(late)
        if fate < 0.10:
            await status(503, "server busy")(exchange)
        elif fate < 0.13:
            await error_line("the runner has stopped", text[0])(exchange)
        elif fate < 0.15:
            await hangs_up(text[0])(exchange)
        elif fate < 0.16:
            # After a first byte. Before it, on a connection that was used before, oq takes a reset for the
            # connection's end and asks again at once: two requests, one attempt.
            await resets(text[0])(exchange)
        elif fate < 0.18:
            await status(400, "this prompt is not liked")(exchange)
        else:
            await says(*text, pause=luck.choice((0.0, 0.02)))(exchange)
            asked.answered = True

    def of_life(self, life: int) -> list[Asked]:
        with self.lock:
            return [asked for asked in self.asked if asked.life == life]
