"""Who may ask, and how much may be sent."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio

from oq.config import settings_from

from .conftest import TASK, House, open_house


async def status(house: House, path: str = "/api/status", method: str = "GET", **headers: str) -> int:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return int((await house.client.open(path, method=method, headers=fields)).status_code)


@pytest.mark.parametrize(
    "host", ["localhost", "127.0.0.1:7125", "[::1]:7125", "192.168.1.9", "a.localhost", "LOCALHOST"]
)
async def test_an_address_and_localhost_may_be_asked(house: House, host: str) -> None:
    assert await status(house, Host=host) == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example", "localhost.evil.example", "127.0.0.1.evil.example:7125", "", "a@b", "127.0.0.1@evil.example",
        "[::1].evil.example", "127.0.0.1/.evil.example", "127.0.0.1#evil.example", "evil.example\\@127.0.0.1",
        "127.0.0.1:80:evil.example", "127.0.0.1,evil.example",
    ],
)  # fmt: skip
async def test_a_foreign_name_is_refused(house: House, host: str) -> None:
    assert await status(house, Host=host) == 403


@pytest.mark.parametrize("path", ["/api/tasks", "/", "/health", "/nothing", "/metrics"])
async def test_the_check_holds_for_every_path(house: House, path: str) -> None:
    assert await status(house, path, Host="evil.example") == 403


async def test_configured_names_may_be_asked(autojump_clock: Any) -> None:
    async with open_house(settings_from(allowed_hosts=["queue.example"])) as house:
        assert await status(house, Host="queue.example:7125") == 200
        assert await status(house, Host="other.example") == 403


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1", "localhost", ""])
async def test_a_foreign_page_may_not_post(house: House, origin: str) -> None:
    answer = await house.post("/api/tasks", TASK, Origin=origin)
    assert (answer.status_code, (await answer.get_json())["code"]) == (403, "forbidden")
    assert house.queue.stats().total == 0


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
@pytest.mark.parametrize("dest", ["image", "script", "empty", "iframe", None])
async def test_a_foreign_page_may_not_ask_either_though_it_could_not_read(
    house: House, site: str, dest: str | None
) -> None:
    sent = {"Sec-Fetch-Site": site} | ({"Sec-Fetch-Dest": dest} if dest else {})
    answer = await house.client.get("/api/tasks?q=secret", headers=sent)
    assert (answer.status_code, (await answer.get_json())["code"]) == (403, "forbidden")


@pytest.mark.parametrize(
    ("site", "dest"),
    [("cross-site", "document"), ("same-origin", "empty"), ("none", "document"), ("none", "empty")],
)
async def test_a_link_and_our_own_page_may(house: House, site: str, dest: str) -> None:
    answer = await house.client.get("/api/tasks", headers={"Sec-Fetch-Site": site, "Sec-Fetch-Dest": dest})
    assert answer.status_code == 200


async def test_a_friendly_page_may_ask(autojump_clock: Any) -> None:
    async with open_house(settings_from(allowed_origins=["https://app.example"])) as house:
        sent = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Dest": "empty", "Origin": "https://app.example"}
        assert (await house.client.get("/api/tasks", headers=sent)).status_code == 200


async def test_our_own_page_may_post(house: House) -> None:
    answer = await house.post("/api/tasks", TASK, Origin="http://localhost:7125", Host="localhost:7125")
    assert answer.status_code == 201


async def test_a_friendly_page_may_post_and_its_browser_is_told_so(autojump_clock: Any) -> None:
    async with open_house(settings_from(allowed_origins=["https://app.example"])) as house:
        answer = await house.post("/api/tasks", TASK, Origin="https://app.example")
        assert (answer.status_code, answer.headers["Access-Control-Allow-Origin"]) == (
            201,
            "https://app.example",
        )
        preflight = await house.client.open(
            "/api/tasks", method="OPTIONS", headers={"Origin": "https://app.example"}
        )
        assert (preflight.status_code, "POST" in preflight.headers["Access-Control-Allow-Methods"]) == (
            204,
            True,
        )


async def knock(house: House, query: bytes = b"", **headers: str) -> list[dict[str, Any]]:
    """Ask for the WebSocket by plain ASGI; return what the app sends at first."""
    return await knock_with(house, [], query, **headers)


async def knock_with(
    house: House, subprotocols: list[str], query: bytes = b"", **headers: str
) -> list[dict[str, Any]]:
    if subprotocols:
        headers["Sec-WebSocket-Protocol"] = ", ".join(subprotocols)
    sent: list[dict[str, Any]] = []
    connecting: list[dict[str, Any]] = [{"type": "websocket.connect"}]
    scope = {
        "type": "websocket", "path": "/ws", "query_string": query, "scheme": "ws", "http_version": "1.1",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        "subprotocols": subprotocols, "extensions": {"websocket.http.response": {}}, "asgi": {"spec_version": "2.3"},
    }  # fmt: skip
    with trio.CancelScope() as scope_of_app:

        async def receive() -> dict[str, Any]:
            if connecting:
                return connecting.pop()
            await trio.sleep_forever()
            raise AssertionError

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)
            if message["type"] == "websocket.send":
                scope_of_app.cancel()

        with trio.move_on_after(5):
            await house.app(scope, receive, send)  # type: ignore[arg-type]
    return sent


async def test_the_websocket_is_refused_to_a_foreign_page(house: House) -> None:
    start, body = await knock(house, Host="localhost", Origin="https://evil.example")
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 403)
    assert json.loads(body["body"])["code"] == "forbidden"


async def test_the_websocket_is_open_to_our_own_page(house: House) -> None:
    accepted, hello = await knock(house, Host="localhost", Origin="http://localhost")
    assert (accepted["type"], json.loads(hello["text"])["type"]) == ("websocket.accept", "hello")


async def test_with_a_token_only_who_has_it_is_served(autojump_clock: Any) -> None:
    async with open_house(settings_from(token="secret-token")) as house:
        assert await status(house) == 401
        assert await status(house, Authorization="Bearer wrong") == 401
        assert await status(house, Authorization="Basic secret-token") == 401
        assert await status(house, Authorization="Bearer secret-token") == 200
        assert await status(house, "/metrics") == 401
        assert await status(house, "/api/status?token=secret-token") == 401
        for open_path in ("/", "/health"):
            assert await status(house, open_path) == 200
        answer = await house.client.get("/api/status")
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert (await knock(house, b"token=secret-token"))[0]["type"] == "websocket.accept"
        assert (await knock(house, Authorization="Bearer secret-token"))[0]["type"] == "websocket.accept"
        for query in (b"", b"token=", b"token=wrong"):
            assert (await knock(house, query))[0]["status"] == 401


async def test_a_body_past_the_limit_is_413_also_when_it_comes_in_pieces(autojump_clock: Any) -> None:
    async with open_house(settings_from(server__max_body_bytes=1024)) as house:
        for path in ("/api/tasks", "/api/tasks/batch"):
            answer = await house.post(path, b"x" * 2000)
            assert (answer.status_code, (await answer.get_json())["code"]) == (413, "too_large")
            async with house.client.request(
                path, method="POST", headers={"Content-Type": "application/json"}
            ) as connection:
                for _ in range(4):
                    await connection.send(b"x" * 500)
                await connection.send_complete()
            answer = await connection.as_response()
            assert (answer.status_code, (await answer.get_json())["code"]) == (413, "too_large")
            assert answer.headers["X-Request-ID"]
        assert (await house.client.get("/api/status")).status_code == 200


async def test_lines_past_the_limit_are_413(autojump_clock: Any) -> None:
    async with open_house(settings_from(server__max_body_bytes=1024)) as house:
        line = json.dumps(TASK).encode() + b"\n"
        async with house.client.request(
            "/api/tasks/batch", method="POST", headers={"Content-Type": "application/x-ndjson"}
        ) as connection:
            for _ in range(20):
                await connection.send(line)
            await connection.send_complete()
        assert (await connection.as_response()).status_code == 413


async def test_every_answer_has_the_requests_name(house: House) -> None:
    given = await house.client.get("/api/status", headers={"X-Request-ID": "mine-1"})
    assert given.headers["X-Request-ID"] == "mine-1"
    odd = await house.client.get("/api/status", headers={"X-Request-ID": "a b"})
    other = await house.client.get("/api/nothing")
    assert len({odd.headers["X-Request-ID"], other.headers["X-Request-ID"], "a b"}) == 3
