"""When to try again: exponential backoff with a ceiling and jitter."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Backoff between attempts; all times in seconds.

    Attributes:
        initial_delay: pause after the first failed attempt.
        max_delay: no pause is longer, jitter included.
        backoff_factor: each pause is this many times the one before.
        jitter: the pause is changed by up to this fraction, up or down; 0 for none.
    """

    initial_delay: float = 1.0
    max_delay: float = 60.0
    backoff_factor: float = 2.0
    jitter: float = 0.0

    def delay(self, attempt: int, luck: float = 0.5, asked: float = 0.0) -> float:
        """Return the pause in seconds after failed *attempt* (the first is 1); *luck* is in 0–1, 0.5 is neutral.

        *asked* is the least that the model server asked for, and is heeded up to `max_delay`.

        >>> [RetryPolicy(initial_delay=2.0, max_delay=60.0).delay(n) for n in (1, 2, 3, 9)]
        [2.0, 4.0, 8.0, 60.0]
        """
        try:
            pause = self.initial_delay * self.backoff_factor ** (attempt - 1)
        except OverflowError:  # 100.0 ** 155
            pause = self.max_delay if self.initial_delay else 0.0
        # The ceiling comes first: jitter keeps tasks apart also when all of them have reached it.
        pause = min(self.max_delay, pause) * (1 + self.jitter * (2 * luck - 1))
        return min(self.max_delay, max(pause, asked))
