"""Embed tasks that ask for the same as one that runs: they take no slot, and get its answer."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

COPIES = (
    512  # that one call takes along: so many tasks end in one step, at most; a further one is computed anew
)

Attempt = tuple[int, int]
"""A task's key and the number of its attempt."""


@dataclasses.dataclass(slots=True)
class Call:
    """A call that runs. *leader* holds the slot; *copies* are, for each of its attempts, those that get its outcome too."""

    host: str
    leader: Attempt
    copies: dict[Attempt, list[Attempt]] = dataclasses.field(default_factory=dict)
    count: int = 0


class Twins:
    """What is being computed now, by what is asked (`oq.core.embedding.Likeness.text`)."""

    def __init__(self) -> None:
        self._calls: dict[Attempt, Call] = {}
        self._computed: dict[bytes, tuple[Call, Attempt]] = {}
        self._texts: dict[Attempt, list[bytes]] = {}  # of each leader, what its call computes
        self._wanted: dict[bytes, None] = {}

    def begin(self, text: bytes, host: str, leader: Attempt, attempt: Attempt) -> None:
        """*attempt* computes *text* in the call of *leader*."""
        call = self._calls.get(leader)
        if call is None:
            call = self._calls[leader] = Call(host, leader)
        self._computed[text] = call, attempt
        self._texts.setdefault(leader, []).append(text)

    def find(self, text: bytes) -> tuple[Call, Attempt] | None:
        """Return the call and the attempt in it that computes *text*; None if none does that takes more along."""
        found = self._computed.get(text)
        return found if found is not None and found[0].count < COPIES else None

    def copy(self, call: Call, attempt: Attempt, twin: Attempt) -> None:
        """*twin* gets the outcome of *attempt*."""
        call.copies.setdefault(attempt, []).append(twin)
        call.count += 1

    def end(self, leader: Attempt) -> Mapping[Attempt, list[Attempt]]:
        """A call has ended. Return who gets a copy of which outcome."""
        call = self._calls.pop(leader, None)
        if call is None:
            return {}
        for text in self._texts.pop(leader):
            found = self._computed.get(text)
            if found is not None and found[0] is call:  # else it is computed anew meanwhile
                del self._computed[text]
        return call.copies

    def note(self, text: bytes | None) -> None:
        """A task that asks for *text* waits now."""
        if text is not None and text in self._computed:
            self._wanted[text] = None

    def take_wanted(self) -> list[bytes]:
        """Return what is computed and was asked for since the last call. No more than is computed."""
        wanted, self._wanted = list(self._wanted), {}
        return wanted
