"""Idempotency keys: the callers' own names for their submissions, as long as the tasks are stored. No I/O."""

from __future__ import annotations

from oq.core.ids import format_id
from oq.core.model import TaskSpec
from oq.errors import IdempotencyConflict


class IdempotencyKeys:
    """Which task each stands for, and the digest of its request."""

    def __init__(self) -> None:
        self._tasks: dict[str, tuple[int, bytes]] = {}
        self._names: dict[int, str] = {}  # the same, by task key

    def __contains__(self, name: str) -> bool:
        return name in self._tasks

    def known(self, spec: TaskSpec) -> int | IdempotencyConflict | None:
        """Return the task that this submission is already, or that its name stands for another one."""
        if spec.idempotency_key is None or spec.idempotency_key not in self._tasks:
            return None
        key, fingerprint = self._tasks[spec.idempotency_key]
        if fingerprint != (spec.fingerprint or b""):
            return IdempotencyConflict(
                f"the Idempotency-Key {spec.idempotency_key!r} was used for another request (task {format_id(key)}); "
                "use a new key for a new request"
            )
        return key

    def remember(self, name: str, key: int, fingerprint: bytes) -> None:
        self._tasks[name] = (key, fingerprint)
        self._names[key] = name

    def forget(self, key: int) -> None:
        """The task is gone, and its name is free again."""
        name = self._names.pop(key, None)
        if name is not None:
            del self._tasks[name]
