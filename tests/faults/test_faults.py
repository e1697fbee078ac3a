"""What becomes of a task when its model server misbehaves: status, attempts, code, message and time, row by row."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

import oq
from tests.fake_ollama import FakeOllama, falls_silent, says
from tests.faults.conftest import OpenQueue
from tests.faults.rows import ROWS, Row

PAGE = (Path(__file__).parents[2] / "docs/reference/faults.md").read_text(encoding="utf-8")
IN_FLIGHT = 5.0  # seconds that bytes on the loopback may take beside what the row says


@pytest.mark.slow
@pytest.mark.parametrize("row", ROWS, ids=[row.fault for row in ROWS])
async def test_each_fault_ends_as_the_table_says(
    row: Row, fake: FakeOllama, open_queue: OpenQueue, autojump_clock: object
) -> None:
    fake.default = row.reply
    async with open_queue(fake.url) as queue:
        began = trio.current_time()
        task = await (await queue.submit(oq.generate("llama3.2", "Hi"))).wait()
        took = trio.current_time() - began
    assert (str(task.status), task.state.error_code or "") == (row.ends, row.code)
    assert len(task.state.attempts) == row.attempts
    assert len([request for request in fake.requests if request.path == "/api/generate"]) == row.attempts
    assert task.state.retry_count == row.attempts - 1
    assert row.says in (task.state.error or "")
    assert row.seconds <= took < row.seconds + IN_FLIGHT


def test_the_page_has_this_table() -> None:
    told = [line for line in PAGE.splitlines() if line.startswith("| ") and line.count("|") == 7]
    assert told[1:] == ["| --- | --- | --- | --- | --- | --- |", *(row.line for row in ROWS)]


async def test_a_fault_that_passes_costs_one_retry_and_its_text_is_void(
    fake: FakeOllama, open_queue: OpenQueue, autojump_clock: object
) -> None:
    fake.script(falls_silent("Hel"))
    async with open_queue(fake.url) as queue:
        task = await (await queue.submit(oq.generate("llama3.2", "Hi"))).wait()
    assert (str(task.status), task.output, task.state.retry_count) == ("completed", "Hello world", 1)


async def test_an_idle_timeout_of_0_is_no_bound(
    fake: FakeOllama, open_queue: OpenQueue, autojump_clock: object
) -> None:
    fake.default = says("Hello", first_after=10_000.0)
    async with open_queue(fake.url, ollama__idle_timeout=0, ollama__timeout=0) as queue:
        task = await (await queue.submit(oq.generate("llama3.2", "Hi"))).wait()
    assert str(task.status) == "completed"
