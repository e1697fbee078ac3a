"""Tokens: who may do what, on every route and every kind of connection; and what a stranger can try."""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from oq.config import settings_from
from oq.tokens import Scope, TokenFile
from oq.web.errors import HttpError
from oq.web.openapi import openapi_dict
from oq.web.scopes import NEEDS, OPEN, needed, row_of

from .conftest import TASK, House, open_house, reading
from .test_guard import knock
from .test_openapi import METHODS

FIXED = "a-word-that-a-person-chose"


class Locked:
    """A house that asks for tokens, and one of each scope."""

    def __init__(self, house: House, file: TokenFile, secrets: dict[str, str]) -> None:
        self.house, self.file, self.secrets = house, file, secrets

    async def ask(
        self, path: str = "/api/status", method: str = "GET", token: str | None = None, **more: Any
    ) -> Any:
        headers = {"Content-Type": "application/json"} | (
            {"Authorization": f"Bearer {token}"} if token else {}
        )
        return await self.house.client.open(path, method=method, headers=headers, **more)

    async def status(self, path: str = "/api/status", method: str = "GET", token: str | None = None) -> int:
        return int((await self.ask(path, method, token)).status_code)


@asynccontextmanager
async def lock(folder: Path, **changes: Any) -> AsyncIterator[Locked]:
    file = TokenFile(folder)
    secrets = {scope.word: file.create(scope.word, scope, 0.0) for scope in Scope}
    async with open_house(settings_from(storage_path=folder, **changes)) as house:
        yield Locked(house, file, secrets)


@pytest.fixture
async def locked(autojump_clock: Any, tmp_path: Path) -> AsyncIterator[Locked]:
    async with lock(tmp_path, token=FIXED) as found:
        yield found


def test_every_route_has_its_scope() -> None:
    for path, item in openapi_dict()["paths"].items():
        for method in METHODS & set(item):
            real = re.sub(r"\{\w+\}", "x", path)
            assert row_of(method.upper(), real), f"{method.upper()} {path} has no row in oq/web/scopes.py"


def test_what_has_no_row_needs_most() -> None:
    for method, path in (
        ("GET", "/api/new"),
        ("PUT", "/api/tasks"),
        ("GET", "/staticky"),
        ("GET", "http://x/health"),
    ):
        assert row_of(method, path) is None
        assert needed(method, path) is Scope.ADMIN


def test_reading_changes_nothing_and_only_admins_change_what_others_submitted() -> None:
    assert all(
        method in ("GET", "HEAD") or path == "/api/show"
        for method, paths in NEEDS[Scope.READ].items()
        for path in paths
    )
    for path in ("/api/tasks/bulk", "/api/tasks/x/cancel", "/api/queue/pause", "/api/pull"):
        assert needed("POST", path) is Scope.ADMIN
    assert needed("DELETE", "/api/tasks/x") is needed("DELETE", "/api/delete") is Scope.ADMIN


async def test_each_route_is_open_to_its_scope_and_to_no_lower_one(locked: Locked) -> None:
    seen = 0
    for path, item in openapi_dict()["paths"].items():
        for method in METHODS & set(item):
            if path in ("/ws", "/api/events") or "drain" in path:
                continue
            real = re.sub(r"\{\w+\}", "x", path)
            need = needed(method.upper(), real)
            assert (await locked.status(real, method.upper()) == 401) == (need is not None), path
            for word, secret in locked.secrets.items():
                answer = await locked.ask(real, method.upper(), secret)
                text = await answer.get_data(as_text=True)
                refused = answer.status_code in (401, 403)
                assert refused == (need is not None and Scope[word.upper()] < need), (
                    method,
                    path,
                    word,
                    text,
                )
                seen += 1
    assert seen > 50


async def test_the_setting_is_an_admins_token(locked: Locked) -> None:
    assert await locked.status("/api/queue/pause", "POST", FIXED) == 200


async def test_the_open_pages_have_no_data_of_tasks(locked: Locked) -> None:
    assert (
        await locked.ask("/api/tasks", "POST", FIXED, json={**TASK, "model": "secret-model"})
    ).status_code == 201
    for path in OPEN["GET"]:
        text = await (await locked.ask(path.replace("{name}", "index.html"))).get_data(as_text=True)
        assert "secret-model" not in text, path


@pytest.mark.parametrize(
    "wrong",
    ["wrong", "oq_" + "A" * 43, FIXED[:-1], FIXED + "x", FIXED.upper(), "Bearer", "\u00e9", "a" * 5000],
)
async def test_a_wrong_token_is_refused(locked: Locked, wrong: str) -> None:
    assert await locked.status(token=wrong) == 401


async def test_the_hash_of_a_token_is_no_token(locked: Locked) -> None:
    assert await locked.status(token=locked.file.read()[0].sha256) == 401


