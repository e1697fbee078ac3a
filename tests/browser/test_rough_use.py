"""A person who clicks twice, holds keys down, goes back and reloads; and texts that were written to do harm."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from fake_ollama import says, status
from playwright.sync_api import expect

from .conftest import House, Monitor

pytestmark = pytest.mark.slow
Open = Callable[..., Monitor]
EVIL = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"><b>b</b>"
BACKWARDS = "\u202eevil\u200b\ufeff שלום"  # turns what follows round, and has characters of no width


def cancelled(house: House) -> str:
    house.api.post("/api/queue/pause")
    id = house.submit("twice")
    house.api.post(f"/api/tasks/{id}/cancel")
    return id


def calls(monitor: Monitor) -> list[str]:
    """The actions that the page asks for, as they come."""
    found: list[str] = []
    monitor.page.on(
        "request",
        lambda asked: found.append(asked.url.rpartition("/")[2]) if asked.method == "POST" else None,
    )
    return found


def test_a_double_click_on_retry_retries_once_and_cancels_nothing(house: House, open_monitor: Open) -> None:
    id = cancelled(house)
    monitor = open_monitor(house, f"#/t/{id}")
    asked = calls(monitor)
    box = monitor.page.locator(".actions").get_by_role("button", name="Retry").bounding_box()
    assert box is not None
    monitor.page.mouse.move(box["x"] + 9, box["y"] + 9)
    monitor.page.mouse.down(click_count=1)
    monitor.page.mouse.up(click_count=1)
    # The second click comes when the other button has taken the place.
    expect(monitor.page.locator(".actions").get_by_role("button", name="Cancel")).to_be_visible()
    monitor.page.mouse.down(click_count=2)
    monitor.page.mouse.up(click_count=2)
    monitor.page.locator("#tab-timeline").click()
    assert asked == ["retry"]
    assert house.get(id)["status"] == "pending"


def test_a_double_click_on_the_question_deletes_once(house: House, open_monitor: Open) -> None:
    id = cancelled(house)
    house.submit("stays")
    monitor = open_monitor(house, f"#/t/{id}")
    monitor.page.locator(".actions").get_by_role("button", name="Delete").dblclick()
    expect(monitor.page.locator("dialog")).to_contain_text("Delete 1 task with its result?")
    monitor.page.locator("dialog").get_by_role("button", name="Delete").dblclick()
    expect(monitor.page.locator(".toast")).to_have_text(re.compile("Deleted"))
    expect(monitor.rows()).to_have_count(1)
    expect(monitor.page.locator(".toast.bad")).to_have_count(0)
    assert house.total() == 1


def test_a_key_that_is_held_down_acts_once(house: House, open_monitor: Open) -> None:
    id = cancelled(house)
    monitor = open_monitor(house, f"#/t/{id}")
    expect(monitor.page.locator(".drawer .status")).to_contain_text("Cancelled")
    asked = calls(monitor)
    for _ in range(5):
        monitor.page.keyboard.down("r")
    monitor.page.keyboard.up("r")
    expect(monitor.page.locator(".drawer .status")).to_contain_text("Pending")
    assert asked == ["retry"]


def test_a_begun_task_survives_escape_and_reload_until_it_is_submitted(
    house: House, open_monitor: Open
) -> None:
    monitor = open_monitor(house)
    page = monitor.page
    page.keyboard.press("n")
    page.get_by_label("Message 1", exact=True).fill("a long prompt")
    page.keyboard.press("Escape")
    expect(page.locator("dialog")).to_have_count(0)
    page.reload()
    expect(page.locator(".live.on")).to_be_visible()
    page.keyboard.press("n")
    expect(page.get_by_label("Message 1", exact=True)).to_have_value("a long prompt")
    expect(page.locator("#f-model")).to_have_value("llama3.2")
    page.get_by_role("button", name="Submit").click()
    expect(page.locator(".drawer .id")).to_be_visible()
    page.keyboard.press("n")
    expect(page.get_by_label("Message 1", exact=True)).to_have_value("")
    page.get_by_label("Message 1", exact=True).fill("another")
    page.get_by_role("button", name="Start over").click()
    expect(page.get_by_label("Message 1", exact=True)).to_have_value("")
    expect(page.get_by_role("button", name="Start over")).to_have_count(0)


def test_back_and_forward_go_through_the_tasks_that_were_opened(house: House, open_monitor: Open) -> None:
    house.api.post("/api/queue/pause")
    first, second = house.submit("first"), house.submit("second")
    monitor = open_monitor(house)
    page = monitor.page
    monitor.rows().nth(0).locator(".c-prompt").click()
    expect(page.locator(".drawer .id")).to_have_text(second)
    monitor.rows().nth(1).locator(".c-prompt").click()
    expect(page.locator(".drawer .id")).to_have_text(first)
    page.go_back()
    expect(page.locator(".drawer .id")).to_have_text(second)
    page.go_back()
    expect(page.locator(".drawer")).to_have_count(0)
    page.go_forward()
    expect(page.locator(".drawer .id")).to_have_text(second)


@pytest.mark.parametrize(
    "id", ["nope", "%3Cb%3Eb%3C%2Fb%3E", "..", ".", "..%2Fhosts", "%E0%A4%A", "x" * 3000]
)
def test_an_address_of_no_task_is_answered_in_words_and_the_list_stays(
    house: House, open_monitor: Open, id: str
) -> None:
    house.api.post("/api/queue/pause")
    house.submit("a task")
    monitor = open_monitor(house, f"#/t/{id}")
    expect(monitor.page.locator(".drawer .notice")).to_contain_text("There is no task")
    expect(monitor.rows()).to_have_count(1)
    assert monitor.page.locator("#app b").count() == 0
    monitor.page.keyboard.press("Escape")
    expect(monitor.page.locator(".drawer")).to_have_count(0)
    monitor.complaints = [text for text in monitor.complaints if not re.search("40[04]", text)]


def test_a_task_that_is_deleted_while_it_is_open_says_so(house: House, open_monitor: Open) -> None:
    id = cancelled(house)
    monitor = open_monitor(house, f"#/t/{id}")
    expect(monitor.page.locator(".drawer .status")).to_contain_text("Cancelled")
    house.api.delete(f"/api/tasks/{id}")
    expect(monitor.page.locator(".drawer .notice")).to_contain_text(f"There is no task {id}")
    monitor.complaints = [text for text in monitor.complaints if "404" not in text]


def test_an_error_of_the_model_server_stays_text_in_every_view(house: House, open_monitor: Open) -> None:
    house.fake.script(status(404, EVIL))
    id = house.submit("fails", model=f"m{EVIL}", tags=["a", BACKWARDS, "b"], max_retries=0)
    house.wait_status(id, "failed")
    monitor = open_monitor(house, f"#/t/{id}")
    page = monitor.page
    expect(monitor.rows().first.locator(".error")).to_contain_text("<script>")
    expect(page.locator(".drawer .box.bad")).to_contain_text("<script>")
    page.locator("#tab-timeline").click()
    expect(page.locator(".timeline .error-text")).to_contain_text("<script>")
    page.get_by_role("link", name="Events").click()
    expect(page.locator(".events .detail").first).to_contain_text("<script>")
    assert page.locator("#app img, #app script, #app b").count() == 0
    assert page.title() == "oq"


def test_a_name_that_runs_backwards_turns_nothing_else_round(house: House, open_monitor: Open) -> None:
    house.fake.script(says("done"))
    id = house.submit("turned", model=f"m{BACKWARDS}", tags=["before", BACKWARDS, "after"])
    house.wait_status(id, "completed")
    monitor = open_monitor(house, f"#/t/{id}")
    places = """(texts) => {
      const box = (text) => {
        const walker = document.createTreeWalker(document.querySelector(texts.root), NodeFilter.SHOW_TEXT);
        for (let node; (node = walker.nextNode());) {
          const at = node.data.indexOf(text);
          if (at < 0) continue;
          const range = document.createRange();
          range.setStart(node, at);
          range.setEnd(node, at + text.length);
          const {left, right, top} = range.getBoundingClientRect();
          return {left, right, top};
        }
        throw new Error(`no ${text}`);
      };
      return texts.all.map(box);
    }"""
    expect(monitor.page.locator(".facts bdi")).to_have_count(3)
    before, after = monitor.page.evaluate(places, {"root": ".facts", "all": ["before", "after"]})
    assert before["right"] <= after["left"]
    monitor.page.get_by_role("link", name="Events").click()
    started = monitor.page.locator(".events tr", has_text="Completed").locator(".detail bdi")
    expect(started).to_have_count(2)
    model, host = started.nth(0).bounding_box(), started.nth(1).bounding_box()
    assert model is not None
    assert host is not None
    assert model["x"] + model["width"] <= host["x"]
