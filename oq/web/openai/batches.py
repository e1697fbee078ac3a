"""/v1/batches: create, get, list, cancel."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

from oq.dropin.batches import BatchRecord, KeptBatch, read_batch
from oq.dropin.terms import terms_of
from oq.web.exchange import Exchange
from oq.web.openai.library import new_id
from oq.web.openai.lists import JSON, page_of

if TYPE_CHECKING:
    from oq.web.house import House


async def create(house: House, exchange: Exchange, **_: str) -> None:
    """Begin a batch; answered when it is on disk."""
    library = await house.open_library()
    body = await exchange.body()
    asked, window = read_batch(body)
    terms = terms_of(exchange.headers, {}, house.settings, "openai", batch=True)
    now, id = house.queue.clock.now(), new_id("batch_")
    record = BatchRecord(
        id, asked.endpoint, asked.input_file_id, asked.completion_window, "validating", int(now), int(now + window),
        metadata=asked.metadata,
    )  # fmt: skip
    fingerprint = None if terms.idempotency_key is None else hashlib.sha256(body).digest()[:16]
    batch = KeptBatch(
        record, terms.priority, (*terms.tags, f"batch:{id}"), terms.timeout, terms.guard,
        terms.idempotency_key, fingerprint,
    )  # fmt: skip
    kept = await library.add_batch(batch)
    if kept is batch:
        house.runner.start(id)
    await exchange.whole(200, msgspec.json.encode(_shown(house, kept)), JSON)


async def every_batch(house: House, exchange: Exchange, **_: str) -> None:
    """The batches, newest first; ``after``, ``limit``, ``order``."""
    library = await house.open_library()
    shown = [_shown(house, batch) for batch in library.batches.values()]
    await exchange.whole(200, page_of(shown, exchange.query), JSON)


async def one_batch(house: House, exchange: Exchange, id: str) -> None:
    library = await house.open_library()
    await exchange.whole(200, msgspec.json.encode(_shown(house, library.batch(id))), JSON)


async def cancel(house: House, exchange: Exchange, id: str) -> None:
    """Cancel a batch; what is done already is in its output."""
    library = await house.open_library()
    library.batch(id)
    batch = await house.runner.cancel(id)
    await exchange.whole(200, msgspec.json.encode(_shown(house, batch)), JSON)


def _shown(house: House, batch: KeptBatch) -> BatchRecord:
    return msgspec.structs.replace(batch.record, request_counts=house.runner.counts(batch))
