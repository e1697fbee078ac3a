"""What model servers say of themselves is asked rarely, by one reader for all."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from oq.clock import WallClock
from oq.hosts import FRESH_SECONDS, WAIT_SECONDS, HostFacts
from oq.ports import BackendInfo


class Says:
    """A model server that counts the questions and may be slow or down."""

    def __init__(self) -> None:
        self.asked, self.seconds, self.up = 0, 0.1, True

    async def info(self) -> BackendInfo:
        self.asked += 1
        await trio.sleep(self.seconds)
        if not self.up:
            return BackendInfo(False, error="connection refused")
        return BackendInfo(True, "0.32.0", ("a", "b"), ("a",))


@pytest.fixture
def host() -> Says:
    return Says()


@pytest.fixture
async def facts(host: Says) -> HostFacts:
    return HostFacts({"gpu": host}, WallClock())  # type: ignore[dict-item]


async def test_many_readers_cost_one_question(host: Says, facts: HostFacts, autojump_clock: Any) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(50):
            nursery.start_soon(facts.refresh)
    assert host.asked == 1
    assert facts.known["gpu"].models == ("a", "b")


async def test_an_answer_is_good_for_a_few_seconds(host: Says, facts: HostFacts, autojump_clock: Any) -> None:
    await facts.refresh()
    await trio.sleep(FRESH_SECONDS / 2)
    await facts.refresh()
    assert host.asked == 1
    await trio.sleep(FRESH_SECONDS)
    await facts.refresh()
    assert host.asked == 2


async def test_a_host_that_hangs_holds_up_no_reader_who_can_be_told_something_older(
    host: Says, facts: HostFacts, autojump_clock: Any
) -> None:
    await facts.refresh()
    await trio.sleep(FRESH_SECONDS)
    host.seconds = 1000
    began = trio.current_time()
    assert (await facts.refresh())["gpu"].version == "0.32.0"
    assert trio.current_time() - began == pytest.approx(WAIT_SECONDS)


async def test_a_host_out_of_reach_keeps_its_models_and_says_why(
    host: Says, facts: HostFacts, autojump_clock: Any
) -> None:
    before = (await facts.refresh())["gpu"]
    host.up = False
    await trio.sleep(FRESH_SECONDS)
    found = (await facts.refresh())["gpu"]
    assert (found.up, found.models, found.loaded, found.error) == (
        False,
        ("a", "b"),
        (),
        "connection refused",
    )
    assert found.checked_at is not None
    assert before.checked_at is not None
    assert found.checked_at > before.checked_at


async def test_a_reader_who_leaves_while_asking_leaves_no_one_hanging(
    host: Says, facts: HostFacts, autojump_clock: Any
) -> None:
    with trio.move_on_after(host.seconds / 2):
        await facts.refresh()
    with trio.fail_after(5):
        assert (await facts.refresh())["gpu"].up
