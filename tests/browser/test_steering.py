"""What a person does in the monitor: new tasks, one task, many tasks, the queue."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_ollama import says, status
from playwright.sync_api import expect

from oq.tokens import Scope, TokenFile

from .conftest import House, Monitor, open_house

pytestmark = pytest.mark.slow
Open = Callable[..., Monitor]


def copied(monitor: Monitor, button: str) -> str:
    monitor.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    monitor.page.get_by_role("button", name=button).first.click()
    expect(monitor.page.locator(".toast").last).to_contain_text("copied")
    text: str = monitor.page.evaluate("() => navigator.clipboard.readText()")
    return text


def test_a_chat_of_several_messages_is_submitted_as_it_was_written(house: House, open_monitor: Open) -> None:
    house.api.post("/api/queue/pause")
    monitor = open_monitor(house)
    page = monitor.page
    page.keyboard.press("n")
    assert page.locator("#models option").first.get_attribute("value") == "llama3.2"
    expect(page.locator("#f-model")).to_have_value("llama3.2")  # the only one that the host has
    page.locator("#f-system").fill("Be brief")
    page.get_by_label("Message 1", exact=True).fill("Hi")
    for number, text in ((2, "Hello!"), (3, "Why is the sky blue?")):
        page.get_by_role("button", name="Add a message").click()
        page.get_by_label(f"Message {number}", exact=True).fill(text)
    page.get_by_text("Tags, delay, options, format").click()
    page.locator("#f-tags").fill("weather, sky")
    page.locator("#f-options").fill('{"seed": 9007199254740993}')
    page.locator("#f-format-kind").select_option("schema")
    page.locator("#f-format").fill('{"type": "object"}')
    page.locator("#f-priority").select_option("10")
    curl = copied(monitor, "Copy as curl")
    assert curl.startswith(f"curl -sS {house.url}/api/tasks ")
    assert "9007199254740993" in curl
    assert copied(monitor, "Copy as CLI").startswith(
        f"oq --server {house.url} submit chat -m llama3.2 --priority high"
    )
    page.get_by_role("button", name="Submit").click()
    expect(page.locator(".drawer .id")).to_be_visible()
    id = page.locator(".drawer .id").text_content() or ""
    text = house.api.get(f"/api/tasks/{id}").text
    assert '"seed": 9007199254740993' in text
    task = json.loads(text)
    roles = [(message["role"], message["content"]) for message in task["payload"]["messages"]]
    assert roles == [("user", "Hi"), ("assistant", "Hello!"), ("user", "Why is the sky blue?")]
    assert (task["priority"], task["tags"], task["payload"]["format"]) == (
        10,
        ["weather", "sky"],
        {"type": "object"},
    )
    expect(page.locator(".waits")).to_contain_text("The queue is paused")


FORM = {"en-US": ("Tags, delay, options, format", "Submit"), "zh-CN": ("标签、延迟、选项、格式", "提交")}


@pytest.mark.parametrize(
    ("locale", "field", "value", "said"),
    [
        ("en-US", "delay", "soon", "delay must be seconds or a duration"),
        ("en-US", "max_retries", "many", "max_retries must be"),
        ("en-US", "options", "{bad", "This is not valid JSON."),
        ("en-US", "tags", "x" * 300, "a tag has 1 to 200 characters"),
        ("zh-CN", "model", " ", "模型名应为 1 至 500 个字符。"),
        ("zh-CN", "delay", "soon", "延迟应为秒数"),
        ("zh-CN", "max_retries", "many", "重试次数应为不小于 0 的整数。"),
        ("zh-CN", "tags", "x" * 300, "每个标签为 1 至 200 个字符"),
    ],
)
def test_what_is_wrong_is_said_at_its_field_and_in_the_readers_language(
    house: House, open_monitor: Open, locale: str, field: str, value: str, said: str
) -> None:
    monitor = open_monitor(house, locale=locale)
    page, (more, submit) = monitor.page, FORM[locale]
    page.keyboard.press("n")
    page.locator("form.new-task textarea").nth(1).fill("Hi")
    page.locator("#f-model").fill("llama3.2")
    page.get_by_text(more).click()
    page.locator(f"#f-{field}").fill(value)
    page.get_by_role("button", name=submit).click()
    expect(page.locator(f"#e-{field}")).to_contain_text(said)
    expect(page.locator(f"#f-{field}")).to_be_focused()
    expect(page.locator(f"#f-{field}")).to_have_attribute("aria-invalid", "true")
    monitor.complaints = [text for text in monitor.complaints if "422" not in text]  # Chromium logs every 4xx


def test_a_refused_action_is_said_in_chinese_with_the_servers_own_words(
    house: House, open_monitor: Open
) -> None:
    id = house.submit("你好")
    house.wait_status(id, "completed")
    monitor = open_monitor(house, f"#/t/{id}", locale="zh-CN")
    page = monitor.page
    expect(page.locator(".drawer .id")).to_be_visible()
    page.evaluate(
        """async (id) => {
        const {actOnOne} = await import('/static/actions.js');
        window.wrong = await actOnOne(id, 'cancel');
    }""",
        id,
    )
    assert page.evaluate("window.wrong").startswith("任务当前的状态不允许此操作")
    assert page.evaluate("window.wrong").endswith("）")
    monitor.complaints = [text for text in monitor.complaints if "409" not in text]


def test_a_failed_task_shows_its_error_its_attempts_and_can_be_cloned(
    house: House, open_monitor: Open
) -> None:
    house.fake.script(status(404, "model 'gone' not found"))
    id = house.submit("Tell me", model="gone", options={"seed": 9007199254740993})
    house.wait_status(id, "failed")
    monitor = open_monitor(house, f"#/t/{id}")
    page = monitor.page
    expect(page.locator(".drawer .box.bad")).to_contain_text("model 'gone' not found")
    expect(monitor.rows().first.locator(".c-prompt")).to_contain_text("Tell me")
    expect(monitor.rows().first.locator(".c-prompt .error")).to_contain_text("404")
    page.locator("#tab-timeline").click()
    expect(page.locator(".timeline li")).to_have_count(3)
    expect(page.locator(".timeline .m-failed")).to_contain_text("Attempt failed #1")
    page.locator("#tab-request").click()
    expect(page.locator("#drawer-panel")).to_contain_text("9007199254740993")
    page.get_by_role("button", name="Clone and edit").click()
    expect(page.locator("#f-prompt")).to_have_value("Tell me")
    page.locator("#f-model").fill("llama3.2")
    page.get_by_role("button", name="Submit").click()
    expect(page.locator(".drawer .status")).to_contain_text("Completed")
    text = house.api.get(f"/api/tasks/{page.locator('.drawer .id').text_content()}").text
    assert "9007199254740993" in text


def test_embeddings_are_summed_up_and_can_be_copied_exactly(house: House, open_monitor: Open) -> None:
    id = house.api.post(
        "/api/tasks", json={"type": "embed", "model": "e", "payload": {"input": ["a", "b"]}}
    ).json()["task_id"]
    house.wait_status(id, "completed")
    monitor = open_monitor(house, f"#/t/{id}")
    expect(monitor.page.locator(".vectors")).to_contain_text("2 × 2 numbers")
    assert json.loads(copied(monitor, "Copy the embeddings")) == [[0.5, 0.25], [0.5, 0.25]]


def test_many_are_cancelled_and_deleted_after_a_question_with_their_number(
    house: House, open_monitor: Open
) -> None:
    house.api.post("/api/queue/pause")
    house.batch([{"type": "generate", "model": "m", "payload": {"prompt": f"t {n}"}} for n in range(6)])
    monitor = open_monitor(house)
    page = monitor.page
    expect(monitor.rows()).to_have_count(6)
    for key in ("j", "x", "j", "x"):
        page.keyboard.press(key)
    page.keyboard.press("c")
    expect(page.locator("dialog")).to_contain_text("Cancel 2 tasks?")
    page.locator("dialog").get_by_role("button", name="Keep").click()
    assert house.total(status="cancelled") == 0
    page.keyboard.press("c")
    page.locator("dialog").get_by_role("button", name="Cancel").click()
    expect(page.locator(".toast")).to_contain_text("Cancelled: 2")
    assert house.total(status="cancelled") == 2
    for row in range(3):
        monitor.rows().nth(row).locator("input").click()
    page.locator(".bulk").get_by_role("button", name="Delete").click()
    expect(page.locator("dialog")).to_contain_text("Delete 3 tasks with their results?")
    page.locator("dialog").get_by_role("button", name="Delete").click()
    expect(page.locator(".toast").last).to_contain_text("Deleted: 2, skipped: 1")
    expect(page.locator(".tab", has_text="All")).to_contain_text("4")


def test_the_queue_is_paused_and_resumed_and_every_page_says_so(house: House, open_monitor: Open) -> None:
    first, second = open_monitor(house), open_monitor(house, "#/events")
    first.page.get_by_role("button", name="Pause queue").click()
    expect(second.page.locator(".banner.warn")).to_contain_text("The queue is paused")
    expect(second.page.locator(".events")).to_contain_text("Queue paused")
    first.page.get_by_role("button", name="Resume queue").click()
    expect(second.page.locator(".banner.warn")).to_have_count(0)
    id = house.submit("an event")
    expect(second.page.locator(".events tbody tr", has_text=id[-8:]).first).to_be_visible()


def test_a_dead_host_is_red_and_says_why(tmp_path: Path, open_monitor: Open) -> None:
    with open_house(tmp_path, "--ollama-host", "http://127.0.0.1:9") as house:
        for number in range(6):
            house.submit(f"task {number}")
        monitor = open_monitor(house, "#/hosts")
        expect(monitor.page.locator(".card.down")).to_contain_text("connection refused")
        expect(monitor.page.locator(".card:not(.down)")).to_contain_text("llama3.2")
        monitor.page.get_by_role("link", name="Tasks").click()
        expect(monitor.page.locator(".host.down")).to_contain_text("down")
        monitor.close()


def test_an_empty_queue_says_how_to_begin(house: House, open_monitor: Open) -> None:
    monitor = open_monitor(house)
    expect(monitor.page.locator(".notice")).to_contain_text("The queue is empty.")
    expect(monitor.page.locator(".notice code")).to_contain_text(f"oq --server {house.url} submit chat")


def test_a_server_with_a_token_asks_for_it_once(tmp_path: Path, open_monitor: Open) -> None:
    with open_house(tmp_path, OQ_SERVER__TOKEN="secret") as house:
        house.api.headers["Authorization"] = "Bearer secret"
        id = house.submit("hidden")
        monitor = open_monitor(house)
        monitor.page.locator("dialog input[name=token]").fill("secret")
        monitor.page.get_by_role("button", name="Use it").click()
        expect(monitor.rows()).to_have_count(1)
        expect(monitor.page.locator(".live.on")).to_be_visible()
        monitor.page.goto(f"{house.url}/#/t/{id}")
        expect(monitor.page.locator(".drawer .id")).to_have_text(id)
        monitor.complaints = [text for text in monitor.complaints if not re.search("401|WebSocket", text)]
        monitor.close()


def test_a_token_of_this_server_signs_in_for_this_tab_and_is_in_no_address(
    tmp_path: Path, open_monitor: Open
) -> None:
    secret = TokenFile(tmp_path / "data").create("eye", Scope.READ, 0.0)
    with open_house(tmp_path, OQ_SERVER__ACCESS_LOG="true") as house:
        monitor = open_monitor(house)
        addresses: list[str] = []
        monitor.page.on("websocket", lambda socket: addresses.append(socket.url))
        monitor.page.locator("dialog input[name=token]").fill("wrong")
        monitor.page.get_by_role("button", name="Use it").click()
        expect(monitor.page.locator("dialog [role=alert]")).to_contain_text("not known")
        monitor.page.locator("dialog input[name=token]").fill(secret)
        monitor.page.get_by_role("button", name="Use it").click()
        expect(monitor.page.locator(".live.on")).to_be_visible()
        stores = "[sessionStorage.getItem('oq.token'), localStorage.getItem('oq.token')]"
        assert monitor.page.evaluate(stores) == [secret, None]
        assert addresses
        assert not any(secret in address for address in addresses)
        TokenFile(tmp_path / "data").revoke("eye")
        expect(monitor.page.locator(".live.on")).to_have_count(0)
        monitor.complaints = [text for text in monitor.complaints if not re.search("401|WebSocket", text)]
        monitor.close()


def test_a_wrong_action_is_explained_in_the_drawer(house: House, open_monitor: Open) -> None:
    house.fake.script(says("done"))
    id = house.submit("quick")
    house.wait_status(id, "completed")
    monitor = open_monitor(house, f"#/t/{id}")
    expect(monitor.page.locator("#output")).to_have_text("done")
    house.api.post("/api/queue/pause")
    house.api.post(f"/api/tasks/{id}/retry")
    expect(monitor.page.locator(".drawer .status")).to_contain_text("Pending")
    monitor.page.route(
        "**/cancel", lambda route: (house.api.post(f"/api/tasks/{id}/cancel"), route.continue_())
    )
    monitor.page.locator(".actions").get_by_role("button", name="Cancel").click()
    expect(monitor.page.locator(".drawer [role=alert]")).to_contain_text("cannot be cancelled")
    monitor.complaints = [text for text in monitor.complaints if "409" not in text]
