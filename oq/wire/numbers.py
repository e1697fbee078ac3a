"""The queue and its hosts in numbers, as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import msgspec

from oq.ports import BackendInfo
from oq.wire.scalars import optional_time

_encode = msgspec.json.Encoder().encode


# The classes of `oq.queue` are siblings of this package: it knows them by their attributes.
class HostStatus(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def url(self) -> str: ...
    @property
    def slots(self) -> int: ...
    @property
    def busy(self) -> int: ...
    @property
    def up(self) -> bool: ...
    @property
    def models(self) -> Iterable[str]: ...
    @property
    def error(self) -> str | None: ...


def host_dict(
    host: HostStatus, info: BackendInfo | None = None, *, available: bool = True
) -> dict[str, object]:
    """Return one host; *info* is what it said of itself last, with the list of its models if *available*."""
    found: dict[str, object] = {
        "name": host.name,
        "url": host.url,
        "slots": host.slots,
        "busy": host.busy,
        "up": host.up and (info is None or info.up),
        "models": list(host.models),
        "error": host.error,
    }
    if info is not None:
        found |= {
            "version": info.version,
            "available": info.models if available else None,
            "loaded": info.loaded,
            "error": host.error or info.error,
            "checked_at": optional_time(info.checked_at),
        }
    return {name: value for name, value in found.items() if value is not None}


def hosts_json(hosts: Iterable[HostStatus], infos: Mapping[str, BackendInfo]) -> bytes:
    """Return all hosts with what they say of themselves."""
    return _encode([host_dict(host, infos.get(host.name)) for host in hosts])


def status_json(stats: Any) -> bytes:
    """Return the queue's statistics: the original's fields first, then more."""
    return _encode(status_dict(stats))


def status_dict(stats: Any) -> dict[str, object]:
    return {
        "pending_tasks": stats.pending,
        "running_tasks": stats.running,
        "completed_tasks": stats.completed,
        "failed_tasks": stats.failed,
        "cancelled_tasks": stats.cancelled,
        "total_tasks": stats.total,
        "queues_by_priority": {str(level): n for level, n in stats.by_priority.items()},
        "workers_active": stats.workers_active,
        "workers_idle": stats.workers_idle,
        "scheduled_tasks": stats.scheduled,
        "by_type": dict(stats.by_type),
        "by_model": dict(stats.by_model),
        "paused": stats.paused,
        "draining": stats.draining,
        "storage_ok": stats.storage_ok,
        "oldest_waiting_at": optional_time(stats.oldest_waiting_at),
        "started_at": optional_time(stats.started_at),
        "finished_since_start": stats.finished_since_start,
        "hosts": [host_dict(host) for host in stats.hosts],
    }


def models_json(infos: Mapping[str, BackendInfo]) -> bytes:
    """Return all models of the hosts, by name: who has them, and who has them in memory."""
    found: dict[str, dict[str, Any]] = {}
    for host, info in infos.items():
        for name in info.models:
            model = found.setdefault(name, {"name": name, "hosts": [], "loaded": []})
            model["hosts"].append(host)
            if name in info.loaded:
                model["loaded"].append(host)
    return _encode([found[name] for name in sorted(found)])


def counts_dict(stats: Any) -> dict[str, int]:
    """Return the tab counts of the monitor."""
    return {
        "pending": stats.pending,
        "scheduled": stats.scheduled,
        "running": stats.running,
        "completed": stats.completed,
        "failed": stats.failed,
        "cancelled": stats.cancelled,
    }


def system_dict(stats: Any, infos: Mapping[str, BackendInfo]) -> dict[str, object]:
    """Return what the monitor's head shows: the switches and the hosts."""
    return {
        "paused": stats.paused,
        "draining": stats.draining,
        "storage_ok": stats.storage_ok,
        "workers_active": stats.workers_active,
        "workers_idle": stats.workers_idle,
        "hosts": [host_dict(host, infos.get(host.name), available=False) for host in stats.hosts],
    }
