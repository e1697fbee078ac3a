"""Do one thing to many tasks, named one by one or by a filter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from oq.access import Access
from oq.core.ids import format_id
from oq.errors import OqError, TaskConflict
from oq.wire import BulkRequest

AT_ONCE = 1000  # tasks in one message, so that a large request leaves others their turn


async def run_bulk(queue: Access, asked: BulkRequest) -> tuple[int, int, list[tuple[str, OqError]]]:
    """Return how many matched, how many were done, and the id and the reason of each that was not.

    With *expect*, another number of matches is a conflict and nothing is done.
    """
    skipped: list[tuple[str, OqError]] = []
    if asked.ids is not None:
        keys = []
        for id in dict.fromkeys(asked.ids):
            try:
                keys.append(queue.resolve(id))
            except OqError as error:
                skipped.append((id[:100], error))
        keys = list(dict.fromkeys(keys))
        matched = len(keys)
    else:
        assert asked.query is not None
        keys = await queue.matching(asked.query)
        matched = len(keys)
    if asked.expect is not None and asked.expect != matched:
        raise TaskConflict(f"{matched} tasks match now, not {asked.expect}; look again, then repeat")
    done = 0
    for first in range(0, len(keys), AT_ONCE):
        part = keys[first : first + AT_ONCE]
        for key, outcome in zip(part, await _act(queue, asked, part), strict=True):
            if isinstance(outcome, OqError):
                skipped.append((format_id(key), outcome))
            else:
                done += 1
    return matched, done, skipped


async def _act(queue: Access, asked: BulkRequest, keys: Sequence[int]) -> Sequence[Any]:
    match asked.action:
        case "cancel":
            return await queue.cancel_many(keys)
        case "retry":
            return await queue.retry_many(keys)
        case "delete":
            return await queue.delete_many(keys)
        case _:
            assert asked.priority is not None
            return await queue.reprioritize_many(keys, asked.priority)
