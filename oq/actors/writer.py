"""Writer: the only code that commits. A promise leaves it only when it is on disk."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import msgspec
import trio

from oq.actors.channels import put, take_waiting
from oq.core.messages import Announce, Respond, Step, WakeAt
from oq.errors import StorageError, StorageLocked
from oq.health import Health
from oq.ports import Journal, Offload

log = logging.getLogger(__name__)

BATCH_STEPS = 512  # at most in one commit: bounds how long the first of them waits for the last
START_TURNS = 3  # the starts of the same step go first: a commit takes the interpreter from them
RETRY_SECONDS = 1.0  # between two attempts at a commit that the disk refused


async def run_writer(
    steps: trio.MemoryReceiveChannel[Step],
    alarms: trio.MemorySendChannel[WakeAt],
    events: trio.MemorySendChannel[Announce],
    journal: Journal,
    offload: Offload,
    health: Health,
    committed: Callable[[Sequence[Step]], None],
) -> None:
    """Commit steps in groups, then release their answers, events and alarm, in order; own the journal's writing side.

    While the disk refuses, the callers concerned get a `StorageError`, the door is closed (`health`), and the same
    steps are tried again until they are on disk: what was acknowledged before, and what runs, is never forgotten.
    Raises `StorageLocked` when somebody else has taken the store: then nothing here is true any more.
    """
    async with steps, alarms, events:
        async for first in steps:
            for _ in range(START_TURNS):
                await trio.lowlevel.checkpoint()
            batch = [first, *take_waiting(steps, BATCH_STEPS - 1)]
            if any(step.for_disk for step in batch):
                await _commit(batch, steps, journal, offload, health)
                committed(batch)
            await _release(batch, alarms, events)


async def _commit(
    batch: list[Step],
    steps: trio.MemoryReceiveChannel[Step],
    journal: Journal,
    offload: Offload,
    health: Health,
) -> None:
    while True:
        try:
            await offload(journal.commit, batch)
        except StorageError as error:
            if health.storage_error is None:
                log.error("the store refuses writes: %s; oq accepts nothing and keeps trying", error)
            health.storage_error = error
            _refuse(batch, error)
            if isinstance(error, StorageLocked):
                raise
            await trio.sleep(RETRY_SECONDS)
            batch += take_waiting(
                steps, BATCH_STEPS - len(batch)
            )  # who passed the door before it closed must not wait for the disk either
        else:
            if health.storage_error is not None:
                log.warning("the store takes writes again")
                health.storage_error = None
            return


def _refuse(batch: list[Step], error: StorageError) -> None:
    """Answer the callers of *batch* now: they must not wait for a disk that may stay full for hours."""
    for number, step in enumerate(batch):
        for effect in step.effects:
            if isinstance(effect, Respond):
                effect.reply.send_nowait(error)
        rest = tuple(effect for effect in step.effects if not isinstance(effect, Respond))
        batch[number] = msgspec.structs.replace(step, effects=rest)


async def _release(
    batch: list[Step], alarms: trio.MemorySendChannel[WakeAt], events: trio.MemorySendChannel[Announce]
) -> None:
    alarm: WakeAt | None = None
    for step in batch:
        for effect in step.effects:
            match effect:
                case Announce():
                    await put(events, effect)
                case Respond():
                    effect.reply.send_nowait(effect.answer)
                case WakeAt():
                    alarm = effect  # the last one holds
    if alarm is not None:
        await alarms.send(alarm)
