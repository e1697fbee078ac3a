"""Intake: the door. It alone gives out ids, and lets nothing in while the disk refuses writes."""

from __future__ import annotations

import logging
from typing import assert_never

import trio

from oq.actors.channels import put, take_waiting
from oq.core.ids import IdSource
from oq.core.messages import (
    Admit,
    Cancel,
    Delete,
    Drain,
    Inbound,
    Keep,
    Pause,
    Reprioritize,
    Request,
    Resume,
    Retry,
    Stop,
    Submit,
)  # fmt: skip
from oq.errors import QueueClosed
from oq.health import Health
from oq.ports import Clock

log = logging.getLogger(__name__)

REQUESTS_PER_TURN = 16


async def run_intake(
    requests: trio.MemoryReceiveChannel[Request],
    inbox: trio.MemorySendChannel[Inbound | Stop],
    ids: IdSource,
    health: Health,
    clock: Clock,
) -> None:
    """Turn requests into messages for the scheduler; own the door and the ids. Ends with its channel."""
    async with requests, inbox:
        async for first in requests:
            for request in (first, *take_waiting(requests, REQUESTS_PER_TURN)):
                if health.storage_error is not None and not isinstance(request, Pause | Resume | Drain):
                    request.reply.send_nowait(health.storage_error)
                    continue
                try:
                    await put(
                        inbox,
                        _admit(request, ids, clock) if isinstance(request, Submit) else _checked(request),
                    )
                except trio.BrokenResourceError:
                    request.reply.send_nowait(QueueClosed("the queue has stopped"))
        try:
            await inbox.send(Stop())
        except trio.BrokenResourceError:
            pass  # the scheduler is gone already


def _admit(request: Submit, ids: IdSource, clock: Clock) -> Admit:
    keys: list[int] = []
    while len(keys) < len(request.specs):
        keys.extend(ids.take(len(request.specs) - len(keys), clock.now()))
    if request.keyed is not None:
        request.keyed(keys)
    return Admit(tuple(keys), request.specs, request.reply, request.atomic)


def _checked(request: Cancel | Reprioritize | Retry | Delete | Keep | Pause | Resume | Drain) -> Inbound:
    """Every other request is a message already; mypy checks that here."""
    match request:
        case Cancel() | Reprioritize() | Retry() | Delete() | Keep() | Pause() | Resume() | Drain():
            return request
        case _:
            assert_never(request)
