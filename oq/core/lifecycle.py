"""What may follow what in a task's life. One table; the diagram in docs/design.md is drawn from it."""

from __future__ import annotations

from oq.core.model import Status

_S = Status

TRANSITIONS: dict[Status | None, frozenset[Status]] = {
    None: frozenset({_S.PENDING, _S.SCHEDULED}),  # submission
    _S.PENDING: frozenset({_S.PENDING, _S.RUNNING, _S.CANCELLED}),
    _S.SCHEDULED: frozenset({_S.SCHEDULED, _S.PENDING, _S.CANCELLED}),
    # back to pending: the server stopped, or the model server was out of reach
    _S.RUNNING: frozenset({_S.COMPLETED, _S.FAILED, _S.SCHEDULED, _S.PENDING, _S.CANCELLED}),
    _S.COMPLETED: frozenset({_S.PENDING}),  # retry, asked for by a person
    _S.FAILED: frozenset({_S.PENDING}),
    _S.CANCELLED: frozenset({_S.PENDING}),
}


def may_follow(before: Status | None, after: Status) -> bool:
    """Return whether a task in state *before* (None: not there yet) may be in state *after* next.

    >>> may_follow(Status.CANCELLED, Status.RUNNING)
    False
    """
    return after in TRANSITIONS[before]
