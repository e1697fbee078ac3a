"""The specs that workers need next, in memory, so that a start waits for no disk.

A start leaves before its task is committed, so its spec may not be on disk yet: such specs are always held. Once
committed they stay as long as they fit into a small budget, because reading one back costs a thread hop and a
database read. Whatever is not here is in the journal.
"""

from __future__ import annotations

from collections.abc import Iterable

from oq.core.messages import Step, Write
from oq.core.model import TaskSpec

BUDGET_BYTES = 16 * 2**20  # of payloads already on disk; 16 MiB hold some 20,000 prompts of usual length
OVERHEAD_BYTES = 400  # of one spec without its payload, measured with tracemalloc on Python 3.11


def _size(spec: TaskSpec) -> int:
    return OVERHEAD_BYTES + len(spec.payload) + len(spec.options or b"")


class Payloads:
    """Written by the scheduler (`hold`) and the writer (`committed`), read by the workers; all in one thread."""

    def __init__(self, budget_bytes: int = BUDGET_BYTES) -> None:
        self._budget = budget_bytes
        self._specs: dict[int, TaskSpec] = {}
        self._used = 0  # bytes of the specs in _specs that are on disk

    def hold(self, writes: Iterable[Write]) -> None:
        """Keep the specs of new tasks until they are committed."""
        for write in writes:
            if write.spec is not None:
                self._specs[write.key] = write.spec

    def get(self, key: int) -> TaskSpec | None:
        return self._specs.get(key)

    def committed(self, step: Step) -> None:
        """It is on disk: let go of what ended or is gone, and of what does not fit."""
        for write in step.writes:
            if write.spec is not None:
                size = _size(write.spec)
                if self._used + size > self._budget or write.state.status.finished:
                    self._specs.pop(write.key, None)
                else:
                    self._used += size
            elif write.state.status.finished:
                self._drop(write.key)
        for key in step.deletes:
            self._drop(key)  # a task that ended and was forgotten in one step has no write

    def _drop(self, key: int) -> None:
        spec = self._specs.pop(key, None)
        if spec is not None:
            self._used -= _size(spec)
