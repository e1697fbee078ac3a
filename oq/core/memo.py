"""Answers kept in memory, bounded in bytes; the one that was not asked for longest goes first."""

from __future__ import annotations

OVERHEAD_BYTES = 240  # of one answer with its key, measured with tracemalloc on Python 3.11


class Memo:
    """*budget_bytes* of answers and what they cost beside; 0 keeps none."""

    def __init__(self, budget_bytes: int) -> None:
        self._budget = budget_bytes
        self._answers: dict[bytes, bytes] = {}  # the newest use last
        self.used = 0

    def __len__(self) -> int:
        return len(self._answers)

    @property
    def keeps(self) -> bool:
        return self._budget > 0

    def get(self, key: bytes) -> bytes | None:
        answer = self._answers.pop(key, None)
        if answer is not None:
            self._answers[key] = answer
        return answer

    def put(self, key: bytes, answer: bytes) -> None:
        """Keep an answer, unless it alone is larger than the budget."""
        self._drop(key)
        size = OVERHEAD_BYTES + len(answer)
        if size > self._budget:
            return
        self._answers[key] = answer
        self.used += size
        while self.used > self._budget:
            self._drop(next(iter(self._answers)))

    def _drop(self, key: bytes) -> None:
        answer = self._answers.pop(key, None)
        if answer is not None:
            self.used -= OVERHEAD_BYTES + len(answer)
