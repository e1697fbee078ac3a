"""What the model servers say of themselves, kept for a few seconds: reading it is cheap and never queues."""

from __future__ import annotations

from collections.abc import Mapping

import trio
from msgspec.structs import replace

from oq.ports import Backend, BackendInfo, Clock

FRESH_SECONDS = 3.0  # no host is asked more often
WAIT_SECONDS = 1.0  # how long a reader waits for news when there is something older to say


class HostFacts:
    """One entry a host. Of any number of readers one asks; the others wait for its answer, or take what is known."""

    def __init__(self, backends: Mapping[str, Backend], clock: Clock) -> None:
        self._backends, self._clock = backends, clock
        self._locks = {name: trio.Lock() for name in backends}
        self._known: dict[str, BackendInfo] = {}
        self._asked_at: dict[str, float] = {}  # Trio's time

    @property
    def known(self) -> Mapping[str, BackendInfo]:
        """What they said last, without asking."""
        return self._known

    async def refresh(self) -> Mapping[str, BackendInfo]:
        """Ask those whose word is old, all at a time, and return what is known then. Never raises."""
        async with trio.open_nursery() as nursery:
            for name in self._backends:
                nursery.start_soon(self._refresh, name)
        return {name: self._known[name] for name in self._backends}

    async def _refresh(self, name: str) -> None:
        with trio.move_on_after(WAIT_SECONDS if name in self._known else float("inf")):
            async with self._locks[name]:
                known, now = self._known.get(name), trio.current_time()
                if known is not None and now - self._asked_at[name] < FRESH_SECONDS:
                    return
                info = await self._backends[name].info()
                if not info.up and known is not None:  # it is out of reach, not without models
                    info = replace(info, version=known.version, models=known.models)
                self._known[name] = replace(info, checked_at=self._clock.now())
                self._asked_at[name] = now
