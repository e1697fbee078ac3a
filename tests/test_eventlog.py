from __future__ import annotations

from typing import Any

import pytest
import trio
import trio.testing

from oq.core.events import EventType, Notice
from oq.errors import SubscriberLagged
from oq.eventlog import EventLog

UP = Notice(EventType.HOST_UP, "h")


def test_events_are_numbered_from_1_and_kept_up_to_the_capacity() -> None:
    log = EventLog(3)
    log.append([UP] * 5, 10.0)
    assert [event.seq for event in log.since(2)] == [3, 4, 5]
    assert log.since(5) == []
    assert log.last == 5


@pytest.mark.parametrize("seq", [0, 1, 6])
def test_events_that_are_gone_or_have_not_been_are_refused(seq: int) -> None:
    log = EventLog(3)
    log.append([UP] * 5, 10.0)
    with pytest.raises(SubscriberLagged, match="read the current state again"):
        log.since(seq)


async def test_every_reader_that_waits_is_woken_by_an_event_and_by_the_end(autojump_clock: Any) -> None:
    log = EventLog(3)
    woken: list[int] = []

    async def wait(number: int) -> None:
        await log.wait_changed()
        woken.append(number)

    for change in (lambda: log.append([UP], 1.0), log.close):
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(wait, number)
            await trio.testing.wait_all_tasks_blocked()
            change()
    assert sorted(woken) == [0, 0, 1, 1, 2, 2]
    assert log.closed
