"""Take the pictures of the monitor again: ``python docs/pictures/make.py``. Needs the extra `test`, Chromium and a Chinese font."""

from __future__ import annotations

import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from browser.conftest import FLAGS, House, Monitor, chromium_path, open_house  # noqa: E402
from fake_ollama import Exchange, Reply, says, status  # noqa: E402
from playwright.sync_api import sync_playwright  # noqa: E402

OUT = Path(__file__).parent
MODELS = ("llama3.2:3b", "gemma2:9b", "qwen2.5:7b", "codellama:13b")
PROMPTS = (
    "Why is the sky blue?",
    "Summarise the attached incident report and list the root causes",
    "为斐波那契数列写一个高效的 Python 函数，并解释其复杂度",
    "Explain quantum entanglement to a ten-year-old in three short paragraphs",
    "Write a Go function that reverses a linked list",
    "把下面这段话翻译成英文：今天的天气很好，我们去公园散步吧",
)
ANSWER = (
    "Sunlight looks white, but it is a mixture of all colours.\n\n"
    "When it enters the atmosphere it meets molecules that are far smaller than its waves. They scatter short waves "
    "much more than long ones: the strength grows with the fourth power of the frequency (Rayleigh scattering).\n\n"
    "So blue light reaches your eyes from every direction of the sky, while red goes straight on. In the evening "
    "the light has come a long way through the air; the blue is gone, and what is left is red. "
)
LUCK = random.Random(3)


def a_task() -> dict[str, Any]:
    task: dict[str, Any] = {
        "type": "generate", "model": LUCK.choice(MODELS), "payload": {"prompt": LUCK.choice(PROMPTS)},
        "priority": LUCK.choice((1, 5, 5, 5)), "max_retries": 1,
    }  # fmt: skip
    if LUCK.random() < 0.05:
        task["delay"] = "2h"
    return task


def model() -> Reply:
    """Answer most in a second or two, some with an error."""
    answers = [says(*ANSWER.split(" ")[: LUCK.randint(10, 40)], pause=0.03) for _ in range(20)]
    broken = status(500, "model runner has unexpectedly stopped: CUDA error: out of memory")

    async def reply(exchange: Exchange) -> None:
        await (broken if exchange.model == MODELS[3] and LUCK.random() < 0.5 else LUCK.choice(answers))(
            exchange
        )

    return reply


def fill(house: House) -> str:
    """Let the queue work for a while; return the id of a task that writes."""
    house.fake.models = list(MODELS)
    house.fake.default = model()
    for _ in range(6):  # three minutes: the charts show five
        house.batch([a_task() for _ in range(3_000)])
        time.sleep(30)
    words = tuple(word + " " for word in ANSWER.split(" ")) * 4
    house.fake.script(says(*words, thinking=("The question is about scattering.",), pause=0.12))
    id = house.submit(PROMPTS[0], model=MODELS[0], priority=1000)
    house.wait_status(id, "running")
    for _ in range(40):  # these go before the others: the list shows them in every state
        house.submit(
            LUCK.choice(PROMPTS), model=LUCK.choice(MODELS), priority=LUCK.choice((1, 5, 10, 10, 15, 15))
        )
        time.sleep(0.1)
    return id


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        sync_playwright() as playwright,
        open_house(Path(folder), "--ollama-host", "http://127.0.0.1:9", "--workers", "3") as house,
    ):
        chromium = playwright.chromium.launch(executable_path=chromium_path(), args=FLAGS)
        id = fill(house)
        failed = house.api.get("/api/tasks", params={"status": "failed", "limit": "1"}).json()[0]["id"]
        wide, phone = {"width": 1280, "height": 720}, {"width": 390, "height": 760}
        for name, path, context, click in (
            ("task", f"#/t/{id}", {"viewport": wide}, None),
            ("tasks", "", {"viewport": wide}, None),
            ("dark-zh", f"#/t/{failed}?status=failed", {"viewport": wide, "color_scheme": "dark", "locale": "zh-CN"}, "#tab-timeline"),
            ("phone", "", {"viewport": phone}, None),
        ):  # fmt: skip
            monitor = Monitor(chromium, house.url, path, **context)
            monitor.rows().first.wait_for()
            monitor.page.locator(".uplot").first.wait_for()
            if click:
                monitor.page.locator(click).click()
                for row in range(3):
                    monitor.rows().nth(row).locator("input").click()
            monitor.page.wait_for_timeout(2500)
            monitor.page.screenshot(path=OUT / f"{name}.png")
            monitor.close()
        chromium.close()


if __name__ == "__main__":
    main()
