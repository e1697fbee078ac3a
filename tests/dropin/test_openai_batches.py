"""OpenAI's files and batches: durable, in their own statuses, giving way to people."""

from __future__ import annotations

import json
from codecs import BOM_UTF8
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
import trio.testing
from fake_ollama import Exchange, FakeOllama, falls_silent, lines, says, status

from oq.dropin.openai_chat import read_chat
from oq.dropin.openai_fields import OpenAiCall
from oq.web.openai.feeding import Feeding
from oq.web.openai.forms import READERS

from .conftest import Place, open_place, read_until

ENDPOINT = "/v1/chat/completions"


def request(id: str, **body: Any) -> dict[str, Any]:
    said = {"model": "llama3.2", "messages": [{"role": "user", "content": id}], **body}
    return {"custom_id": id, "method": "POST", "url": ENDPOINT, "body": said}


def text(*requests: Any) -> bytes:
    return "".join(json.dumps(one) + "\n" for one in requests).encode()


async def upload(place: Place, content: bytes, purpose: str = "batch") -> httpx.Response:
    return await place.client.post(
        "/v1/files", files={"file": ("in.jsonl", content)}, data={"purpose": purpose}
    )


async def begin(place: Place, *requests: Any, **fields: Any) -> Any:
    file = (await upload(place, text(*requests))).json()
    body = {"input_file_id": file["id"], "endpoint": ENDPOINT, "completion_window": "24h", **fields}
    answer = await place.client.post("/v1/batches", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def ended(place: Place, id: str) -> Any:
    with trio.fail_after(30):
        while True:
            batch = (await place.client.get(f"/v1/batches/{id}")).json()
            if batch["status"] in ("completed", "failed", "cancelled", "expired"):
                return batch
            await trio.sleep(0.01)


async def lines_of(place: Place, file_id: str | None) -> list[Any]:
    assert file_id is not None
    content = (await place.client.get(f"/v1/files/{file_id}/content")).text
    return [json.loads(line) for line in content.splitlines()]


async def test_a_file_comes_back_as_it_was_sent(place: Place) -> None:
    content = bytes(range(256)) * 20_000
    file = (await upload(place, content)).json()
    assert (file["bytes"], file["filename"], file["purpose"]) == (len(content), "in.jsonl", "batch")
    assert (await place.client.get(f"/v1/files/{file['id']}")).json() == file
    assert (await place.client.get(f"/v1/files/{file['id']}/content")).content == content
    assert (await place.client.get("/v1/files")).json()["data"] == [file]
    assert (await place.client.delete(f"/v1/files/{file['id']}")).json()["deleted"] is True
    assert (await place.client.get(f"/v1/files/{file['id']}")).status_code == 404
    assert (await place.client.get(f"/v1/files/{file['id']}/content")).status_code == 404


async def test_lists_have_pages(place: Place) -> None:
    ids = [(await upload(place, b"x")).json()["id"] for _ in range(3)]
    first = (await place.client.get("/v1/files?limit=2")).json()
    rest = (await place.client.get(f"/v1/files?limit=2&after={first['last_id']}")).json()
    assert (first["has_more"], rest["has_more"]) == (True, False)
    assert sorted(file["id"] for file in first["data"] + rest["data"]) == sorted(ids)
    assert (await place.client.get("/v1/files?limit=0")).status_code == 400


async def test_a_wrong_form_is_refused_and_leaves_nothing(place: Place, tmp_path: Path) -> None:
    for answer in (
        await upload(place, b"x", purpose="assistants"),
        await place.client.post("/v1/files", data={"purpose": "batch"}),
        await place.client.post("/v1/files", json={"purpose": "batch"}),
        await place.client.post("/v1/files", files={"other": ("x", b"x")}, data={"purpose": "batch"}),
    ):
        assert answer.status_code == 400
        assert answer.json()["error"]["type"] == "invalid_request_error"
    assert list((tmp_path / "files").glob("*")) == []


async def test_a_file_past_the_limit_is_413(fake: FakeOllama, tmp_path: Path) -> None:
    async with open_place(tmp_path, fake.url, dropin__max_file_bytes=2000, dropin__max_files=1) as place:
        assert (await upload(place, bytes(2001))).status_code == 413
        # Past the whole form's limit it is refused by its head, before a byte of it is read.
        async with await place.post_raw("/v1/files", "x" * 100_000) as stream:
            assert b"dropin.max_file_bytes" in await read_until(stream, b"}}")
        assert (await upload(place, bytes(2000))).status_code == 200
        refused = await upload(place, b"x")
        assert refused.status_code == 429
        assert "dropin.max_files" in refused.json()["error"]["message"]


async def test_a_file_that_is_still_coming_has_a_place_among_those_that_may_be_kept(
    fake: FakeOllama, tmp_path: Path
) -> None:
    async def half() -> AsyncIterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n{}\n'
        begun.set()
        await trio.sleep_forever()

    begun = trio.Event()
    async with open_place(tmp_path, fake.url, dropin__max_files=1) as place:
        async with trio.open_nursery() as nursery:
            form = {"Content-Type": "multipart/form-data; boundary=x"}
            nursery.start_soon(
                partial(place.client.post, "/v1/files", content=half(), headers=form, timeout=None)
            )
            await begun.wait()
            while not list(tmp_path.glob("files/*")):
                await trio.sleep(0.01)
            assert (await upload(place, b"{}\n")).status_code == 429
            nursery.cancel_scope.cancel()
        with trio.fail_after(10):
            while (
                await upload(place, b"{}\n")
            ).status_code != 200:  # until it is noticed that the first is gone
                await trio.sleep(0.01)


async def test_a_file_that_was_deleted_by_hand_is_404(place: Place, tmp_path: Path) -> None:
    id = (await upload(place, b"{}\n")).json()["id"]
    (tmp_path / "files" / id).unlink()
    answer = await place.client.get(f"/v1/files/{id}/content")
    assert answer.status_code == 404
    assert "gone from the data folder" in answer.json()["error"]["message"]
    assert (await place.client.delete(f"/v1/files/{id}")).json()["deleted"]


async def test_a_line_that_goes_wrong_in_any_way_is_its_own_affair(
    place: Place, fake: FakeOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(body: bytes) -> OpenAiCall:
        if b"bug" in body:
            raise RuntimeError("a bug of ours")
        return read_chat(body)

    async def answers(exchange: Exchange) -> None:
        broken = b"odd" in exchange.request.body
        said = {"role": "assistant", "content": "Hi", "thinking": None}
        await lines({"model": "m", "message": said, "done": True, "done_reason": 5 if broken else "stop"})(
            exchange
        )

    monkeypatch.setitem(READERS, ENDPOINT, read)
    fake.default = answers
    batch = await begin(
        place, request("bug"), request("a"), request("odd"), request("role", messages=[{"role": ["user"]}]),
    )  # fmt: skip
    batch = await ended(place, batch["id"])
    assert batch["status"] == "completed"
    assert [line["custom_id"] for line in await lines_of(place, batch["output_file_id"])] == ["a"]
    failed = {line["custom_id"]: line["response"] for line in await lines_of(place, batch["error_file_id"])}
    assert {id: one["status_code"] for id, one in failed.items()} == {"bug": 500, "odd": 502, "role": 400}
    assert failed["odd"]["body"]["error"]["code"] == "bad_answer"


async def test_a_batch_that_stands_still_can_be_cancelled(
    place: Place, fake: FakeOllama, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(self: Feeding) -> None:
        stood_still.set()
        raise RuntimeError("a bug of ours")

    stood_still = trio.Event()
    monkeypatch.setattr(Feeding, "feed", broken)
    batch = await begin(place, request("a"))
    await stood_still.wait()
    await trio.testing.wait_all_tasks_blocked()
    assert (await place.client.post(f"/v1/batches/{batch['id']}/cancel")).json()["status"] == "cancelling"
    batch = await ended(place, batch["id"])
    assert (batch["status"], batch["request_counts"]["failed"]) == ("cancelled", 1)
    assert (await place.client.delete(f"/v1/files/{batch['input_file_id']}")).json()["deleted"]


async def test_a_lines_own_fields_stand_above_the_batchs_headers(place: Place) -> None:
    await place.queue.pause()
    headers = {"X-Queue-Guard": "fail", "X-Queue-Priority": "normal", "X-Client-ID": "team"}
    file = (
        await upload(
            place,
            text(
                request("a", _priority="critical", _timeout="77s", _source="me", _guard="retry"),
                request("b"),
                request("c", _priority="zz"),
            ),
        )
    ).json()
    body = {"input_file_id": file["id"], "endpoint": ENDPOINT, "completion_window": "24h"}
    batch = (await place.client.post("/v1/batches", json=body, headers=headers)).json()
    await place.until(lambda: place.queue.stats().pending == 2)
    own, general = sorted(await place.tasks(), key=lambda task: -task.state.priority)
    assert (own.state.priority, own.spec.timeout, own.spec.guard) == (15, 77.0, "retry")
    assert (general.state.priority, general.spec.timeout, general.spec.guard) == (5, None, "fail")
    assert ("client:me" in own.spec.tags, "client:team" in own.spec.tags) == (True, False)
    assert "client:team" in general.spec.tags
    await place.queue.resume()
    batch = await ended(place, batch["id"])
    (wrong,) = await lines_of(place, batch["error_file_id"])
    assert (wrong["custom_id"], wrong["response"]["body"]["error"]["param"]) == ("c", "_priority")


async def test_the_same_idempotency_key_is_the_same_batch(place: Place) -> None:
    file = (await upload(place, text(request("a")))).json()
    body = {"input_file_id": file["id"], "endpoint": ENDPOINT, "completion_window": "24h"}
    key = {"Idempotency-Key": "once"}
    first = (await place.client.post("/v1/batches", json=body, headers=key)).json()
    await ended(place, first["id"])
    again = await place.client.post("/v1/batches", json=body, headers=key)
    assert (again.json()["id"], again.json()["status"]) == (first["id"], "completed")
    other = await place.client.post("/v1/batches", json={**body, "metadata": {"a": "b"}}, headers=key)
    assert (other.status_code, other.json()["error"]["code"]) == (409, "idempotency_conflict")
    assert len((await place.client.get("/v1/batches")).json()["data"]) == 1


async def test_what_windows_puts_before_the_first_line_is_no_part_of_it(place: Place) -> None:
    file = (await upload(place, BOM_UTF8 + text(request("a")))).json()
    body = {"input_file_id": file["id"], "endpoint": ENDPOINT, "completion_window": "24h"}
    batch = await ended(place, (await place.client.post("/v1/batches", json=body)).json()["id"])
    assert (batch["status"], batch["request_counts"]["completed"]) == ("completed", 1)


async def test_a_batch_runs_to_its_output(place: Place, fake: FakeOllama) -> None:
    batch = await begin(place, request("a"), request("b"), metadata={"for": "test"})
    assert (batch["status"], batch["object"], batch["metadata"]) == ("validating", "batch", {"for": "test"})
    batch = await ended(place, batch["id"])
    assert batch["status"] == "completed"
    assert batch["request_counts"] == {"total": 2, "completed": 2, "failed": 0}
    assert batch["error_file_id"] is None
    found = await lines_of(place, batch["output_file_id"])
    assert sorted(line["custom_id"] for line in found) == ["a", "b"]
    for line in found:
        assert line["response"]["status_code"] == 200
        assert line["response"]["body"]["choices"][0]["message"]["content"] == "Hello world"
    tasks = await place.tasks()
    assert {task.state.priority for task in tasks} == {1}
    assert {task.spec.tags for task in tasks} == {("via:openai", f"batch:{batch['id']}")}


async def test_lines_that_fail_are_in_the_error_file(place: Place, fake: FakeOllama) -> None:
    fake.default = status(404, "model 'x' not found")
    batch = await ended(
        place, (await begin(place, request("a"), request("b", n=2), request("c", stream=True)))["id"]
    )
    assert batch["status"] == "completed"
    assert batch["request_counts"] == {"total": 3, "completed": 0, "failed": 3}
    assert batch["output_file_id"] is None
    found = {line["custom_id"]: line["response"] for line in await lines_of(place, batch["error_file_id"])}
    assert {id: response["status_code"] for id, response in found.items()} == {"a": 404, "b": 400, "c": 400}
    assert found["a"]["body"]["error"]["message"] == "model 'x' not found"
    assert found["b"]["body"]["error"]["param"] == "n"


@pytest.mark.parametrize(
    ("content", "code", "line"),
    [
        (b"{nope\n", "invalid_json_line", 1),
        (text(request("a"), request("a")), "duplicate_custom_id", 2),
        (text({**request("a"), "url": "/v1/embeddings"}), "mismatched_url", 1),
        (text({**request("a"), "method": "GET"}), "invalid_method", 1),
        (b"\n", "empty_file", None),
    ],
)
async def test_a_wrong_input_fails_the_batch_with_the_line(
    place: Place, fake: FakeOllama, content: bytes, code: str, line: int | None
) -> None:
    file = (await upload(place, content)).json()
    body = {"input_file_id": file["id"], "endpoint": ENDPOINT, "completion_window": "24h"}
    batch = await ended(place, (await place.client.post("/v1/batches", json=body)).json()["id"])
    assert batch["status"] == "failed"
    assert (batch["errors"]["data"][0]["code"], batch["errors"]["data"][0]["line"]) == (code, line)
    assert fake.requests == []


async def test_too_many_lines_fail_the_batch(fake: FakeOllama, tmp_path: Path) -> None:
    async with open_place(tmp_path, fake.url, dropin__max_batch_lines=1) as place:
        batch = await ended(place, (await begin(place, request("a"), request("b")))["id"])
        assert batch["errors"]["data"][0]["code"] == "too_many_tasks"


async def test_a_wrong_batch_is_refused_by_name(place: Place) -> None:
    file = (await upload(place, text(request("a")))).json()["id"]
    good = {"input_file_id": file, "endpoint": ENDPOINT, "completion_window": "24h"}
    for change, param in (
        ({"input_file_id": "file-x"}, "input_file_id"), ({"endpoint": "/v1/x"}, "endpoint"),
        ({"completion_window": "soon"}, "completion_window"), ({"colour": 1}, "colour"),
    ):  # fmt: skip
        answer = await place.client.post("/v1/batches", json={**good, **change})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


async def test_a_batch_can_be_cancelled_and_keeps_what_is_done(place: Place, fake: FakeOllama) -> None:
    fake.script(says("done"))
    fake.default = falls_silent()
    batch = await begin(place, *(request(str(number)) for number in range(10)))
    with trio.fail_after(20):
        while (await place.client.get(f"/v1/batches/{batch['id']}")).json()["request_counts"][
            "completed"
        ] < 1:
            await trio.sleep(0.01)
    answer = await place.client.post(f"/v1/batches/{batch['id']}/cancel")
    assert answer.json()["status"] == "cancelling"
    batch = await ended(place, batch["id"])
    assert batch["status"] == "cancelled"
    assert len(await lines_of(place, batch["output_file_id"])) == 1
    missed = await lines_of(place, batch["error_file_id"])
    assert {line["error"]["code"] for line in missed} == {"batch_cancelled"}
    assert len(missed) == 9
    assert not [task for task in await place.tasks() if not task.status.finished]
    assert (await place.client.post(f"/v1/batches/{batch['id']}/cancel")).status_code == 409


async def test_a_batch_past_its_window_expires(place: Place, fake: FakeOllama) -> None:
    fake.default = falls_silent()
    batch = await ended(place, (await begin(place, request("a"), completion_window="100ms"))["id"])
    assert batch["status"] == "expired"
    assert [line["error"]["code"] for line in await lines_of(place, batch["error_file_id"])] == [
        "batch_expired"
    ]


async def test_only_a_window_of_lines_is_in_the_queue(fake: FakeOllama, tmp_path: Path) -> None:
    async with open_place(tmp_path, fake.url, dropin__batch_window=3) as place:
        await place.queue.pause()
        batch = await begin(place, *(request(str(number)) for number in range(10)))
        await place.until(lambda: place.queue.stats().pending == 3)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert place.queue.stats().total == 3
        await place.queue.resume()
        assert (await ended(place, batch["id"]))["request_counts"]["completed"] == 10


async def test_a_file_that_a_batch_reads_is_not_deleted(place: Place) -> None:
    await place.queue.pause()
    batch = await begin(place, request("a"))
    answer = await place.client.delete(f"/v1/files/{batch['input_file_id']}")
    assert answer.status_code == 409


async def test_no_more_batches_than_may_be_unfinished(fake: FakeOllama, tmp_path: Path) -> None:
    async with open_place(tmp_path, fake.url, dropin__max_batches=1) as place:
        await place.queue.pause()
        batch = await begin(place, request("a"))
        body = {"input_file_id": batch["input_file_id"], "endpoint": ENDPOINT, "completion_window": "24h"}
        answer = await place.client.post("/v1/batches", json=body)
        assert answer.status_code == 429
        assert "dropin.max_batches" in answer.json()["error"]["message"]


async def test_a_persons_chat_overtakes_a_batch(fake: FakeOllama, tmp_path: Path) -> None:
    async with open_place(tmp_path, fake.url, max_workers=1) as place:
        await place.queue.pause()
        batch = await begin(place, *(request(str(number)) for number in range(20)))
        await place.until(lambda: place.queue.stats().pending == 20)
        chat = {"model": "llama3.2", "messages": [{"role": "user", "content": "person"}], "stream": False}
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: place.client.post("/api/chat", json=chat))
            await place.until(lambda: place.queue.stats().pending == 21)
            await place.queue.resume()
        assert fake.requests[0].json()["messages"][0]["content"] == "person"
        await ended(place, batch["id"])


async def test_a_batch_goes_on_after_a_restart_and_no_line_runs_twice(
    fake: FakeOllama, tmp_path: Path
) -> None:
    names = [str(number) for number in range(12)]
    async with open_place(tmp_path, fake.url, dropin__batch_window=4) as place:
        batch = await begin(place, *map(request, names))
        with trio.fail_after(20):
            while (await place.client.get(f"/v1/batches/{batch['id']}")).json()["request_counts"][
                "completed"
            ] < 4:
                await trio.sleep(0.005)
    async with open_place(tmp_path, fake.url) as place:
        batch = await ended(place, batch["id"])
        assert batch["request_counts"] == {"total": 12, "completed": 12, "failed": 0}
        found = await lines_of(place, batch["output_file_id"])
        assert sorted(line["custom_id"] for line in found) == sorted(names)
        assert len(await place.tasks()) == 12


async def test_a_result_cut_in_two_by_a_crash_is_made_again(fake: FakeOllama, tmp_path: Path) -> None:
    async with open_place(tmp_path, fake.url) as place:
        await place.queue.pause()
        batch = await begin(place, request("a"), request("b"))
        await place.until(lambda: place.queue.stats().pending == 2)
    (part,) = (tmp_path / "files").glob("file-out*.part")
    whole = json.dumps({"custom_id": "a", "response": {"status_code": 200}}).encode()
    part.write_bytes(whole + b"\n" + whole.replace(b'"a"', b'"b"')[:20])
    async with open_place(tmp_path, fake.url) as place:
        await place.queue.resume()
        batch = await ended(place, batch["id"])
        found = await lines_of(place, batch["output_file_id"])
        assert [line["custom_id"] for line in found] == ["a", "b"]
        assert batch["request_counts"] == {"total": 2, "completed": 2, "failed": 0}


async def test_a_line_speaks_for_no_client_that_has_a_token(fake: FakeOllama, tmp_path: Path) -> None:
    clients = {"desk": {"token": "desk-secret"}}
    async with open_place(tmp_path, fake.url, clients=clients) as place:
        batch = await begin(place, request("a", _source="desk"), request("b", _source="other"))
        await ended(place, batch["id"])
        place.client.headers["Authorization"] = "Bearer desk-secret"
        batch = await begin(place, request("c", _source="other"))
        await ended(place, batch["id"])
        clients_of = [
            [tag for tag in task.spec.tags if tag.startswith("client:")] for task in await place.tasks()
        ]
    assert sorted(clients_of) == [[], ["client:desk"], ["client:other"]]


@pytest.mark.parametrize(
    "query", ["limit=" + "9" * 5000, "limit=\u00b2", "&".join(f"a{n}=1" for n in range(50))]
)
@pytest.mark.parametrize("path", ["/v1/files", "/v1/batches"])
async def test_a_query_that_cannot_be_read_is_refused(place: Place, path: str, query: str) -> None:
    assert (await place.client.get(f"{path}?{query}")).status_code == 400


async def test_a_boundary_that_is_none_is_refused(place: Place) -> None:
    kind = "multipart/form-data; boundary*=UTF-8''%e2%82%ac"
    answer = await place.client.post("/v1/files", content=b"--x\r\n", headers={"Content-Type": kind})
    assert answer.status_code == 400
