"""The whole queue under bad luck: slow and failing commits, failures, cancels, at channel sizes 0, 1 and 64."""

from __future__ import annotations

import random
from typing import Any

import pytest
import trio
import trio.testing
from fakes import FakeBackend, WatchedJournal, open_fake_queue

import oq
from oq import engine
from oq.core.task import Task
from oq.errors import BackendError, OqError, StorageError, StorageFull
from oq.ports import Piece
from oq.queue import Queue

SEEDS = 30
TASKS = 20
DEADLINE = 10_000.0  # of virtual time: whatever is not done by then never will be


class Unlucky(FakeBackend):
    def __init__(self, luck: random.Random) -> None:
        super().__init__()
        self.luck = luck
        self.ended: dict[str, int] = {}

    async def run(self, spec: Any) -> Any:
        luck = self.luck
        await trio.sleep(luck.choice([0.0, 0.0, 0.01, 1.0]))
        yield Piece("Hel")
        await trio.sleep(luck.choice([0.0, 0.01, 1.0]))
        fate = luck.random()
        if fate < 0.15:
            raise BackendError("busy", "busy", retryable=True)
        if fate < 0.2:
            raise BackendError("no such model", "model_not_found")
        if fate < 0.3:
            raise BackendError("gone", "unreachable", retryable=True, unreachable=True)
        if fate < 0.33:
            raise ZeroDivisionError
        yield b'{"response": "Hello", "done": true}'


async def end(queue: Queue, number: int, luck: random.Random, found: list[Task]) -> None:
    await trio.sleep(luck.choice([0.0, 0.0, 0.01, 2.0]))
    while True:
        try:
            handle = await queue.submit(
                oq.generate(f"m{number % 3}", str(number), priority=number % 4, idempotency_key=str(number))
            )
            break
        except StorageError:
            await trio.sleep(1.0)
    if luck.random() < 0.3:
        await trio.sleep(luck.choice([0.0, 0.005, 0.02, 0.5]))
        try:
            await handle.cancel()
        except OqError:
            pass  # finished, or the disk refused
    if luck.random() < 0.2:
        async for _ in queue.follow(handle.key):
            await trio.sleep(luck.choice([0.0, 1.0]))
    found.append(await handle.wait())


@pytest.mark.slow
@pytest.mark.parametrize("size", [0, 1, 64])
def test_nothing_deadlocks_and_every_task_ends_once(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    for name in ("REQUESTS", "INBOX", "STEPS", "EVENTS"):
        monkeypatch.setattr(engine, name, size)
    for seed in range(SEEDS):
        trio.run(one_run, seed, clock=trio.testing.MockClock(autojump_threshold=0))


async def one_run(seed: int) -> None:
    luck = random.Random(seed)
    journal, backend = WatchedJournal(), Unlucky(luck)

    async def disk(function: Any, /, *args: Any) -> Any:
        await trio.sleep(luck.choice([0.0, 0.0, 0.005, 0.1]))
        if function == journal.commit and luck.random() < 0.05:
            raise StorageFull("the store cannot be written: No space left on device")
        return function(*args)

    found: list[Task] = []
    ends: dict[int, int] = {}
    with trio.move_on_after(DEADLINE) as limit:
        async with open_fake_queue(
            backend, journal, offload=disk, max_workers=2, request_timeout=5000.0
        ) as queue:
            async with trio.open_nursery() as nursery:
                for number in range(TASKS):
                    nursery.start_soon(end, queue, number, luck, found)
            async with queue.subscribe(after=0) as events:
                async for event in events:
                    if str(event.type) in ("task_completed", "task_failed", "task_cancelled"):
                        ends[event.what.key] = ends.get(event.what.key, 0) + 1  # type: ignore[union-attr]
                    if event.seq == queue.last_event:
                        break
            stats = await queue.status()
    assert not limit.cancelled_caught, f"seed {seed}: stuck"
    assert len(found) == TASKS
    assert all(task.status.finished for task in found)
    assert ends == {task.key: 1 for task in found}, f"seed {seed}: not each task ended once"
    assert (stats.total, stats.workers_active) == (TASKS, 0)
