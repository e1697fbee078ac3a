"""How many requests a second one client may make (`server.rate_limit`).

A client is who holds a token, or an address where there are none. It may make a second's worth at once, and then
one whenever its share of a second has passed; a refused request does not count.
"""

from __future__ import annotations

from collections.abc import Callable

from oq.errors import TooMany

REMEMBERED = 10_000  # clients; who has not been seen for longest is forgotten, and begins anew


class RateLimit:
    """See the module. *rate* is in requests a second, more than 0; *clock* gives seconds."""

    def __init__(self, rate: float, clock: Callable[[], float]) -> None:
        self._rate, self._clock = rate, clock
        self._share = 1 / rate
        self._ahead = max(1.0, rate) / rate  # seconds' worth that may come at once
        self._paid: dict[object, float] = {}  # until when each client's requests are spread out

    def check(self, client: object) -> None:
        """Count a request; raises `TooMany` with the seconds to wait."""
        now = self._clock()
        paid = max(self._paid.pop(client, now), now)
        wait = paid + self._share - self._ahead - now
        refused = wait > 1e-9  # the sum of many shares is not exact
        self._paid[client] = paid if refused else paid + self._share
        if len(self._paid) > REMEMBERED:
            del self._paid[next(iter(self._paid))]
        if refused:
            error = TooMany(
                f"more than {self._rate:g} requests a second (server.rate_limit); try again in {wait:.3g} s"
            )
            error.retry_after = wait
            raise error
