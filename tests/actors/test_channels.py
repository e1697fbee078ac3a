from __future__ import annotations

import trio
import trio.testing

from oq.actors.channels import put, take_waiting


async def test_put_keeps_its_turn_while_there_is_room() -> None:
    turns: list[str] = []

    async def other() -> None:
        turns.append("other")

    into, out = trio.open_memory_channel[int](2)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        await put(into, 1)
        await put(into, 2)
        turns.append("put")
    assert turns == ["put", "other"]
    assert [out.receive_nowait(), out.receive_nowait()] == [1, 2]


async def test_put_waits_while_there_is_none(autojump_clock: trio.testing.MockClock) -> None:
    into, out = trio.open_memory_channel[int](1)
    await put(into, 1)
    with trio.move_on_after(1) as limit:
        await put(into, 2)
    assert limit.cancelled_caught
    assert take_waiting(out, 5) == [1]


async def test_what_waits_is_taken_in_order_and_only_so_much_of_it() -> None:
    into, out = trio.open_memory_channel[int](5)
    for number in range(5):
        into.send_nowait(number)
    assert take_waiting(out, 3) == [0, 1, 2]
    into.close()
    assert take_waiting(out, 3) == [3, 4]
    assert take_waiting(out, 3) == []
