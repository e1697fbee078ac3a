"""A real Chromium on the page of a real `oq serve` process."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from cli.live import Served, fake_model_server
from fake_ollama import FakeOllama
from needs import chromium
from playwright.sync_api import Browser, ConsoleMessage, expect, sync_playwright
from waiting import wait_until

MANY = 100_000
CANCELLED = 2_000
MODELS = ("llama3.2:3b", "gemma2:9b", "qwen2.5:7b", "codellama:13b", "nomic-embed-text")
PROMPTS = (
    "Summarise the attached incident report and list the root causes",
    "为斐波那契数列写一个高效的 Python 函数，并解释其复杂度",
    "Explain quantum entanglement to a ten-year-old in three short paragraphs",
    "<script>document.title='owned'</script> & <b>bold</b> must stay plain text",
    "Write a Go function that reverses a linked list",
)
DEADLINE = 15.0  # seconds for what takes milliseconds on a quiet machine
# As root Chromium has no sandbox; the rest keeps it from talking to anybody but the server.
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip

expect.set_options(timeout=DEADLINE * 1000)


def chromium_path() -> str:
    found = chromium()
    assert found is not None, "no Chromium: apt-get install chromium fonts-wqy-microhei"
    return found


# Of this package alone: Playwright keeps an event loop "running" in the thread, in which asyncio.run refuses to work.
@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=chromium_path(), args=FLAGS)
        yield found
        found.close()


class Monitor:
    """One page, and everything that it complained of."""

    def __init__(self, browser: Browser, url: str, path: str = "", **context: Any) -> None:
        self.url = url
        self.complaints: list[str] = []
        self._context = browser.new_context(**{"viewport": {"width": 1400, "height": 900}, **context})
        self._context.set_default_timeout(DEADLINE * 1000)
        self.page = self._context.new_page()
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        self.page.goto(f"{url}/{path}")
        self.page.locator("header.top").wait_for()

    def _hear(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.type}: {message.text}")

    def rows(self) -> Any:
        """The rows with a task, top to bottom as they stand in the document."""
        return self.page.locator(".tall > .row[id]")

    def prompts(self) -> list[str]:
        """The prompts of the drawn rows, in the order in which they are seen."""
        found: list[str] = self.page.evaluate(
            """() => [...document.querySelectorAll('.tall > .row[id]')]
              .sort((a, b) => a.ariaRowIndex - b.ariaRowIndex).map((row) => row.querySelector('.c-prompt')?.textContent ?? '')"""
        )
        return found

    def wait(self, condition: Callable[[], object], what: str, seconds: float = DEADLINE) -> None:
        """Wait until *condition* holds; the page goes on meanwhile."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"not in time: {what}"
            self.page.wait_for_timeout(20)

    def close(self) -> None:
        self._context.close()


class House:
    """A server process, its model server, and how tasks get there."""

    def __init__(self, served: Served, fake: FakeOllama, data: Path, arguments: tuple[str, ...]) -> None:
        self.served, self.fake, self._data, self._arguments = served, fake, data, arguments
        self.url = served.url
        self.api = httpx.Client(base_url=self.url, timeout=120)

    def submit(self, prompt: str, **more: Any) -> str:
        task = {"type": "generate", "model": "llama3.2", "payload": {"prompt": prompt}, **more}
        answer = self.api.post("/api/tasks", json=task)
        assert answer.status_code == 201, answer.text
        id: str = answer.json()["task_id"]
        return id

    def batch(self, tasks: list[dict[str, Any]]) -> list[str]:
        answer = self.api.post("/api/tasks/batch", json=tasks)
        assert answer.json()["failed"] == 0, answer.text[:500]
        return [item["task_id"] for item in answer.json()["items"]]

    def get(self, id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.api.get(f"/api/tasks/{id}").json()
        return found

    def total(self, **query: str) -> int:
        return int(self.api.get("/api/tasks", params={"limit": "0", **query}).headers["X-Total-Count"])

    def wait_status(self, id: str, *wanted: str) -> None:
        wait_until(lambda: self.get(id)["status"] in wanted, f"task {id} is {wanted}", DEADLINE)

    def restart(self) -> None:
        """Start the server again at the same address, with the same store."""
        port = self.url.rpartition(":")[2]
        self.served = Served(self._data, "--port", port, *self._arguments)

    def stop(self) -> None:
        self.api.close()
        self.served.stop(9)


@contextmanager
def open_house(folder: Path, *arguments: str, **env: str) -> Iterator[House]:
    with fake_model_server() as fake:
        data = folder / "data"
        given = ("--ollama-host", fake.url, *arguments)
        house = House(Served(data, *given, **env), fake, data, given)
        try:
            yield house
        finally:
            house.stop()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """An empty queue that runs."""
    with open_house(tmp_path) as found:
        yield found


@pytest.fixture(scope="package")
def big(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A paused queue with a hundred thousand tasks: 93,000 pending, 5,000 scheduled, 2,000 cancelled."""
    with open_house(tmp_path_factory.mktemp("big"), "--paused") as house:
        made = 0
        while made < MANY:
            house.batch([a_task(number) for number in range(made, min(made + 20_000, MANY))])
            made += 20_000
        done = house.api.post("/api/tasks/bulk", json={"action": "cancel", "filter": {"tag": "stopped"}})
        assert done.json()["done"] == CANCELLED, done.text[:300]
        yield house


def a_task(number: int) -> dict[str, Any]:
    prompt = f"{PROMPTS[number % len(PROMPTS)]} #{number}"
    task: dict[str, Any] = {
        "type": "generate", "model": MODELS[number % 7 % 5], "payload": {"prompt": prompt},
        "priority": (5, 10, 5, 1, 15)[number % 11 % 5],
    }  # fmt: skip
    if number % 20 == 3:
        task["delay"] = "3h"
    elif number % 50 == 7:
        task["tags"] = ["stopped"]
    return task


@pytest.fixture
def open_monitor(browser: Browser) -> Iterator[Callable[..., Monitor]]:
    """Open pages; at the end none may have complained, except of a server that the test took away (`excused`)."""
    opened: list[Monitor] = []

    def open_one(house: House, path: str = "", **context: Any) -> Monitor:
        monitor = Monitor(browser, house.url, path, **context)
        opened.append(monitor)
        return monitor

    yield open_one
    complaints = [text for monitor in opened for text in monitor.complaints]
    for monitor in opened:
        monitor.close()
    assert complaints == []


@pytest.fixture(scope="session")
def axe() -> str:
    """The source of axe-core, which looks for what screen readers and keyboards cannot use."""
    from npm_packages import installed

    return (installed() / "axe-core" / "axe.min.js").read_text(encoding="utf-8")
