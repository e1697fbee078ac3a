"""The figures that the monitor promises, with 100,000 tasks and 200 changes a second.

The main thread's CPU time and the page's memory are Chromium's own counts, so a busy machine changes them little.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest
from playwright.sync_api import expect

from .conftest import DEADLINE, MANY, House, Monitor

pytestmark = pytest.mark.slow
Open = Callable[..., Monitor]
CHANGES = 200  # a second
NEW = 20  # of them new tasks; the others are changes of any of the 100,000
WARM_SECONDS, SECONDS = 3.0, 10.0


@contextmanager
def changes(house: House) -> Iterator[None]:
    """Make CHANGES a second, in ten portions, until the block ends."""
    ids = [
        task["id"]
        for place in range(0, 90_000, 9_000)
        for task in house.api.get(
            "/api/tasks", params={"status": "pending", "offset": place, "limit": 1000}
        ).json()
    ]
    stop, luck = threading.Event(), random.Random(7)
    failed: list[BaseException] = []

    def run() -> None:
        try:
            with httpx.Client(base_url=house.url, timeout=30) as api:
                due = time.monotonic()
                while not stop.wait(max(0.0, due - time.monotonic())):
                    due = max(due + 0.1, time.monotonic() - 1)
                    tasks = [
                        {
                            "type": "generate",
                            "model": "gemma2:9b",
                            "payload": {"prompt": f"new {luck.random()}"},
                        }
                        for _ in range(NEW // 10)
                    ]
                    api.post("/api/tasks/batch", json=tasks).raise_for_status()
                    some = luck.sample(ids, (CHANGES - NEW) // 10)
                    level = {"action": "priority", "priority": luck.choice((1, 5, 10, 15)), "ids": some}
                    api.post("/api/tasks/bulk", json=level).raise_for_status()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(DEADLINE)
    assert failed == []


class Meter:
    """Counts what one page costs."""

    def __init__(self, monitor: Monitor) -> None:
        self._session = monitor.page.context.new_cdp_session(monitor.page)
        self.bytes = 0
        self.by_url: dict[str, int] = {}
        self._urls: dict[str, str] = {}
        for domain in ("Network", "Performance", "HeapProfiler"):
            self._session.send(f"{domain}.enable")
        self._session.on("Network.requestWillBeSent", self._begins)
        self._session.on("Network.loadingFinished", self._loaded)
        self._session.on("Network.webSocketFrameReceived", self._frame)

    def _begins(self, event: dict[str, Any]) -> None:
        self._urls[event["requestId"]] = event["request"]["url"]

    def _loaded(self, event: dict[str, Any]) -> None:
        size = int(event["encodedDataLength"])
        self.bytes += size
        self.by_url[self._urls.get(event["requestId"], "")] = size

    def _frame(self, event: dict[str, Any]) -> None:
        self.bytes += len(event["response"]["payloadData"].encode())

    def heap(self) -> float:
        """Return the bytes of JavaScript that are in use."""
        self._session.send("HeapProfiler.collectGarbage")
        found = self._session.send("Performance.getMetrics")["metrics"]
        return float(next(metric["value"] for metric in found if metric["name"] == "JSHeapUsedSize"))


def main_thread_seconds(trace: bytes) -> float:
    """Return the CPU seconds that the page's main thread spent on its tasks."""
    events = json.loads(trace)["traceEvents"]
    renderers = {(event["pid"], event["tid"]) for event in events if event["name"] == "FunctionCall"}
    assert len(renderers) == 1
    tasks = [e for e in events if e["name"] == "RunTask" and (e["pid"], e["tid"]) in renderers]
    return sum(int(task.get("tdur", 0)) for task in tasks) / 1e6


@pytest.fixture(params=["top", "scrolled"])
def place(request: pytest.FixtureRequest) -> str:
    """Where the list stands: following at its top, or held somewhere inside."""
    return str(request.param)


def test_under_changes_a_page_costs_little_time_memory_and_traffic(
    big: House, open_monitor: Open, place: str, record_property: Callable[[str, object], None]
) -> None:
    monitor = open_monitor(big)
    expect(monitor.rows().nth(20)).to_be_visible()
    if place == "scrolled":
        monitor.page.locator("#rows").evaluate("(box) => { box.scrollTop = 60000; }")
        expect(monitor.page.locator(".row[id][aria-rowindex='2010']")).to_be_visible()
    meter = Meter(monitor)
    with changes(big):
        monitor.page.wait_for_timeout(WARM_SECONDS * 1000)
        chromium = monitor.page.context.browser
        assert chromium is not None
        chromium.start_tracing(
            page=monitor.page, categories=["disabled-by-default-devtools.timeline", "devtools.timeline"]
        )
        before, began = meter.bytes, time.monotonic()
        monitor.page.wait_for_timeout(SECONDS * 1000)
        took, traffic = time.monotonic() - began, meter.bytes - before
        busy = main_thread_seconds(chromium.stop_tracing()) / took * 1000
        traffic = traffic / took
        heap = meter.heap() / 2**20
    figures = {"main thread ms/s": busy, "bytes/s": traffic, "heap MiB": heap}
    print(place, {name: round(value, 1) for name, value in figures.items()})
    for name, value in figures.items():
        record_property(f"{place} {name}", value)
    assert busy <= 60
    assert heap <= 8
    assert traffic <= 5 * 1024


def test_the_whole_page_weighs_less_than_150_kilobytes(big: House, open_monitor: Open) -> None:
    monitor = open_monitor(big)
    expect(monitor.page.locator(".uplot").first).to_be_visible()
    meter = Meter(monitor)
    monitor.page.context.new_cdp_session(monitor.page).send("Network.clearBrowserCache")
    monitor.page.reload()
    expect(monitor.page.locator(".uplot").nth(3)).to_be_visible()
    own = {url: size for url, size in meter.by_url.items() if "/static/" in url or url.endswith("/")}
    assert len(own) > 20, own
    print(sum(own.values()), "bytes in", len(own), "files")
    assert sum(own.values()) < 150_000


def test_a_search_for_text_in_all_tasks_shows_its_rows(big: House, open_monitor: Open) -> None:
    monitor = open_monitor(big)
    expect(monitor.rows().nth(20)).to_be_visible()
    monitor.page.locator("#filter").fill("linked list")
    expect(monitor.page.locator(".matches")).to_have_text("20,000 match")
    assert big.total() >= MANY
    assert all("linked list" in prompt for prompt in monitor.prompts())
