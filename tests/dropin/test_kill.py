"""A batch survives kill -9 of the server at any point and goes on."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from fake_ollama import Exchange, FakeOllama, says

ROOT = Path(__file__).parents[2]
LINES = 60


@asynccontextmanager
async def serving(
    folder: Path, model_server: str, **settings: str
) -> AsyncIterator[tuple[httpx.AsyncClient, trio.Process]]:
    environment = {"PYTHONPATH": str(ROOT), "HOME": str(folder), "PATH": os.environ["PATH"], **settings}
    command = [sys.executable, "-m", "oq", "serve", "--port", "0", "--data-dir", str(folder / "data"),
               "--ollama-host", model_server]  # fmt: skip
    process = await trio.lowlevel.open_process(command, env=environment, stderr=subprocess.PIPE)
    assert process.stderr is not None
    try:
        seen = b""
        with trio.fail_after(60):
            while (found := re.search(rb"listens on (http://\S+)", seen)) is None:
                data = await process.stderr.receive_some(4096)
                assert data, seen
                seen += data
        async with trio.open_nursery() as nursery:

            async def read_on() -> None:
                assert process.stderr is not None
                while await process.stderr.receive_some(65_536):
                    pass

            nursery.start_soon(read_on)
            async with httpx.AsyncClient(base_url=found[1].decode(), timeout=30) as client:
                yield client, process
            nursery.cancel_scope.cancel()
    finally:
        if process.returncode is None:
            process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
        await process.stderr.aclose()


async def progress(client: httpx.AsyncClient, id: str) -> Any:
    return (await client.get(f"/v1/batches/{id}")).json()


CONTENT = "".join(
    json.dumps({"custom_id": str(number), "method": "POST", "url": "/v1/chat/completions", "body": {
        "model": "llama3.2", "messages": [{"role": "user", "content": str(number)}]}}) + "\n"
    for number in range(LINES)
)  # fmt: skip


async def begin(client: httpx.AsyncClient) -> str:
    """Upload the lines and begin their batch; return its id."""
    file = (
        await client.post("/v1/files", files={"file": CONTENT.encode()}, data={"purpose": "batch"})
    ).json()
    asked = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "1h"}
    id: str = (await client.post("/v1/batches", json=asked)).json()["id"]
    return id


async def until(client: httpx.AsyncClient, id: str, holds: Callable[[Any], bool]) -> Any:
    while not holds(batch := await progress(client, id)):
        await trio.sleep(0.01)
    return batch


async def names(client: httpx.AsyncClient, *files: str) -> Counter[str]:
    """Return how often each custom id is in *files*."""
    found: Counter[str] = Counter()
    for file in files:
        text = (await client.get(f"/v1/files/{file}/content")).text
        found.update(json.loads(line)["custom_id"] for line in text.splitlines())
    return found


ONCE = {str(number): 1 for number in range(LINES)}


@pytest.mark.slow
async def test_a_batch_survives_two_kills(fake: FakeOllama, tmp_path: Path) -> None:
    fake.default = says("Hel", "lo", first_after=0.01)
    async with serving(tmp_path, fake.url) as (client, process):
        id = await begin(client)
        process.send_signal(signal.SIGKILL)  # acknowledged, hardly begun
        await process.wait()
    with trio.fail_after(120):
        async with serving(tmp_path, fake.url) as (client, process):
            await until(client, id, lambda batch: batch["request_counts"]["completed"] >= 10)
            process.send_signal(signal.SIGKILL)
            await process.wait()
        async with serving(tmp_path, fake.url) as (client, process):
            batch = await until(client, id, lambda batch: batch["status"] == "completed")
            assert batch["request_counts"] == {"total": LINES, "completed": LINES, "failed": 0}
            assert await names(client, batch["output_file_id"]) == ONCE
            tasks = await client.get(f"/api/tasks?tag=batch:{id}&limit=1")
            assert tasks.headers["x-total-count"] == str(LINES)


@pytest.mark.slow
async def test_an_acknowledged_cancel_survives_a_kill(fake: FakeOllama, tmp_path: Path) -> None:
    fake.default = says("Hel", "lo", first_after=0.05)
    with trio.fail_after(120):
        async with serving(tmp_path, fake.url) as (client, process):
            id = await begin(client)
            await until(client, id, lambda batch: batch["request_counts"]["completed"] >= 5)
            answer = await client.post(f"/v1/batches/{id}/cancel")
            process.send_signal(signal.SIGKILL)
            await process.wait()
            assert answer.json()["status"] == "cancelling"
        async with serving(tmp_path, fake.url) as (client, process):
            batch = await until(client, id, lambda batch: batch["status"] not in ("cancelling", "validating"))
            assert batch["status"] == "cancelled"
            assert await names(client, batch["output_file_id"], batch["error_file_id"]) == ONCE
            assert batch["request_counts"]["total"] == LINES
            unfinished = await client.get(f"/api/tasks?tag=batch:{id}&status=pending,running&limit=1")
            assert unfinished.headers["x-total-count"] == "0"


@pytest.mark.slow
async def test_an_upload_that_a_kill_cut_off_gives_its_space_back(fake: FakeOllama, tmp_path: Path) -> None:
    sent = trio.Event()

    async def half_a_file() -> AsyncIterator[bytes]:
        yield (
            b'--x\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="in.jsonl"\r\n\r\n'
        )
        yield b"y" * 4_000_000
        sent.set()
        await trio.sleep_forever()

    async def upload(client: httpx.AsyncClient) -> None:
        kind = {"Content-Type": "multipart/form-data; boundary=x"}
        with pytest.raises(httpx.TransportError):
            await client.post("/v1/files", content=half_a_file(), headers=kind)

    files = tmp_path / "data" / "files"
    with trio.fail_after(60):
        async with serving(tmp_path, fake.url) as (client, process), trio.open_nursery() as nursery:
            nursery.start_soon(upload, client)
            await sent.wait()
            while sum(path.stat().st_size for path in files.glob("*.part")) < 1_000_000:
                await trio.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            await process.wait()
            nursery.cancel_scope.cancel()
        async with serving(tmp_path, fake.url) as (client, process):
            assert (await client.get("/v1/files")).json()["data"] == []
            assert list(files.iterdir()) == []


@pytest.mark.slow
async def test_a_batch_outlives_a_full_disk(fake: FakeOllama, tmp_path: Path) -> None:
    """The kernel refuses to let a file of the server grow: no pretence is needed for a full disk."""
    fake.default = says("Hel", "lo", first_after=0.05)

    def limit(process: trio.Process, size: int) -> None:
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    with trio.fail_after(120):
        async with serving(tmp_path, fake.url) as (client, process):
            id = await begin(client)
            await until(client, id, lambda batch: batch["request_counts"]["completed"] >= 5)
            limit(process, 1000)
            while (await client.get("/health")).status_code != 503:
                await trio.sleep(0.01)
            refused = await client.post(
                "/v1/files", files={"file": bytes(2_000_000)}, data={"purpose": "batch"}
            )
            assert refused.status_code == 507
            limit(process, resource.RLIM_INFINITY)
            batch = await until(client, id, lambda batch: batch["status"] == "completed")
            assert batch["request_counts"] == {"total": LINES, "completed": LINES, "failed": 0}
            assert await names(client, batch["output_file_id"]) == ONCE
            kept = {path.name for path in (tmp_path / "data" / "files").iterdir()}
            assert kept == {batch["input_file_id"], batch["output_file_id"]}, "what was refused left nothing"


def chats(fake: FakeOllama) -> list[object]:
    return [request for request in fake.requests if request.path == "/api/chat"]


@pytest.mark.slow
async def test_a_batch_goes_on_from_a_backup_that_was_taken_while_it_ran(
    fake: FakeOllama, tmp_path: Path
) -> None:
    async def backup() -> str:
        made = await trio.run_process(
            [sys.executable, "-m", "oq", "backup", str(tmp_path / "backups"), "--data-dir", str(tmp_path / "data")],
            capture_stdout=True, cwd=ROOT,
        )  # fmt: skip
        return made.stdout.decode()

    go_on = trio.Event()

    async def answers_later(exchange: Exchange) -> None:
        await go_on.wait()
        await says("Hel", "lo")(exchange)

    fake.default = says("Hel", "lo", first_after=0.02)
    with trio.fail_after(120):
        async with serving(tmp_path, fake.url) as (client, _):
            ended = await begin(client)
            batch = await until(client, ended, lambda batch: batch["status"] == "completed")
            id = await begin(client)
            await until(client, id, lambda batch: batch["request_counts"]["completed"] >= 10)
            fake.default = answers_later  # however long the backup takes, the batch is not completed before
            assert "3 new files of batches" in await backup()
            go_on.set()
            await until(client, id, lambda batch: batch["status"] == "completed")
            assert "; 1 new file of batches" in await backup()
        first = sorted((tmp_path / "backups").glob("*.fs"))[0].stem
        at = f"{first[:10]}T{first[11:].replace('-', ':')}Z"
        new = tmp_path / "restored"
        await trio.run_process(
            [sys.executable, "-m", "oq", "restore", str(tmp_path / "backups"), "--at", at, "--data-dir", str(new / "data")],
            cwd=ROOT,
        )  # fmt: skip
        asked = len(chats(fake))
        async with serving(new, fake.url) as (client, _):
            assert await names(client, batch["output_file_id"]) == ONCE
            batch = await until(client, id, lambda batch: batch["status"] == "completed")
            assert batch["request_counts"] == {"total": LINES, "completed": LINES, "failed": 0}
            assert await names(client, batch["output_file_id"]) == ONCE
            assert len(chats(fake)) - asked <= LINES - 10
            assert len(list((new / "data" / "files").iterdir())) == 4
