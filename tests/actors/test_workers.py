from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
from fakes import FakeBackend, WatchedJournal

from oq.actors.workers import Workers
from oq.core.memo import Memo
from oq.core.messages import Chunk, Finished, Inbound, Interrupt, Probe, Probed, Run, Start, Step, Stop, Write
from oq.core.model import Failed, Interrupted, Status, Succeeded, TaskSpec, TaskState
from oq.engine import inline
from oq.errors import BackendError
from oq.payloads import Payloads
from oq.ports import Piece

from .conftest import drained

SPEC = TaskSpec("generate", "m", b'{"prompt": "x"}')


class Shop:
    def __init__(self) -> None:
        self.backend = FakeBackend()
        self.journal = WatchedJournal()
        self.payloads = Payloads()
        self.jobs, self.jobs_out = trio.open_memory_channel[Start](100)
        self.inbox, self.inbox_out = trio.open_memory_channel[Inbound | Stop](100)
        self.events, self.events_out = trio.open_memory_channel[Chunk](100)
        self.workers = Workers(
            {"h": self.backend}, self.payloads, self.journal, inline, 60.0, lambda schema, text: None, Memo(0)
        )

    def new(self, key: int) -> Write:
        return Write(key, TaskState(Status.PENDING, 5), SPEC)

    def run(self, key: int, attempt: int = 1, timeout: float | None = None) -> None:
        self.payloads.hold([self.new(key)])
        self.jobs.send_nowait(Run(key, attempt, "h", "generate", "m", timeout))


@asynccontextmanager
async def open_shop() -> AsyncIterator[Shop]:
    shop = Shop()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shop.workers.run, shop.jobs_out, shop.inbox, shop.events)
        async with shop.jobs:
            yield shop
            await trio.testing.wait_all_tasks_blocked()
    shop.journal.close()


async def test_an_attempt_sends_its_text_and_then_how_it_ended(autojump_clock: Any) -> None:
    async with open_shop() as shop:
        shop.run(7, 3)
        message = await shop.inbox_out.receive()
        assert isinstance(message, Finished)
        assert (message.key, message.attempt, type(message.outcome)) == (7, 3, Succeeded)
        assert drained(shop.events_out) == [Chunk(7, 3, "Hel"), Chunk(7, 3, "lo")]


async def test_an_interrupt_stops_the_attempt_it_names_and_no_other(autojump_clock: Any) -> None:
    async with open_shop() as shop:
        shop.backend.close_gate()
        shop.run(1)
        shop.run(2)
        await trio.testing.wait_all_tasks_blocked()
        shop.jobs.send_nowait(Interrupt(1, 1))
        assert await shop.inbox_out.receive() == Finished(1, 1, Interrupted())
        await trio.testing.wait_all_tasks_blocked()
        assert shop.backend.running == 1
        assert drained(shop.inbox_out) == []


async def test_an_interrupt_may_come_before_the_attempt_has_begun(autojump_clock: Any) -> None:
    async with open_shop() as shop:
        shop.run(1)
        shop.jobs.send_nowait(Interrupt(1, 1))
        assert await shop.inbox_out.receive() == Finished(1, 1, Interrupted())
        assert shop.backend.running == 0


async def test_an_interrupt_after_the_end_does_nothing_also_not_to_the_next_attempt(
    autojump_clock: Any,
) -> None:
    async with open_shop() as shop:
        shop.run(1)
        await shop.inbox_out.receive()
        shop.backend.close_gate()
        shop.run(1, attempt=2)
        await trio.testing.wait_all_tasks_blocked()
        shop.jobs.send_nowait(Interrupt(1, 1))
        await trio.testing.wait_all_tasks_blocked()
        assert shop.backend.running == 1
        assert drained(shop.inbox_out) == []


async def test_an_attempt_that_ends_as_its_interrupt_comes_is_reported_once(autojump_clock: Any) -> None:
    for turns in range(8):
        async with open_shop() as shop:
            shop.run(1)
            for _ in range(turns):
                await trio.lowlevel.checkpoint()
            shop.jobs.send_nowait(Interrupt(1, 1))
            await trio.testing.wait_all_tasks_blocked()
            (message,) = drained(shop.inbox_out)
            assert isinstance(message.outcome, Succeeded | Interrupted)


async def test_a_request_that_is_not_in_memory_is_read_from_the_journal(autojump_clock: Any) -> None:
    async with open_shop() as shop:
        shop.journal.commit([Step((shop.new(5),))])
        shop.jobs.send_nowait(Run(5, 1, "h", "generate", "m", None))
        await shop.inbox_out.receive()
        assert shop.backend.seen == [SPEC]


