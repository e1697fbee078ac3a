"""A batch survives kill -9 of the server at any point and goes on."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from fake_ollama import FakeOllama, says

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


@pytest.mark.slow
async def test_a_batch_survives_two_kills(fake: FakeOllama, tmp_path: Path) -> None:
    fake.default = says("Hel", "lo", first_after=0.01)
    content = "".join(
        json.dumps({"custom_id": str(number), "method": "POST", "url": "/v1/chat/completions", "body": {
            "model": "llama3.2", "messages": [{"role": "user", "content": str(number)}]}}) + "\n"
        for number in range(LINES)
    )  # fmt: skip
    async with serving(tmp_path, fake.url) as (client, process):
        file = (
            await client.post("/v1/files", files={"file": content.encode()}, data={"purpose": "batch"})
        ).json()
        asked = {"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "1h"}
        id = (await client.post("/v1/batches", json=asked)).json()["id"]
        process.send_signal(signal.SIGKILL)  # acknowledged, hardly begun
        await process.wait()
    with trio.fail_after(120):
        async with serving(tmp_path, fake.url) as (client, process):
            while (await progress(client, id))["request_counts"]["completed"] < 10:
                await trio.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            await process.wait()
        async with serving(tmp_path, fake.url) as (client, process):
            while (batch := await progress(client, id))["status"] != "completed":
                await trio.sleep(0.02)
            assert batch["request_counts"] == {"total": LINES, "completed": LINES, "failed": 0}
            output = (await client.get(f"/v1/files/{batch['output_file_id']}/content")).text
            ids = Counter(json.loads(line)["custom_id"] for line in output.splitlines())
            assert ids == {str(number): 1 for number in range(LINES)}
            tasks = await client.get(f"/api/tasks?tag=batch:{id}&limit=1")
            assert tasks.headers["x-total-count"] == str(LINES)
