"""What is drawn where: nothing covers anything else, and the charts tell the truth about time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from fake_ollama import says, status
from playwright.sync_api import Route, expect

from .conftest import House, Monitor

pytestmark = pytest.mark.slow
Open = Callable[..., Monitor]


def box(monitor: Monitor, selector: str) -> dict[str, float]:
    found = monitor.page.locator(selector).last.bounding_box()
    assert found is not None, selector
    return {**found, "right": found["x"] + found["width"], "bottom": found["y"] + found["height"]}


@pytest.mark.parametrize("width", [1400, 390])
def test_the_bar_for_chosen_tasks_covers_neither_rows_nor_drawer(
    house: House, open_monitor: Open, width: int
) -> None:
    house.api.post("/api/queue/pause")
    ids = house.batch(
        [{"type": "generate", "model": "m", "payload": {"prompt": f"t {n}"}} for n in range(60)]
    )
    monitor = open_monitor(house, viewport={"width": width, "height": 800})
    monitor.rows().first.locator("input").click()
    monitor.page.locator("#rows").evaluate("(rows) => { rows.scrollTop = rows.scrollHeight; }")
    last = monitor.page.locator(f"#row-{ids[0]}")
    expect(last).to_be_visible()
    bar, row = box(monitor, ".bulk"), box(monitor, f"#row-{ids[0]}")
    assert row["bottom"] <= bar["y"] + 0.5
    assert bar["right"] <= width
    assert bar["bottom"] <= 800
    last.locator(".c-prompt").click()
    expect(monitor.page.locator(".drawer .id")).to_have_text(ids[0])
    if width > 720:
        assert box(monitor, ".bulk")["right"] <= box(monitor, ".drawer")["x"] + 0.5
    else:
        expect(monitor.page.locator(".bulk")).to_be_hidden()  # the drawer is in the place of the list


def a_day() -> dict[str, Any]:
    """Twenty-four hours in steps of five minutes, with work in the second half alone."""
    now, many = time.time(), 288
    times = [now - 300 * (many - 1 - n) for n in range(many)]
    busy = [max(0, n - many // 2) for n in range(many)]
    return {
        "window": "24h", "step": 300, "now": times, "waiting": busy, "running": [1] * many, "finished": busy,
        "failed": [0] * many, "tokens": [100 * n for n in busy], "wait_p50": [None] * many, "wait_p95": [None] * many,
        "run_p50": [1.5 if n else None for n in busy], "run_p95": [2.5 if n else None for n in busy],
    }  # fmt: skip


def test_a_chart_of_a_day_shows_time_and_value_under_the_pointer_and_beside_it_what_is_now(
    house: House, open_monitor: Open
) -> None:
    house.api.post("/api/queue/pause")
    house.submit("the only one that waits")
    monitor = open_monitor(house)
    page = monitor.page
    page.route("**/api/series?window=24h", lambda route: route.fulfill(json=a_day()))
    page.get_by_role("button", name="24 h").click()
    waiting = page.locator(".chart-waiting")
    expect(waiting.locator("strong")).to_have_text("1")
    place = waiting.locator(".u-over").bounding_box()
    assert place is not None
    page.wait_for_function("() => document.querySelector('.chart-waiting .u-over')")
    for part, low, high in ((0.25, 0, 0), (0.95, 100, 143)):
        page.mouse.move(place["x"] + place["width"] * part, place["y"] + 10)
        hint = waiting.locator(".chart-hint")
        expect(hint).not_to_be_empty()
        clock, value = (hint.text_content() or "").split(" ")
        assert len(clock) == len("21:24")
        assert low <= int(value) <= high
        assert hint.evaluate("(text) => text.scrollWidth <= text.clientWidth"), "all of it is seen"


def test_two_minutes_of_data_do_not_fill_the_chart_of_an_hour(house: House, open_monitor: Open) -> None:
    house.api.post("/api/queue/pause")
    house.submit("waits")
    monitor = open_monitor(house)
    monitor.page.get_by_role("button", name="1 h").click()
    waiting = monitor.page.locator(".chart-waiting")
    place = waiting.locator(".u-over").bounding_box()
    assert place is not None
    monitor.page.mouse.move(place["x"] + place["width"] * 0.5, place["y"] + 10)
    # The nearest sample is at the right edge: the cursor's dot is drawn there, not under the pointer.
    dot = waiting.locator(".u-cursor-pt").first
    monitor.wait(
        lambda: (at := dot.bounding_box()) is not None and at["x"] > place["x"] + place["width"] * 0.9,
        "the dot is at the newest sample",
    )


def test_a_list_that_cannot_be_read_says_why_and_shows_no_skeletons(house: House, open_monitor: Open) -> None:
    house.api.post("/api/queue/pause")
    house.submit("a task")
    monitor = open_monitor(house)
    expect(monitor.rows()).to_have_count(1)

    def refuse(route: Route) -> None:
        route.fulfill(status=503, json={"error": "The disk refuses.", "code": "storage_unavailable"})

    monitor.page.route("**/api/tasks?*", refuse)
    monitor.page.locator(".tab", has_text="Pending").click()
    notice = monitor.page.locator(".list > .notice")
    expect(notice).to_contain_text("The disk refuses.")
    list_box, covered = box(monitor, ".list"), box(monitor, ".list > .notice")
    assert covered["bottom"] == pytest.approx(list_box["bottom"], abs=1)
    monitor.page.unroute("**/api/tasks?*", refuse)
    notice.get_by_role("button", name="Try again").click()
    expect(monitor.rows()).to_have_count(1)
    monitor.complaints = [text for text in monitor.complaints if "503" not in text]


@pytest.mark.parametrize("language", ["en", "zh-CN"])
def test_no_screen_of_a_phone_has_anything_beyond_its_edge(
    house: House, open_monitor: Open, language: str
) -> None:
    house.fake.models = ["m" * 300, "llama3.2"]
    house.fake.script(status(500, "w" * 900), says("W" * 5000))
    failed = house.submit("x" * 3000, model="m" * 300, tags=["t" * 200], max_retries=0)
    house.wait_status(failed, "failed")
    done = house.submit("y", model="m" * 300)
    house.wait_status(done, "completed")
    monitor = open_monitor(house, viewport={"width": 390, "height": 844}, locale=language)
    page = monitor.page
    for place, keys in (
        ("", ""), ("", "n"), ("", "?"), (f"#/t/{failed}", ""), (f"#/t/{done}", ""), ("#/hosts", ""), ("#/events", ""),
    ):  # fmt: skip
        page.goto(f"{house.url}/{place}")
        page.reload()
        expect(page.locator(".live.on")).to_be_visible()
        if keys:
            page.keyboard.press(keys)
            expect(page.locator("dialog")).to_be_visible()
        if place.startswith("#/t/"):
            expect(page.locator(".drawer .status")).to_be_visible()
        for name in ["output", "request", "result", "timeline"] if place.startswith("#/t/") else [None]:
            if name:
                page.locator(f"#tab-{name}").click()
            beyond = page.evaluate(
                """() => [...document.querySelectorAll('body *')].filter((element) => {
                  if (!element.checkVisibility() || element.getBoundingClientRect().right <= innerWidth + 1) return false;
                  for (let outer = element.parentElement; outer; outer = outer.parentElement)
                    if (getComputedStyle(outer).overflowX !== 'visible' && outer.getBoundingClientRect().right <= innerWidth + 1) return false;
                  return true;
                }).map((element) => element.outerHTML.slice(0, 80))"""
            )
            assert beyond == [], (place, name)
            assert page.evaluate("() => document.documentElement.scrollWidth") <= 390
