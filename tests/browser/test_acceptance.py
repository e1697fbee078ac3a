"""What the monitor promises, one after the other, in a real Chromium on a real server."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fake_ollama import says
from playwright.sync_api import Browser, Page, expect

from .conftest import CANCELLED, MANY, House, Monitor, open_house

pytestmark = pytest.mark.slow
Open = Callable[..., Monitor]
ROW = 30


def number(text: str | None) -> int:
    return int(re.sub(r"\D", "", text or ""))


def tab(monitor: Monitor, name: str) -> int:
    return number(monitor.page.locator(".tab", has_text=name).locator(".number").text_content())


def scroll(monitor: Monitor, top: float) -> None:
    monitor.page.locator("#rows").evaluate("(box, top) => { box.scrollTop = top; }", top)


# 1
def test_the_first_rows_come_within_a_second_and_only_those_on_the_screen_exist(
    big: House, open_monitor: Open
) -> None:
    monitor = open_monitor(big)
    expect(monitor.rows().nth(20)).to_be_visible()
    took = monitor.page.evaluate(
        """() => performance.getEntriesByType('resource').filter(({name}) => name.includes('/api/tasks?'))[0].responseEnd"""
    )
    assert took < 1000
    assert 20 < monitor.page.locator(".row").count() < 80


# 2; how long jumps take is among the figures
def test_the_end_shows_the_oldest_task(big: House, open_monitor: Open) -> None:
    monitor = open_monitor(big)
    expect(monitor.rows().first).to_be_visible()
    last = big.total()
    scroll(monitor, last * ROW)
    expect(monitor.page.locator(f".row[aria-rowindex='{last + 1}'] .c-prompt")).to_have_text(
        re.compile(" #0$")
    )


# 3
def test_while_scrolled_no_row_moves_and_the_pill_counts_what_came(house: House, open_monitor: Open) -> None:
    house.api.post("/api/queue/pause")
    house.batch([{"type": "generate", "model": "m", "payload": {"prompt": f"old {n}"}} for n in range(300)])
    monitor = open_monitor(house)
    expect(monitor.rows().first).to_be_visible()
    scroll(monitor, 100 * ROW)
    expect(monitor.page.locator(".row[aria-rowindex='112'][id]")).to_be_visible()
    before = monitor.prompts()
    for n in range(30):
        house.submit(f"new {n}", model="m")
        monitor.page.wait_for_timeout(100)
        assert monitor.prompts() == before
    expect(monitor.page.locator(".pill")).to_have_text("↑ 30 new")
    monitor.page.locator(".pill").click()
    expect(monitor.page.locator(".row[aria-rowindex='2'] .c-prompt")).to_have_text("new 29")


# 4
def test_output_grows_in_the_drawer_and_ends_as_it_is_stored(house: House, open_monitor: Open) -> None:
    words = tuple(f"word{n} " + ("漢字😀 " if n % 3 else "line\n") for n in range(400))
    house.fake.script(says(*words, thinking=("Let me ", "think."), pause=0.005))
    id = house.submit("count")
    monitor = open_monitor(house, f"#/t/{id}")
    output = monitor.page.locator("#output")
    expect(output).to_contain_text("word3 ")
    first = len(output.text_content() or "")
    monitor.wait(lambda: len(output.text_content() or "") > first, "the output grows")
    expect(monitor.page.locator(".drawer .status")).to_have_text(re.compile("Completed"))
    house.wait_status(id, "completed")
    stored = house.get(id)["output"]
    monitor.wait(lambda: output.text_content() == stored, "the output is the stored one")
    assert stored == "".join(words)
    expect(monitor.page.locator(".thinking .output")).to_have_text("Let me think.")


# 5
def test_the_tabs_count_what_rest_counts(big: House, open_monitor: Open) -> None:
    monitor = open_monitor(big)
    expect(monitor.rows().first).to_be_visible()
    assert tab(monitor, "All") == big.total() >= MANY
    assert tab(monitor, "Cancelled") == big.total(status="cancelled") == CANCELLED
    for name in ("Pending", "Scheduled", "Running", "Completed", "Failed"):
        assert tab(monitor, name) == big.total(status=name.lower())


# 6
def test_a_killed_server_is_noticed_within_a_second_and_a_restarted_one_too(
    tmp_path: Path, browser: Browser
) -> None:
    with open_house(tmp_path, "--paused") as house:
        house.submit("before the kill")
        monitor = Monitor(browser, house.url)  # it will complain, rightly, that the server is away
        expect(monitor.page.locator(".live")).to_have_text(re.compile("live"))
        expect(monitor.rows()).to_have_count(1)
        house.served.process.kill()
        killed = time.monotonic()
        expect(monitor.page.locator(".banner.bad")).to_have_text(
            re.compile(r"Connection lost\. What you see is from \d\d:\d\d:\d\d\."), timeout=5000
        )
        assert time.monotonic() - killed < 1
        expect(monitor.rows()).to_have_count(1)
        house.served.process.wait()
        house.restart()
        house.submit("after the restart")
        expect(monitor.page.locator(".banner.bad")).to_have_count(0)
        expect(monitor.page.locator(".banner", has_text="restarted")).to_be_visible()
        monitor.wait(lambda: monitor.prompts() == ["after the restart", "before the kill"], "the new rows")
        monitor.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A page that nothing was loaded into."""
    context = browser.new_context()
    yield context.new_page()
    context.close()


