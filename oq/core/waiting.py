"""Why a task does not run yet, in one word and one sentence."""

from __future__ import annotations

import math

import msgspec

from oq.core.model import Status
from oq.core.schedule import Schedule

TEXTS = {
    "scheduled": "it is not to start before its time",
    "retry": "an attempt failed; it is tried again",
    "storage": "the disk refuses writes",
    "draining": "the queue is draining: it starts nothing until `oq resume`, or the next start of its server",
    "paused": "the queue is paused",
    "hosts_down": "no model server answers",
    "model_missing": "the hosts that answer do not have its model; one that does not answer may have it",
    "slots_busy": "every slot that it may take is taken",
    "models": "the hosts with a free slot run as many models as they may (max_loaded_models)",
    "gathers": "its call has room for more embed tasks, and waits for them as long as nothing else waits",
    "next": "nothing holds it back: it starts in a moment",
}


class Waiting(msgspec.Struct, frozen=True):
    """*reason* is a key of `TEXTS`; *until* is Unix seconds; *hosts* are those concerned."""

    reason: str
    until: float | None = None
    error: str | None = None
    hosts: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        return TEXTS[self.reason]


def why_waiting(schedule: Schedule, key: int, storage_error: str | None = None) -> Waiting | None:
    """Return why the task waits; None if it does not. What holds back all tasks comes before what holds back this one."""
    entry = schedule.entries.get(key)
    if entry is None or entry.state.status is Status.RUNNING:
        return None
    state = entry.state
    if state.status is Status.SCHEDULED:
        failed = state.error is not None
        return Waiting("retry" if failed else "scheduled", until=state.run_at, error=state.error)
    if storage_error is not None:
        return Waiting("storage", error=storage_error)
    if schedule.draining:
        return Waiting("draining")
    if schedule.paused:
        return Waiting("paused")
    up = [host for host in schedule.hosts.values() if host.up]
    if not up:
        errors = [host.error for host in schedule.hosts.values() if host.error]
        return Waiting("hosts_down", error=errors[0] if errors else None, hosts=tuple(schedule.hosts))
    able = [host for host in up if entry.model not in host.barred]
    if not able:
        down = [host for host in schedule.hosts.values() if entry.model not in host.barred]
        return Waiting("model_missing", error=down[0].error, hosts=tuple(host.name for host in down))
    free = [host for host in able if host.free > 0]
    if not free:
        return Waiting("slots_busy")
    if not any(host.takes_another_model or entry.affinity in host.in_flight for host in free):
        return Waiting("models", hosts=tuple(host.name for host in free))
    if schedule.gathers_until < math.inf:
        return Waiting("gathers", until=schedule.gathers_until)
    return Waiting("next")