async def test_every_token_is_compared_in_constant_time(
    locked: Locked, monkeypatch: pytest.MonkeyPatch
) -> None:
    from oq.web import gate

    seen: list[tuple[bytes, bytes]] = []
    real = gate.hmac.compare_digest
    monkeypatch.setattr(gate.hmac, "compare_digest", lambda a, b: seen.append((a, b)) or real(a, b))
    for token in ("wrong", locked.secrets["read"]):
        seen.clear()
        await locked.status(token=token)
        assert len(seen) == 4
        assert {len(part) for pair in seen for part in pair} == {32}


async def test_the_websocket_takes_a_token_in_each_of_three_ways(locked: Locked) -> None:
    secret = locked.secrets["read"]
    protocols = {"Sec-WebSocket-Protocol": f"oq, oq.token.{secret}"}
    for query, headers in (
        (b"", {"Authorization": f"Bearer {secret}"}), (b"", protocols), (f"token={secret}".encode(), {}),
    ):  # fmt: skip
        assert (await knock(locked.house, query, **headers))[0]["type"] == "websocket.accept"
    for query, headers in ((b"", {"Sec-WebSocket-Protocol": "oq, oq.token.x"}), (b"token=x", {}), (b"", {})):
        assert (await knock(locked.house, query, **headers))[0]["status"] == 401


async def test_a_browser_is_answered_the_subprotocol_that_is_no_secret(locked: Locked) -> None:
    from .test_guard import knock_with

    secret = locked.secrets["read"]
    accepted = (await knock_with(locked.house, [f"oq.token.{secret}", "oq"]))[0]
    assert (accepted["type"], accepted["subprotocol"]) == ("websocket.accept", "oq")


async def test_events_take_a_token_in_the_query_and_other_routes_do_not(locked: Locked) -> None:
    secret = locked.secrets["read"]
    async with reading(locked.house, f"/api/events?token={secret}") as connection:
        await connection.receive()
        assert connection.status_code == 200
    assert await locked.status("/api/events?token=x") == 401
    assert await locked.status(f"/api/status?token={secret}") == 401


async def test_a_new_token_counts_and_a_revoked_one_does_not_at_once(locked: Locked) -> None:
    secret = locked.file.create("new", Scope.READ, 0.0)
    assert await locked.status(token=secret) == 200
    locked.file.revoke("new")
    assert await locked.status(token=secret) == 401


async def test_what_is_open_by_a_revoked_token_ends(locked: Locked) -> None:
    ended: list[str] = []

    async def hold(name: str, secret: str) -> None:
        with trio.CancelScope() as scope:
            scopes.append(scope)
            with locked.house.app.gate.holding(locked.house.app.gate.admit("GET", "/ws", b"", {
                b"authorization": b"Bearer " + secret.encode()}, "127.0.0.1")):  # fmt: skip
                await trio.sleep_forever()
            ended.append(name)

    scopes: list[trio.CancelScope] = []
    async with trio.open_nursery() as nursery:
        for name in ("read", "submit"):
            nursery.start_soon(hold, name, locked.secrets[name])
        await trio.testing.wait_all_tasks_blocked()
        locked.file.revoke("read")
        await trio.sleep(3)
        assert ended == ["read"]
        for scope in scopes:
            scope.cancel()


async def test_revoking_the_last_token_opens_nothing(autojump_clock: Any, tmp_path: Path) -> None:
    async with lock(tmp_path) as locked:
        for word in locked.secrets:
            locked.file.revoke(word)
        assert await locked.status() == 401
        locked.file.path.unlink()
        assert await locked.status() == 401
    async with lock(tmp_path) as again:
        for word in again.secrets:
            again.file.revoke(word)
    async with open_house(settings_from(storage_path=tmp_path)) as house:
        assert (await house.client.get("/api/status")).status_code == 401


async def test_the_first_token_closes_a_server_that_runs(autojump_clock: Any, tmp_path: Path) -> None:
    async with open_house(settings_from(storage_path=tmp_path)) as house:
        assert (await house.client.get("/api/status")).status_code == 200
        TokenFile(tmp_path).create("a", Scope.READ, 0.0)
        await trio.sleep(2)
        assert (await house.client.get("/api/status")).status_code == 401


async def test_a_damaged_file_lets_nobody_in(locked: Locked, caplog: pytest.LogCaptureFixture) -> None:
    locked.file.path.write_text("{}")
    assert await locked.status(token=locked.secrets["admin"]) == 401
    assert await locked.status(token=FIXED) == 200
    assert "damaged" in caplog.text