# 7
def test_a_lost_delta_causes_exactly_one_new_reading(house: House, page: Page) -> None:
    house.api.post("/api/queue/pause")
    id = house.submit("watched")
    lost: list[str] = []

    def between(socket: object) -> None:
        server = socket.connect_to_server()  # type: ignore[attr-defined]

        def pass_on(message: str) -> None:
            if '"type":"delta"' in message and '"priority":15' in message and not lost:
                lost.append(message)
            else:
                socket.send(message)  # type: ignore[attr-defined]

        server.on_message(pass_on)
        socket.on_message(server.send)  # type: ignore[attr-defined]

    page.route_web_socket(re.compile("/ws"), between)
    page.goto(house.url)
    expect(page.locator(".tall > .row[id] .p-normal")).to_have_count(1)
    readings: list[str] = []
    page.on("request", lambda request: readings.append(request.url) if "/api/tasks?" in request.url else None)
    page.wait_for_timeout(
        1500
    )  # a page reads again after a second, when the counts came after its first reading
    readings.clear()
    house.api.post(f"/api/tasks/{id}/priority", json={"priority": 15})
    end = time.monotonic() + 15
    while not lost:
        page.wait_for_timeout(20)
        assert time.monotonic() < end, "the delta did not come"
    expect(page.locator(".tall > .row[id] .p-critical")).to_have_count(0)
    for level in (10, 1, 10):
        house.api.post(f"/api/tasks/{id}/priority", json={"priority": level})
        expect(page.locator(f".tall > .row[id] .p-{'high' if level == 10 else 'low'}")).to_have_count(1)
    assert len(readings) == 1  # once for the one gap


# 8
def test_nothing_that_a_prompt_a_model_or_its_answer_holds_becomes_markup(
    house: House, open_monitor: Open
) -> None:
    evil = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"><b>b</b>"
    house.fake.script(says(evil, thinking=(evil,)))
    id = house.submit(evil, model=f"m{evil}", tags=[evil.replace(",", "")])
    house.wait_status(id, "completed")
    monitor = open_monitor(house, f"#/t/{id}")
    expect(monitor.page.locator("#output")).to_have_text(evil)
    expect(monitor.rows().first.locator(".c-prompt")).to_have_text(evil)
    expect(monitor.rows().first.locator(".c-model")).to_have_text(f"m{evil}")
    for name in ("request", "result", "timeline"):
        monitor.page.locator(f"#tab-{name}").click()
        expect(monitor.page.locator("#drawer-panel")).to_contain_text("<script>")
    assert monitor.page.locator("#app img, #app script, #app b").count() == 0
    assert monitor.page.title() == "oq"


# 9
def test_the_filter_is_in_the_address_survives_a_reload_and_the_empty_state_clears_it(
    big: House, open_monitor: Open
) -> None:
    monitor = open_monitor(big)
    monitor.page.locator("#filter").fill("model:gemma2:9b Go function")
    expect(monitor.page.locator(".matches")).to_have_text(re.compile("match"))
    expect(monitor.page).to_have_url(re.compile(r"#/\?f=model%3Agemma2%3A9b"))
    shown = number(monitor.page.locator(".matches").text_content())
    assert shown == big.total(model="gemma2:9b", q="Go function")
    monitor.page.reload()
    expect(monitor.page.locator("#filter")).to_have_value("model:gemma2:9b Go function")
    monitor.wait(
        lambda: number(monitor.page.locator(".matches").text_content()) == shown, "as many as before"
    )
    monitor.page.locator("#filter").fill("no such words at all")
    expect(monitor.page.locator(".notice")).to_contain_text("No task matches the filter.")
    monitor.page.get_by_role("button", name="Clear filter").click()
    expect(monitor.rows().nth(10)).to_be_visible()
    assert monitor.page.locator("#filter").input_value() == ""


