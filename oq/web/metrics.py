"""Prometheus metrics, read from memory at each scrape."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from oq.wire import priority_name

if TYPE_CHECKING:
    from oq.queue import Queue, Stats


class QueueCollector(Collector):
    """Turns `Queue.stats()` into metric families."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    def collect(self) -> Iterator[Metric]:
        stats = self._queue.stats()
        yield _labelled("oq_tasks", "Stored tasks by status", "status", _by_status(stats))
        waiting = {priority_name(level): count for level, count in stats.by_priority.items()}
        yield _labelled("oq_tasks_pending", "Pending tasks by priority", "priority", waiting)
        yield _labelled("oq_tasks_unfinished_by_type", "Unfinished tasks by type", "type", stats.by_type)
        yield _labelled("oq_tasks_unfinished_by_model", "Unfinished tasks by model", "model", stats.by_model)
        workers = {"active": stats.workers_active, "idle": stats.workers_idle}
        yield _labelled("oq_workers", "Slots for running tasks", "state", workers)
        yield CounterMetricFamily(
            "oq_tasks_finished", "Tasks finished since the start", value=stats.finished_since_start
        )
        yield GaugeMetricFamily(
            "oq_paused", "1 while no task starts because of a pause", value=int(stats.paused)
        )
        yield GaugeMetricFamily("oq_draining", "1 while the queue is draining", value=int(stats.draining))
        yield GaugeMetricFamily(
            "oq_storage_ok", "0 while the disk refuses writes", value=int(stats.storage_ok)
        )
        oldest = stats.oldest_waiting_at
        age = 0.0 if oldest is None else max(0.0, self._queue.clock.now() - oldest)
        yield GaugeMetricFamily("oq_oldest_waiting_seconds", "Age of the oldest pending task", value=age)
        yield GaugeMetricFamily("oq_start_time_seconds", "Unix time of the start", value=stats.started_at)
        yield _labelled(
            "oq_host_up", "1 if the host answers", "host", {h.name: int(h.up) for h in stats.hosts}
        )
        yield _labelled("oq_host_slots", "Slots of the host", "host", {h.name: h.slots for h in stats.hosts})
        yield _labelled("oq_host_busy", "Slots in use", "host", {h.name: h.busy for h in stats.hosts})


def _by_status(stats: Stats) -> dict[str, int]:
    return {
        "pending": stats.pending,
        "scheduled": stats.scheduled,
        "running": stats.running,
        "completed": stats.completed,
        "failed": stats.failed,
        "cancelled": stats.cancelled,
    }


def _labelled(name: str, help: str, label: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, help, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family


def render_metrics(queue: Queue) -> tuple[bytes, str]:
    """Return the text that Prometheus reads, and its content type."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(QueueCollector(queue))
    return generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4