async def test_a_request_that_is_nowhere_fails_its_task_only(autojump_clock: Any) -> None:
    async with open_shop() as shop:
        shop.jobs.send_nowait(Run(5, 1, "h", "generate", "m", None))
        message = await shop.inbox_out.receive()
        assert isinstance(message, Finished)
        assert isinstance(message.outcome, Failed)
        assert (message.outcome.code, message.outcome.retry_limit) == ("internal_error", 0)


async def test_an_error_of_the_model_server_becomes_an_outcome_with_all_its_advice(
    autojump_clock: Any,
) -> None:
    async with open_shop() as shop:
        shop.backend.error = BackendError(
            "gone", "unreachable", retryable=True, retry_limit=4, unreachable=True
        )
        shop.run(1)
        message = await shop.inbox_out.receive()
        assert message == Finished(1, 1, Failed("gone", "unreachable", True, 4, True))


class Endless(FakeBackend):
    """Sends text, and no end."""

    async def run(self, spec: TaskSpec) -> Any:
        for text in self.pieces:
            yield Piece(text)


async def test_an_answer_without_an_end_is_worth_a_retry(autojump_clock: Any) -> None:
    async with open_shop() as shop:
        shop.workers._backends = {"h": Endless()}
        shop.run(1)
        message = await shop.inbox_out.receive()
        assert isinstance(message, Finished)
        assert isinstance(message.outcome, Failed)
        assert (message.outcome.code, message.outcome.retryable) == ("incomplete", True)


@pytest.mark.parametrize("up", [True, False])
async def test_a_probe_is_answered(autojump_clock: Any, up: bool) -> None:
    async with open_shop() as shop:
        shop.backend.reachable = up
        shop.jobs.send_nowait(Probe("h"))
        assert await shop.inbox_out.receive() == Probed("h", up)


async def test_what_still_runs_is_cut_off_at_the_end_and_reports_nothing(autojump_clock: Any) -> None:
    async with open_shop() as shop:
        shop.backend.close_gate()
        shop.run(1)
        await trio.testing.wait_all_tasks_blocked()
    assert shop.backend.running == 0
    assert drained(shop.inbox_out) == []


async def test_a_full_channel_of_text_holds_back_its_own_attempt_and_not_the_interrupts(
    autojump_clock: Any,
) -> None:
    shop = Shop()
    shop.backend.pieces = ["x"] * 10
    shop.events, shop.events_out = trio.open_memory_channel[Chunk](0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shop.workers.run, shop.jobs_out, shop.inbox, shop.events)
        async with shop.jobs:
            shop.run(1)
            await trio.testing.wait_all_tasks_blocked()
            shop.jobs.send_nowait(Interrupt(1, 1))
            with trio.fail_after(1):
                assert await shop.inbox_out.receive() == Finished(1, 1, Interrupted())
    shop.journal.close()


async def test_a_request_that_is_gone_leaves_the_call_to_the_others(autojump_clock: Any) -> None:
    class Embedder(FakeBackend):
        async def run(self, spec: TaskSpec) -> Any:
            self.seen.append(spec)
            yield b'{"embeddings": [[1]]}'

    async with open_shop() as shop:
        backend = Embedder()
        shop.workers._backends = {"h": backend}
        there = TaskSpec("embed", "m", b'{"input": "x"}')
        shop.payloads.hold([Write(2, TaskState(Status.PENDING, 5), there)])
        shop.jobs.send_nowait(Run(1, 1, "h", "embed", "m", None, riders=((2, 1),)))
        message = await shop.inbox_out.receive()
        assert backend.seen == [there]
        assert isinstance(message.outcome, Failed)
        assert message.riders == ((2, 1, Succeeded(b'{"embeddings": [[1]]}')),)


async def test_an_embed_answer_without_an_end_is_worth_a_retry(autojump_clock: Any) -> None:
    async with open_shop() as shop:
        shop.workers._backends = {"h": Endless()}
        shop.payloads.hold(
            [Write(1, TaskState(Status.PENDING, 5), TaskSpec("embed", "m", b'{"input": "x"}'))]
        )
        shop.jobs.send_nowait(Run(1, 1, "h", "embed", "m", None))
        message = await shop.inbox_out.receive()
        assert (message.outcome.code, message.outcome.retryable) == ("incomplete", True)