# 10
def test_the_keyboard_alone_retries_the_third_row(house: House, open_monitor: Open) -> None:
    house.api.post("/api/queue/pause")
    ids = [house.submit(f"task {n}") for n in range(5)]
    house.api.post("/api/tasks/bulk", json={"action": "cancel", "filter": {}})
    monitor = open_monitor(house)
    expect(monitor.rows()).to_have_count(5)
    for key in ("j", "j", "j", "Enter"):
        monitor.page.keyboard.press(key)
    expect(monitor.page.locator(".drawer .id")).to_have_text(ids[2])
    monitor.page.keyboard.press("r")
    expect(monitor.page.locator(".toast")).to_contain_text("Retried")
    monitor.page.keyboard.press("Escape")
    expect(monitor.page.locator(".drawer")).to_have_count(0)
    assert [house.get(id)["status"] for id in ids] == [
        "cancelled",
        "cancelled",
        "pending",
        "cancelled",
        "cancelled",
    ]


# 11
def test_a_range_has_five_and_all_that_match_are_retried_and_counted(
    house: House, open_monitor: Open
) -> None:
    house.api.post("/api/queue/pause")
    house.batch([{"type": "generate", "model": "m", "payload": {"prompt": f"t {n}"}} for n in range(150)])
    house.api.post("/api/tasks/bulk", json={"action": "cancel", "filter": {}})
    monitor = open_monitor(house, "#/?status=cancelled")
    expect(monitor.rows().nth(10)).to_be_visible()
    boxes = monitor.rows().locator("input[type=checkbox]")
    boxes.nth(1).click()
    boxes.nth(5).click(modifiers=["Shift"])
    expect(monitor.page.locator(".bulk strong")).to_have_text("5 selected")
    monitor.page.get_by_role("button", name="Select all 150 matching").click()
    monitor.page.locator(".bulk").get_by_role("button", name="Retry").click()
    expect(monitor.page.locator(".toast")).to_have_text(re.compile("Retried: 150"))
    assert house.total(status="pending") == 150


# 12
def test_language_and_colours_stay_a_phone_has_no_sideways_scroll_and_a_deep_link_opens_the_task(
    house: House, open_monitor: Open
) -> None:
    house.fake.script(says("An answer"))
    id = house.submit("long " * 60, model="m" * 300)
    house.wait_status(id, "completed")
    monitor = open_monitor(house, viewport={"width": 390, "height": 844})
    monitor.page.get_by_role("button", name="中文").click()
    monitor.page.get_by_role("button", name="配色").click()
    monitor.page.get_by_role("button", name="配色").click()
    for place in ("", f"#/t/{id}", "#/hosts", "#/events"):
        monitor.page.goto(f"{house.url}/{place}")
        monitor.page.reload()
        expect(monitor.page.locator("html")).to_have_attribute("lang", "zh-CN")
        expect(monitor.page.locator("html")).to_have_attribute("data-theme", "dark")
        expect(monitor.page.locator("nav a[aria-current]")).to_be_visible()
        assert monitor.page.evaluate("() => document.documentElement.scrollWidth") <= 390, place
    monitor.page.goto(f"{house.url}/#/t/{id}")
    expect(monitor.page.locator("#output")).to_have_text("An answer")
    expect(monitor.page.locator(".drawer .status")).to_have_text(re.compile("已完成"))


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(house: House, open_monitor: Open, axe: str, scheme: str) -> None:
    house.fake.script(says("fine"))
    ids = [
        house.submit("good"),
        house.submit("later", delay="1h", priority="low"),
        house.submit("soon", delay="1h"),
    ]
    house.api.post(f"/api/tasks/{ids[2]}/cancel")
    house.wait_status(ids[0], "completed")
    monitor = open_monitor(house, color_scheme=scheme)
    for place, do in (
        ("", None), (f"#/t/{ids[0]}", "#tab-timeline"), (f"#/t/{ids[0]}", "#tab-request"), (f"#/t/{ids[1]}", ".row input"),
        ("#/?f=nothing", None), ("#/hosts", None), ("#/events", None), ("", ".new"), ("", "[aria-label^=Help]"), ("#/t/nope", None),
    ):  # fmt: skip
        monitor.page.goto(f"{house.url}/{place}")
        monitor.page.reload()
        expect(monitor.page.locator(".live.on")).to_be_visible()
        if do:
            monitor.page.locator(do).first.click()
        monitor.page.wait_for_timeout(300)  # skeletons and animations are over
        monitor.page.evaluate(axe)
        found = monitor.page.evaluate(
            "async () => (await axe.run()).violations.map(({id, nodes}) => [id, ...nodes.slice(0, 3).map(({html}) => html.slice(0, 150))])"
        )
        assert found == [], place
    monitor.complaints = [
        text for text in monitor.complaints if "404" not in text
    ]  # the task that is not there
