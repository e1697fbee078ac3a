"""The disk takes no more, in the middle of the work: said, survived, healed."""

from __future__ import annotations

import resource
import signal

import httpx
import pytest
from fake_ollama import says
from waiting import wait_until

from oq.builders import generate
from oq.client import Client
from tests.acceptance.conftest import Serve
from tests.cli.live import Served, fake_model_server

pytestmark = pytest.mark.slow
BODY = {"type": "generate", "model": "m", "payload": {"prompt": "x" * 100_000}, "delay": "1h"}


def limit_files(served: Served, size: int) -> None:
    """Let the server write no file past *size* bytes: what a full disk does, for one process and without root."""
    resource.prlimit(served.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def fill(http: httpx.Client) -> tuple[list[str], httpx.Response]:
    """Submit until the server refuses; return the ids it acknowledged and the refusal."""
    ids: list[str] = []
    while True:
        answer = http.post("/api/tasks", json=BODY)
        if answer.status_code != 201:
            return ids, answer
        ids.append(answer.json()["task_id"])
        assert len(ids) < 100


def test_a_full_disk_refuses_and_a_free_one_takes_again_with_nothing_lost(serve: Serve):
    with fake_model_server() as fake:
        fake.default = says("fine")
        served = serve("--ollama-host", fake.url)
        with httpx.Client(base_url=served.url, timeout=30) as http, Client(served.url) as client:
            limit_files(served, 1_000_000)
            ids, refusal = fill(http)
            assert (refusal.status_code, refusal.json()["code"]) == (507, "storage_full")
            assert int(refusal.headers["Retry-After"]) > 0
            assert http.get("/health").status_code == 503
            assert http.get("/api/status").json()["storage_ok"] is False
            assert len(http.get("/api/tasks").json()) == len(ids)  # reading goes on
            limit_files(served, resource.RLIM_INFINITY)
            wait_until(lambda: http.get("/health").status_code == 200, "the store takes writes again")
            assert client.submit(generate("m", "after")).result(30)["response"] == "fine"
        served.stop(signal.SIGKILL)
        served = serve("--ollama-host", fake.url)
        with Client(served.url) as client:
            assert {client.get(id).status for id in ids} == {"scheduled"}
        assert served.stop() == 0


def test_a_server_whose_disk_is_full_can_still_be_stopped(serve: Serve):
    with fake_model_server() as fake:
        served = serve("--ollama-host", fake.url, OQ_SERVER__SHUTDOWN_GRACE="1s")
        with httpx.Client(base_url=served.url, timeout=30) as http:
            limit_files(served, 1_000_000)
            ids, _ = fill(http)
        assert served.stop(signal.SIGTERM, timeout=10) == 0
        served = serve("--ollama-host", fake.url)
        with Client(served.url) as client:
            assert client.status().scheduled_tasks == len(ids)
        assert served.stop() == 0
