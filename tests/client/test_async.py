"""The asynchronous client runs the same flows: on Trio and on asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import httpx
import pytest
import trio

from oq import errors
from oq.builders import chat, generate
from oq.client import AsyncClient
from tests.client.conftest import QUICK, Broken, Script
from tests.client.test_client import END, REFUSED, SUBMITTED, TASK, lines, reply, sse, text, told

Body = Callable[[AsyncClient], Awaitable[Any]]


@pytest.fixture(params=["trio", "asyncio"])
def run(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Run a function with a client whose server says these replies, on either loop."""

    def start(body: Body, *replies: Any) -> Any:
        async def main() -> Any:
            transport = httpx.MockTransport(Script(*replies))
            async with AsyncClient("http://oq.test", patience=QUICK, transport=transport) as client:
                return await body(client)

        return trio.run(main) if request.param == "trio" else asyncio.run(main())

    return start


def test_an_atomic_batch_with_a_wrong_task_raises_what_is_wrong_with_it(run):
    with pytest.raises(errors.InvalidTask, match="task 3: payload: it is missing"):
        run(lambda client: client.submit_many([generate("m", "a")] * 3, atomic=True), reply(422, REFUSED))


def test_a_task_is_submitted_and_its_result_awaited(run):
    async def body(client: AsyncClient) -> Any:
        handle = await client.submit(chat("m", "hi"))
        return await handle.result()

    assert run(body, httpx.ReadError("x"), reply(201, SUBMITTED), reply(202), reply(200, TASK)) == {
        "done": True
    }


def test_text_streams_and_resumes(run):
    async def body(client: AsyncClient) -> list[str]:
        return [piece async for piece in client.stream("abc")]

    broken = httpx.Response(200, stream=Broken(lines(text("Hel", 0))))
    assert run(body, broken, httpx.Response(200, content=lines(text("Hello", 0), END))) == ["Hel", "lo"]


def test_events_reconnect(run):
    async def body(client: AsyncClient) -> list[str]:
        seen = []
        async with client.subscribe() as events:
            async for event in events:
                seen.append(event.type)
                if len(seen) == 2:
                    return seen
        return seen

    first = told(stream=Broken(sse(1, "task_started")))
    assert run(body, first, told(content=sse(2, "task_completed"))) == [
        "task_started",
        "task_completed",
    ]


def test_a_batch_calls_back_for_each_task(run):
    seen = []

    async def note(task: Any) -> None:
        seen.append(task.id)

    async def body(client: AsyncClient) -> Any:
        return await client.run_batch([generate("m", "a")] * 2, callback=note)

    items = [{"index": 0, "task_id": "a"}, {"index": 1, "error": "no", "code": "queue_full"}]
    done, refused = run(
        body, reply(200, {"submitted": 1, "failed": 1, "items": items}), reply(200, TASK | {"id": "a"})
    )
    assert done == {"done": True}
    assert isinstance(refused, errors.QueueFull)
    assert seen == ["a"]


def test_a_callback_gets_the_finished_task(run):
    async def body(client: AsyncClient) -> str:
        called, done = [], anyio.Event()

        def note(task: Any) -> None:
            called.append(task)
            done.set()

        await client.submit(chat("m", "hi"), callback=note)
        await done.wait()
        return called[0].status

    assert run(body, reply(201, SUBMITTED), reply(200, TASK)) == "completed"


def test_the_blocks_own_error_comes_out_bare(run):
    async def body(client: AsyncClient) -> None:
        await client.submit(chat("m", "hi"), callback=print)
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        run(body, reply(201, SUBMITTED), *[reply(202)] * 50)


async def test_a_cancelled_wait_is_cancelled(autojump_clock):
    async def never(request: httpx.Request) -> httpx.Response:
        await trio.sleep_forever()
        raise AssertionError

    async with AsyncClient("http://oq.test", transport=httpx.MockTransport(never)) as client:
        with trio.move_on_after(5) as scope:
            await client.wait("abc")
        assert scope.cancelled_caught


def test_both_clients_have_the_same_verbs():
    import inspect

    from oq.client import AsyncTaskHandle, Client, TaskHandle

    for one, other in ((Client, AsyncClient), (TaskHandle, AsyncTaskHandle)):
        names = {name for name in vars(one) if not name.startswith("_")}
        assert names == {name for name in vars(other) if not name.startswith("_")}
        for name in names:
            if callable(getattr(one, name)):
                verbs = (inspect.signature(getattr(kind, name)) for kind in (one, other))
                assert len({tuple(verb.parameters) for verb in verbs}) == 1, name
