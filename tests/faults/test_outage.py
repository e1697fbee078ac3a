"""An outage is not the tasks' fault: they wait and spend no retry, work flows to other hosts, and it is told."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

import oq
from oq.core.events import EventType, Notice
from oq.core.model import Status
from oq.core.task import Task
from oq.core.waiting import Waiting
from oq.queue import Queue, TaskHandle
from tests.backends.test_connections import open_tls_front
from tests.fake_ollama import FakeOllama, falls_silent, hangs_up, open_fake_ollama, says, status, unused_port
from tests.faults.conftest import OpenQueue

PAGE = (Path(__file__).parents[2] / "docs/reference/faults.md").read_text(encoding="utf-8")
MISSING = status(404, "model 'llama3.2' not found")


async def submit(queue: Queue, model: str = "llama3.2", **fields: Any) -> TaskHandle:
    return await queue.submit(oq.generate(model, "Hi", **fields))


async def until_down(queue: Queue, count: int = 1) -> None:
    """Wait until *count* hosts are known to be down."""
    while sum(not host.up for host in queue.stats().hosts) < count:
        await trio.sleep(0.5)


def outcomes(task: Task) -> list[str]:
    return [attempt.outcome for attempt in task.state.attempts]


# --- each kind of outage: how it begins, and how it is over ---------------------------------------------------------
class Outage:
    """*url* is out of reach until `heal` gives an open model server behind it."""

    def __init__(self, url: str, heal: Callable[[], AbstractAsyncContextManager[FakeOllama]]) -> None:
        self.url, self.heal = url, heal


@asynccontextmanager
async def refused(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Outage]:
    port = unused_port()
    yield Outage(f"http://127.0.0.1:{port}", lambda: open_fake_ollama(port))


@asynccontextmanager
async def unknown_name(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Outage]:
    class Names(trio.abc.HostnameResolver):
        known = False

        async def getaddrinfo(self, host: Any, port: Any, *args: object, **more: object) -> Any:
            if not self.known:
                raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

        async def getnameinfo(self, *args: object) -> Any:
            raise NotImplementedError

    names, port = Names(), unused_port()
    trio.socket.set_custom_hostname_resolver(names)

    @asynccontextmanager
    async def heal() -> AsyncIterator[FakeOllama]:
        async with open_fake_ollama(port) as fake:
            names.known = True
            yield fake

    yield Outage(f"http://gpu9.invalid:{port}", heal)


@asynccontextmanager
async def untrusted(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Outage]:
    port, trusted = unused_port(), trustme.CA()
    ends, ended = trio.Event(), trio.Event()

    async def stranger(fake: FakeOllama, *, task_status: trio.TaskStatus[None]) -> None:
        async with open_tls_front(fake, trustme.CA(), port):
            task_status.started()
            await ends.wait()
        ended.set()

    with trusted.cert_pem.tempfile() as file:
        monkeypatch.setenv("SSL_CERT_FILE", file)
        async with open_fake_ollama() as fake, trio.open_nursery() as nursery:
            await nursery.start(stranger, fake)

            @asynccontextmanager
            async def heal() -> AsyncIterator[FakeOllama]:
                ends.set()
                await ended.wait()
                async with open_tls_front(fake, trusted, port):
                    yield fake

            yield Outage(f"https://127.0.0.1:{port}", heal)


@asynccontextmanager
async def hung(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Outage]:
    """It takes connections and answers nothing at all, as a stopped process does."""
    async with open_fake_ollama() as fake:
        good = fake.default, fake.rest
        fake.default = fake.rest = falls_silent()

        @asynccontextmanager
        async def heal() -> AsyncIterator[FakeOllama]:
            fake.default, fake.rest = good
            yield fake

        yield Outage(fake.url, heal)


OUTAGES = (
    ("refuses the connection", refused, 0, "connection refused"),
    ("has a name that does not resolve", unknown_name, 0, "gpu9.invalid is unknown"),
    ("has a certificate nobody vouches for", untrusted, 0, "certificate is not trusted"),
    ("accepts connections and answers nothing, `/api/version` neither", hung, 122,
     "silent for 120 s and does not answer /api/version either"),
)  # fmt: skip


def test_the_page_has_the_outages() -> None:
    told = [line for line in PAGE.splitlines() if line.startswith("| ") and line.count("|") == 4]
    assert told[2:] == [f'| {what} | {after} s | "{text}" |' for what, _, after, text in OUTAGES]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("begin", "after", "text"), [row[1:] for row in OUTAGES], ids=[row[0] for row in OUTAGES]
)
async def test_a_task_waits_for_the_end_of_an_outage_and_spends_no_retry(
    begin: Any, after: float, text: str, open_queue: OpenQueue, monkeypatch: Any, autojump_clock: object
) -> None:
    async with begin(monkeypatch) as outage, open_queue(outage.url) as queue:
        began = trio.current_time()
        handle = await submit(queue, max_retries=0)
        await until_down(queue)
        assert after <= trio.current_time() - began < after + 5
        await trio.sleep(20)
        task = await queue.get(handle.id)
        assert (task.status, task.state.error_code, task.state.retry_count) == (
            Status.PENDING,
            "unreachable",
            0,
        )
        assert text in (task.state.error or "")
        (host,) = queue.stats().hosts
        assert text in (host.error or "")
        waiting = queue.waiting(handle.key)
        assert isinstance(waiting, Waiting)
        assert (waiting.reason, waiting.hosts) == ("hosts_down", ("gpu1",))
        assert len(task.state.attempts) == 1, "its circuit is open: nothing is tried but the probe"
        async with outage.heal():
            back = trio.current_time()
            task = await handle.wait(60)
            took = trio.current_time() - back
        assert (task.status, outcomes(task)) == (Status.COMPLETED, ["unreachable", "succeeded"])
        assert (queue.stats().hosts[0].up, queue.stats().hosts[0].error) == (True, None)
        notices = [event.what for event in queue.events_since(0) if isinstance(event.what, Notice)]
        assert [(what.type, what.subject) for what in notices] == [
            (EventType.HOST_DOWN, "gpu1"),
            (EventType.HOST_UP, "gpu1"),
        ]
    assert took <= 1.0


# --- several hosts, and hosts that come and go ----------------------------------------------------------------------
async def test_while_one_host_is_down_its_work_flows_to_the_other(
    fake: FakeOllama, open_queue: OpenQueue, autojump_clock: object
) -> None:
    dead = f"http://127.0.0.1:{unused_port()}"
    async with open_queue(dead, fake.url) as queue:
        handles = [await submit(queue, max_retries=0) for _ in range(10)]
        tasks = [await handle.wait(60) for handle in handles]
    assert {task.status for task in tasks} == {Status.COMPLETED}
    assert {task.state.host for task in tasks} == {"gpu2"}
    tried = [attempt for task in tasks for attempt in task.state.attempts if attempt.host == "gpu1"]
    assert len(tried) <= 2, "no more than it has slots found out that it is down"


async def test_with_every_host_down_at_the_start_all_tasks_wait_and_then_all_are_done(
    open_queue: OpenQueue, autojump_clock: object
) -> None:
    ports = unused_port(), unused_port()
    async with open_queue(*(f"http://127.0.0.1:{port}" for port in ports)) as queue:
        handles = [await submit(queue, max_retries=0) for _ in range(20)]
        await until_down(queue, 2)
        await trio.sleep(10)
        assert queue.counts[Status.PENDING] == 20
        async with open_fake_ollama(ports[1]) as fake:
            tasks = [await handle.wait(60) for handle in handles]
            assert len([r for r in fake.requests if r.path == "/api/generate"]) == 20
    assert {task.status for task in tasks} == {Status.COMPLETED}
    assert sum(outcomes(task).count("unreachable") for task in tasks) <= 4 + 2 * 2


async def test_a_host_that_comes_and_goes_costs_no_retry(
    open_queue: OpenQueue, autojump_clock: object
) -> None:
    """Each time it lives just long enough for the probe."""
    port = unused_port()
    async with open_queue(f"http://127.0.0.1:{port}", slots=1) as queue:
        handle = await submit(queue, max_retries=0)
        for _ in range(5):
            await until_down(queue)
            async with open_fake_ollama(port) as fake:
                fake.default = falls_silent()
                await fake.wait_until(lambda fake=fake: len(fake.requests) > 0)  # type: ignore[misc]
        await until_down(queue)
        task = await queue.get(handle.id)
        assert (task.status, task.state.retry_count) == (Status.PENDING, 0)
        async with open_fake_ollama(port):
            task = await handle.wait(60)
    assert task.status is Status.COMPLETED
    assert set(outcomes(task)[:-1]) == {"unreachable"}


async def test_a_restart_of_the_model_server_costs_the_attempt_it_breaks_and_no_more(
    open_queue: OpenQueue, autojump_clock: object
) -> None:
    port = unused_port()
    async with open_queue(f"http://127.0.0.1:{port}") as queue:
        async with open_fake_ollama(port) as fake:
            fake.default = falls_silent("Hel")
            handles = [await submit(queue) for _ in range(4)]
            await fake.wait_until(lambda: fake.in_flight == 2)
        await until_down(queue)
        await trio.sleep(60)
        async with open_fake_ollama(port):
            tasks = [await handle.wait(60) for handle in handles]
    assert [task.status for task in tasks] == [Status.COMPLETED] * 4
    assert sorted(task.state.retry_count for task in tasks) == [0, 0, 1, 1]


async def test_a_host_that_is_up_but_refuses_work_is_never_sent_more_than_its_slots(
    fake: FakeOllama, open_queue: OpenQueue, autojump_clock: object
) -> None:
    fake.default = status(503, "server busy")
    async with open_queue(fake.url, slots=3) as queue:
        handles = [await submit(queue) for _ in range(12)]
        tasks = [await handle.wait(600) for handle in handles]
        assert queue.stats().hosts[0].up
    assert fake.max_in_flight <= 3
    assert {(task.status, task.state.error_code, task.state.retry_count) for task in tasks} == {
        (Status.FAILED, "busy", 3)
    }


async def test_a_storm_of_503_that_passes_in_time_fails_nothing(
    fake: FakeOllama, open_queue: OpenQueue, autojump_clock: object
) -> None:
    fake.script(*[status(503, "server busy")] * 12)
    async with open_queue(fake.url, slots=2) as queue:
        handles = [await submit(queue) for _ in range(6)]
        tasks = [await handle.wait(600) for handle in handles]
    assert {task.status for task in tasks} == {Status.COMPLETED}


# --- a model that is not everywhere ---------------------------------------------------------------------------------
async def test_a_model_that_one_host_lacks_runs_on_the_other(
    fake: FakeOllama, open_queue: OpenQueue, autojump_clock: object
) -> None:
    async with open_fake_ollama() as poor, open_queue(poor.url, fake.url, slots=1) as queue:
        poor.default = MISSING
        handles = [await submit(queue, max_retries=0) for _ in range(8)]
        tasks = [await handle.wait(60) for handle in handles]
    assert {task.status for task in tasks} == {Status.COMPLETED}
    assert {task.state.host for task in tasks} == {"gpu2"}
    assert len([r for r in poor.requests if r.path == "/api/generate"]) == 1, (
        "it is not asked again for a while"
    )


async def test_a_model_that_no_host_has_fails_with_both_asked(
    fake: FakeOllama, open_queue: OpenQueue, autojump_clock: object
) -> None:
    async with open_fake_ollama() as other, open_queue(other.url, fake.url) as queue:
        fake.default = other.default = MISSING
        task = await (await submit(queue)).wait(60)
    assert (task.status, task.state.error_code) == (Status.FAILED, "model_not_found")
    assert outcomes(task) == ["not_here", "failed"]
    assert "ollama pull llama3.2 (no other model server has it either)" in (task.state.error or "")


async def test_a_model_pulled_meanwhile_is_found_when_the_task_is_run_again(
    fake: FakeOllama, open_queue: OpenQueue, autojump_clock: object
) -> None:
    async with open_fake_ollama() as other, open_queue(other.url, fake.url) as queue:
        fake.default = other.default = MISSING
        handle = await submit(queue)
        await handle.wait(60)
        other.default = says("Hello")
        await queue.retry(handle.id)
        task = await handle.wait(60)
    assert (task.status, task.state.host) == (Status.COMPLETED, "gpu1")


async def test_a_task_whose_model_only_a_host_that_is_down_may_have_says_so(
    fake: FakeOllama, open_queue: OpenQueue, autojump_clock: object
) -> None:
    fake.default = MISSING
    port = unused_port()
    async with open_queue(f"http://127.0.0.1:{port}", fake.url) as queue:
        handle = await submit(queue)
        await until_down(queue)
        await trio.sleep(1)
        waiting = queue.waiting(handle.key)
        assert waiting is not None
        assert (waiting.reason, waiting.hosts) == ("model_missing", ("gpu1",))
        async with open_fake_ollama(port):
            task = await handle.wait(60)
    assert (task.status, task.state.host) == (Status.COMPLETED, "gpu1")


# --- reads ----------------------------------------------------------------------------------------------------------
async def test_the_list_of_models_is_read_at_once_while_every_slot_is_busy_and_tasks_wait(
    fake: FakeOllama, open_queue: OpenQueue, autojump_clock: object
) -> None:
    fake.default = falls_silent()
    async with open_queue(fake.url) as queue:
        for _ in range(50):
            await submit(queue)
        await fake.wait_until(lambda: fake.in_flight == 2)
        began = trio.current_time()
        info = await queue.host_info()
        assert info["gpu1"].models == ("llama3.2",)
        assert trio.current_time() - began < 1.0


async def test_a_host_that_breaks_off_what_it_says_of_itself_holds_up_nobody(
    fake: FakeOllama, open_queue: OpenQueue, autojump_clock: object
) -> None:
    async with open_fake_ollama() as other, open_queue(other.url, fake.url) as queue:
        other.rest = hangs_up('{"vers')
        info = await queue.host_info()
    assert (info["gpu1"].up, info["gpu2"].up) == (False, True)


async def test_a_host_that_hung_is_used_again_within_a_second_also_when_a_probe_was_under_way(
    fake: FakeOllama, open_queue: OpenQueue, autojump_clock: object
) -> None:
    fake.default = fake.rest = falls_silent()
    async with open_queue(fake.url, ollama__idle_timeout=5) as queue:
        handle = await submit(queue)
        await until_down(queue)
        seen = len(fake.requests)
        await fake.wait_until(lambda: len(fake.requests) > seen)
        back = trio.current_time()
        fake.default, fake.rest = says("Hello"), fake._other
        await handle.wait(60)
        assert trio.current_time() - back <= 1.0
