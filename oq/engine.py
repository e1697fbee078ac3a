"""`open_queue`: makes the channels, starts the actors, and ends them in order.

Every channel is bounded, and no cycle of sends that wait exists: intake → scheduler, workers → scheduler,
scheduler → writer, writer → timer, writer → bus, workers → bus. The sends that would close one never wait:
scheduler → workers (below), and timer → scheduler (it rings again later).
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio

from oq.actors.bus import run_bus
from oq.actors.intake import run_intake
from oq.actors.scheduler import run_scheduler
from oq.actors.timer import run_timer
from oq.actors.workers import Workers
from oq.actors.writer import run_writer
from oq.backends.ollama import OllamaBackend
from oq.catalog import Catalog
from oq.clock import WallClock
from oq.config import Settings, settings_from
from oq.core.hosts import Host
from oq.core.ids import IdSource
from oq.core.memo import Memo
from oq.core.messages import Announce, Chunk, Inbound, Request, Start, Step, Stop, WakeAt
from oq.core.retry import RetryPolicy
from oq.core.rules import Rules
from oq.core.schedule import Limits, Schedule
from oq.core.tally import Tally
from oq.errors import OqError, QueueClosed, StorageError
from oq.eventlog import EventLog
from oq.health import Health
from oq.payloads import Payloads
from oq.ports import Backend, Clock, Journal, Offload
from oq.queue import Queue
from oq.store import open_journal
from oq.transcript import Transcripts

log = logging.getLogger(__name__)

REQUESTS = INBOX = STEPS = 64  # enough to keep the next actor busy; more would only hide how far behind it is
EVENTS = 256  # announcements and pieces of text: a burst of 16 fast models between two turns of the bus
PACK_SLACK_BYTES = 2**20  # a file that small is not worth a pack
READERS = 4  # threads that read the journal at a time
STOP_SECONDS = 4.0  # for the last commit and for closing connections, once nothing runs


@asynccontextmanager
async def open_queue(
    storage_path: str | os.PathLike[str] | None = None,
    *,
    settings: Settings | None = None,
    paused: bool = False,
    **overrides: Any,
) -> AsyncIterator[Queue]:
    """Run a queue inside your own Trio program until the block ends.

    Args:
        storage_path: the data folder; made if it is not there.
        settings: whole settings, e.g. from `oq.load_settings`; else the defaults, changed by *overrides*, such as
            ``ollama_host="http://localhost:11434"`` or ``max_workers=4``.
        paused: start no task until `Queue.resume`, also none that waits since the last time.

    At the end of the block what runs is interrupted and stays in the store, to be run at the next start; await
    `Queue.drain` first to let it finish. Raises `StorageLocked` when another process has the folder,
    `StorageDamaged`, `ConfigError`; and the block's own exception, not a group.
    """
    if settings is None:
        if storage_path is not None:
            overrides["storage_path"] = str(Path(storage_path))
        settings = settings_from(**overrides)
    elif storage_path is not None or overrides:
        raise TypeError("give either whole settings, or storage_path and single settings")
    journal = await trio.to_thread.run_sync(open_journal, settings.queue)
    backends = {
        host.name: OllamaBackend(
            host.name,
            host.url,
            connect_timeout=settings.ollama.connect_timeout,
            idle_timeout=settings.ollama.idle_timeout,
            max_result_bytes=settings.queue.max_result_bytes,
        )
        for host in settings.hosts
    }
    async with open_queue_from(settings, journal=journal, backends=backends, paused=paused) as queue:
        yield queue


@asynccontextmanager
async def open_queue_from(
    settings: Settings,
    *,
    journal: Journal,
    backends: Mapping[str, Backend],
    clock: Clock | None = None,
    offload: Offload | None = None,
    paused: bool = False,
) -> AsyncIterator[Queue]:
    """As `open_queue`, with parts of your own; they are closed at the end.

    *offload* runs the journal's blocking calls; tests under an autojump clock run them inline, because that clock
    jumps while a thread works.
    """
    clock = clock or WallClock()
    write = offload or _in_threads(1)
    read = offload or _in_threads(READERS)
    error: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            ended = trio.Event()
            queue, requests = await nursery.start(
                _run_actors, settings, journal, backends, clock, write, read, ended, paused
            )
            try:
                async with trio.open_nursery() as callbacks:
                    queue._callbacks = callbacks
                    callbacks.start_soon(_pack_regularly, journal, settings.queue.pack_interval)
                    if settings.queue.storage:
                        # Ends when the journal is closed; the thread is left to that.
                        callbacks.start_soon(
                            partial(trio.to_thread.run_sync, journal.wait_lost, abandon_on_cancel=True)
                        )
                    try:
                        yield queue
                    except BaseException as caught:
                        error = caught
                        raise
                    finally:
                        callbacks.cancel_scope.cancel()
            finally:
                with trio.move_on_after(STOP_SECONDS, shield=True):
                    await _stop(queue, requests, ended)
                nursery.cancel_scope.cancel()
                queue._end()
    except BaseExceptionGroup as group:
        raise _single(group, error) from None
    finally:
        with trio.CancelScope(shield=True):
            for backend in backends.values():
                with trio.move_on_after(1):
                    await backend.aclose()
            await write(journal.close)


async def _run_actors(
    settings: Settings,
    journal: Journal,
    backends: Mapping[str, Backend],
    clock: Clock,
    write: Offload,
    read: Offload,
    ended: trio.Event,
    paused: bool,
    *,
    task_status: trio.TaskStatus[tuple[Queue, trio.MemorySendChannel[Request]]],
) -> None:
    """Recover, and run the actors until they end; then set *ended*."""
    schedule = make_schedule(settings)
    recovered = await write(journal.recover)
    recovered.paused = recovered.paused or paused
    catalog, tally, health, payloads = Catalog(), Tally(), Health(), Payloads()
    catalog.load(recovered)
    first = schedule.recover(recovered, clock.now())
    history, transcripts = EventLog(settings.server.event_history), Transcripts()
    slots = sum(host.slots for host in schedule.hosts.values())

    requests, requests_out = trio.open_memory_channel[Request](REQUESTS)
    inbox, inbox_out = trio.open_memory_channel[Inbound | Stop](INBOX)
    steps, steps_out = trio.open_memory_channel[Step](STEPS)
    # At most three unread per slot: a late Interrupt for the attempt that just ended, the next Run, its Interrupt;
    # and one Probe per host.
    jobs, jobs_out = trio.open_memory_channel[Start](3 * slots + len(schedule.hosts))
    alarms, alarms_out = trio.open_memory_channel[WakeAt](0)
    events, events_out = trio.open_memory_channel[Announce | Chunk](EVENTS)

    def committed(batch: Sequence[Step]) -> None:
        for step in batch:
            catalog.apply(step)
            tally.apply(step)
            payloads.committed(step)

    ids = IdSource(secrets.randbits(8), recovered.last_key)
    workers = Workers(
        backends,
        payloads,
        journal,
        read,
        settings.ollama.timeout,
        _validates,
        Memo(settings.scheduler.embed_cache_bytes),
    )
    queue = Queue(
        settings,
        epoch=secrets.token_hex(4),
        requests=requests,
        journal=journal,
        catalog=catalog,
        schedule=schedule,
        tally=tally,
        health=health,
        backends=backends,
        history=history,
        transcripts=transcripts,
        clock=clock,
        read=read,
    )
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_bus, events_out, history, transcripts, clock)
            nursery.start_soon(run_timer, alarms_out, inbox.clone(), clock)
            nursery.start_soon(
                run_writer, steps_out, alarms, events.clone(), journal, write, health, committed
            )
            nursery.start_soon(workers.run, jobs_out, inbox.clone(), events)
            nursery.start_soon(run_scheduler, inbox_out, steps, jobs, schedule, first, payloads, clock)
            nursery.start_soon(run_intake, requests_out, inbox, ids, health, clock)
            task_status.started((queue, requests))
    finally:
        ended.set()


async def _stop(queue: Queue, requests: trio.MemorySendChannel[Request], ended: trio.Event) -> None:
    """Interrupt what runs, so that it is pending on disk, then close the door: the actors end one after another."""
    async with trio.open_nursery() as nursery:

        async def drain() -> None:
            try:
                await queue.drain(0)
            except OqError:
                pass  # an actor broke: there is nobody to drain; or the disk refuses, which `ended` waits for
            requests.close()

        nursery.start_soon(drain)
        await ended.wait()
        nursery.cancel_scope.cancel()
    requests.close()


async def _pack_regularly(journal: Journal, interval: float) -> None:
    """Give back disk space, beside everything else, once the file has doubled since the last time."""
    size = journal.size()
    while interval:
        await trio.sleep(interval)
        if journal.size() > 2 * size + PACK_SLACK_BYTES:
            try:
                # Abandoned when the queue stops: a pack that is cut off at any point harms nothing.
                await trio.to_thread.run_sync(journal.pack, abandon_on_cancel=True)
            except StorageError as error:
                log.warning("the data file could not be packed: %s", error)
            size = journal.size()


def make_schedule(settings: Settings) -> Schedule:
    """Return an empty schedule as *settings* describe it."""
    retry, scheduler, queue = settings.retry_config, settings.scheduler, settings.queue
    return Schedule(
        [Host(host.name, host.slots, host.max_loaded_models) for host in settings.hosts],
        RetryPolicy(retry.initial_delay, retry.max_delay, retry.backoff_factor, retry.jitter),
        Rules(
            scheduler.affinity_limit,
            scheduler.affinity_wait,
            scheduler.starvation_after,
            scheduler.starvation_share,
            scheduler.embed_batch,
            scheduler.embed_batch_bytes,
            scheduler.embed_wait,
        ),
        Limits(
            queue.max_pending,
            queue.max_completed_tasks,
            queue.max_completed_age,
            queue.cleanup_interval,
        ),
    )


def _in_threads(limit: int) -> Offload:
    limiter = trio.CapacityLimiter(limit)

    async def offload(function: Any, /, *args: Any) -> Any:
        return await trio.to_thread.run_sync(function, *args, limiter=limiter)

    return offload


async def inline(function: Any, /, *args: Any) -> Any:
    """An `Offload` for tests under an autojump clock: the caller waits, no thread works."""
    await trio.lowlevel.checkpoint()
    return function(*args)


def _single(group: BaseExceptionGroup[BaseException], own: BaseException | None) -> BaseException:
    """Return what really went wrong: the block's own error, or the one actor's; the group only if there are more."""
    leaves = [leaf for leaf in _leaves(group) if not isinstance(leaf, trio.Cancelled)]
    if own is not None and (not leaves or leaves == _leaves(own)):
        return own
    # Callers that find a broken actor's channel closed are not the cause.
    causes = [leaf for leaf in leaves if not isinstance(leaf, QueueClosed)] or leaves
    return causes[0] if len(causes) == 1 else group


def _leaves(error: BaseException) -> list[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]


__all__ = ["inline", "make_schedule", "open_queue", "open_queue_from"]


def _validates(schema: bytes, text: str) -> bool | None:
    from oq.schemas import validates  # takes 0.1 s to import, and most queues never need it

    return validates(schema, text)