async def test_who_guesses_is_held_off_and_others_are_not(autojump_clock: Any, tmp_path: Path) -> None:
    async with lock(tmp_path, token=FIXED, auth_failures=3) as locked:
        assert [await locked.status(token=f"guess-{number}") for number in range(5)] == [401] * 3 + [429] * 2
        answer = await locked.ask(token=FIXED)  # the next guess is right, and is not told so
        assert (answer.status_code, (await answer.get_json())["code"]) == (429, "too_many_failures")
        assert 0 < int(answer.headers["Retry-After"]) <= 60
        assert await locked.status(token=locked.secrets["read"]) == 200  # 256 random bits are no guess
        gate = locked.house.app.gate
        assert gate.admit(
            "GET", "/api/status", b"", {b"authorization": b"Bearer " + FIXED.encode()}, "10.0.0.9"
        )
        await trio.sleep(61)
        assert await locked.status(token=FIXED) == 200


async def test_failures_of_one_ipv6_network_count_together(autojump_clock: Any, tmp_path: Path) -> None:
    async with lock(tmp_path, auth_failures=2) as locked:
        codes = []
        for address in ("2001:db8::1", "2001:db8::2", "2001:db8::3", "2001:db8:0:1::1"):
            with pytest.raises(HttpError) as raised:
                locked.house.app.gate.admit(
                    "GET", "/api/status", b"", {b"authorization": b"Bearer x"}, address
                )
            codes.append(raised.value.code)
        assert codes == ["unauthorized", "unauthorized", "too_many_failures", "unauthorized"]


async def test_a_request_without_a_token_is_no_guess(autojump_clock: Any, tmp_path: Path) -> None:
    async with lock(tmp_path, token=FIXED, auth_failures=2) as locked:
        assert {await locked.status() for _ in range(5)} == {401}
        assert await locked.status(token=FIXED) == 200


async def test_the_addresses_that_are_remembered_are_bounded(autojump_clock: Any) -> None:
    from oq.web.gate import ADDRESSES, Failures

    failures = Failures(1)
    for number in range(ADDRESSES + 100):
        failures.add(str(number))
    assert len(failures._seen) == ADDRESSES
    assert failures.wait(str(ADDRESSES + 99))
    assert not failures.wait("0")


async def test_a_failure_is_logged_with_its_address_and_without_its_token(
    autojump_clock: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with lock(tmp_path, token=FIXED, auth_failures=3) as locked:
        for _ in range(6):
            await locked.ask("/api/tasks/x", token="an-almost-right-token")
        await knock(locked.house, b"token=an-almost-right-token")
        await locked.ask(token=locked.secrets["read"])
        lines = [record.getMessage() for record in caplog.records if record.name == "oq.web.gate"]
        assert len(lines) == 3
        assert all("for GET '/api/tasks/x'" in line for line in lines)
        for secret in ("an-almost-right-token", FIXED, *locked.secrets.values()):
            assert secret not in caplog.text


async def test_a_query_of_many_fields_is_looked_through_for_the_token(locked: Locked) -> None:
    crowd = "&".join(f"a{number}=1" for number in range(300)) + "&" * 300
    assert await locked.status(f"/api/events?{crowd}") == 401
    assert (await knock(locked.house, crowd.encode()))[0]["status"] == 401
    secret = locked.secrets["read"]
    assert (await knock(locked.house, f"{crowd}&token={secret}".encode()))[0]["type"] == "websocket.accept"


async def test_a_subprotocol_is_a_token_for_the_websocket_alone(locked: Locked) -> None:
    headers = {"Sec-WebSocket-Protocol": f"oq.token.{locked.secrets['read']}"}
    for path in ("/api/status", "/api/events", "/v1/models"):
        assert (await locked.house.client.get(path, headers=headers)).status_code == 401, path


@pytest.mark.parametrize("path", ["/api/tasks", "/v1/files", "/api/blobs/sha256:0", "/api/chat", "/nothing"])
async def test_only_what_a_browser_asks_beforehand_needs_no_token(
    autojump_clock: Any, tmp_path: Path, path: str
) -> None:
    async with lock(tmp_path, allowed_origins=["https://app.example"]) as locked:
        assert await locked.status(path, "OPTIONS") == 401
        asked = await locked.house.client.open(
            path, method="OPTIONS", headers={"Origin": "https://app.example"}
        )
        assert asked.status_code == 204


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_long_poll_by_a_revoked_token_is_refused(locked: Locked, method: str) -> None:
    await locked.house.queue.pause()
    submitted = await locked.ask("/api/tasks", "POST", FIXED, json=TASK)
    path = f"/api/tasks/{(await submitted.get_json())['task_id']}/result?wait=100"
    codes: list[int] = []

    async def poll() -> None:
        codes.append(await locked.status(path, method, locked.secrets["read"]))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(poll)
        await trio.testing.wait_all_tasks_blocked()
        locked.file.revoke("read")
        await trio.sleep(3)
        assert codes == [401]
