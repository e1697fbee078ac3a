"""The queue in numbers: counts from the catalog, slots from the schedule, figures since the start from the tally."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Self

import msgspec

from oq.catalog import Catalog
from oq.config import Settings
from oq.core.ids import created_at
from oq.core.model import Status
from oq.core.schedule import Schedule
from oq.core.tally import Tally


class HostStatus(msgspec.Struct, frozen=True):
    """A model server as the schedule sees it; *models* are those in flight, *error* is why it is down."""

    name: str
    url: str
    slots: int
    busy: int
    up: bool
    models: list[str]
    error: str | None = None


class Stats(msgspec.Struct, frozen=True):
    """The queue in numbers, all from memory. Times are Unix seconds.

    `by_priority` counts pending tasks; `by_type` and `by_model` unfinished ones; `ended` those that ended since
    the start, by status; `run_seconds` is the moving average of a successful attempt.

    The names of ``GET /api/status``, which the clients give, are here, too; and the value may be awaited, so that
    ``await queue.stats()`` is the same line for a queue and for a client.
    """

    pending: int
    scheduled: int
    running: int
    completed: int
    failed: int
    cancelled: int
    total: int
    by_priority: dict[int, int]
    by_type: dict[str, int]
    by_model: dict[str, int]
    workers_active: int
    workers_idle: int
    paused: bool
    draining: bool
    oldest_waiting_at: float | None
    started_at: float
    finished_since_start: int
    storage_ok: bool
    hosts: list[HostStatus]
    submitted_since_start: int = 0
    retries_since_start: int = 0
    ended: dict[str, int] = {}
    run_seconds: float | None = None
    storage_bytes: int = -1
    subscribers: int = 0

    def __await__(self) -> Generator[Any, None, Self]:
        yield from ()
        return self

    @property
    def pending_tasks(self) -> int:
        return self.pending

    @property
    def scheduled_tasks(self) -> int:
        return self.scheduled

    @property
    def running_tasks(self) -> int:
        return self.running

    @property
    def completed_tasks(self) -> int:
        return self.completed

    @property
    def failed_tasks(self) -> int:
        return self.failed

    @property
    def cancelled_tasks(self) -> int:
        return self.cancelled

    @property
    def total_tasks(self) -> int:
        return self.total

    @property
    def queues_by_priority(self) -> dict[int, int]:
        return self.by_priority


def stats_of(
    settings: Settings,
    catalog: Catalog,
    schedule: Schedule,
    tally: Tally,
    *,
    started_at: float,
    storage_ok: bool,
    storage_bytes: int,
    subscribers: int,
) -> Stats:
    """Return the numbers as they are now; nothing is read from disk."""
    counts = catalog.counts
    urls = {host.name: host.shown for host in settings.hosts}
    hosts = [
        HostStatus(
            host.name,
            urls.get(host.name, ""),
            host.slots,
            len(host.running),
            host.up,
            sorted(host.in_flight),
            host.error,
        )
        for host in schedule.hosts.values()
    ]
    active = sum(host.busy for host in hosts)
    oldest = catalog.oldest_pending()
    return Stats(
        pending=counts[Status.PENDING],
        scheduled=counts[Status.SCHEDULED],
        running=counts[Status.RUNNING],
        completed=counts[Status.COMPLETED],
        failed=counts[Status.FAILED],
        cancelled=counts[Status.CANCELLED],
        total=sum(counts.values()),
        by_priority=catalog.pending_by_priority(),
        by_type=catalog.unfinished_by_type(),
        by_model=catalog.unfinished_by_model(),
        workers_active=active,
        workers_idle=sum(host.slots for host in hosts) - active,
        paused=schedule.paused,
        draining=schedule.draining,
        oldest_waiting_at=None if oldest is None else created_at(oldest),
        started_at=started_at,
        finished_since_start=sum(tally.ended.values()),
        storage_ok=storage_ok,
        hosts=hosts,
        submitted_since_start=tally.submitted,
        retries_since_start=tally.retries,
        ended={str(status): count for status, count in tally.ended.items()},
        run_seconds=tally.run_seconds,
        storage_bytes=storage_bytes,
        subscribers=subscribers,
    )
