"""What one request to a model server costs in this process: oq's own client, httpx, httpcore.

    python bench/http_clients.py            # starts bench/fake_model.py itself

Prints requests per second and CPU per request, here alone, for answers of five lines. The figures are in
docs/decisions/http-to-the-model-server.md.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import httpcore
import httpx
import trio

from oq.backends import OllamaBackend
from oq.core.model import TaskSpec

BODY = b'{"model":"m","prompt":"hello","stream":true}'
Once = Callable[[], Awaitable[None]]


@contextlib.asynccontextmanager
async def open_oq(url: str, keep: int) -> AsyncIterator[Once]:
    backend = OllamaBackend("bench", url)
    spec = TaskSpec(type="generate", model="m", payload=b'{"prompt":"hello"}')

    async def once() -> None:
        items = [item async for item in backend.run(spec)]
        assert isinstance(items[-1], bytes)

    yield once
    await backend.aclose()


@contextlib.asynccontextmanager
async def open_httpx(url: str, keep: int) -> AsyncIterator[Once]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=keep)
    async with httpx.AsyncClient(limits=limits, timeout=120, trust_env=False) as client:

        async def once() -> None:
            headers = {"Content-Type": "application/json"}
            async with client.stream(
                "POST", f"{url}/api/generate", content=BODY, headers=headers
            ) as response:
                async for _ in response.aiter_raw():
                    pass

        yield once


@contextlib.asynccontextmanager
async def open_httpcore(url: str, keep: int) -> AsyncIterator[Once]:
    async with httpcore.AsyncConnectionPool(max_connections=None, max_keepalive_connections=keep) as pool:

        async def once() -> None:
            headers = [(b"Host", b"bench"), (b"Content-Length", b"%d" % len(BODY))]
            target = f"{url}/api/generate"
            limits = {"timeout": {"connect": 5.0, "read": 120.0, "write": 120.0}}
            async with pool.stream(
                "POST", target, headers=headers, content=BODY, extensions=limits
            ) as response:
                async for _ in response.aiter_stream():
                    pass

        yield once


WAYS = {"oq": open_oq, "httpx": open_httpx, "httpcore": open_httpcore}


async def measure(way: str, keep: int, url: str, at_once: int, requests: int) -> tuple[float, float]:
    """Return requests per second and CPU microseconds a request."""
    async with WAYS[way](url, keep) as once:
        left = requests

        async def worker() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                await once()

        await once()
        cpu, wall = time.process_time(), time.perf_counter()
        async with trio.open_nursery() as nursery:
            for _ in range(at_once):
                nursery.start_soon(worker)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return requests / wall, cpu / requests * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=3000)
    requests = parser.parse_args().requests
    fake = Path(__file__).with_name("fake_model.py")
    print("client    kept  latency  at once  requests/s  CPU µs/request")
    for latency, crowds in ((0, (1, 4, 16, 64)), (50, (16,))):
        command = [sys.executable, str(fake), "--port", "0", "--latency-ms", str(latency)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            url = process.stdout.readline().split()[-1]
            for at_once in crowds:
                for way, keep in (
                    ("oq", 64),
                    ("httpx", 0),
                    ("httpx", 4),
                    ("httpx", 100),
                    ("httpcore", 0),
                    ("httpcore", 100),
                ):
                    count = requests if latency == 0 else min(requests, at_once * 50)
                    rate, cpu = trio.run(measure, way, keep, url, at_once, count)
                    print(
                        f"{way:8}  {keep:4}  {latency:4} ms  {at_once:7}  {rate:10.0f}  {cpu:14.0f}",
                        flush=True,
                    )
            process.terminate()


if __name__ == "__main__":
    main()
