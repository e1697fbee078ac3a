"""kill -9 in the middle of everything at once, with a model server that keeps the account."""

from __future__ import annotations

import json
import signal
from collections import Counter
from pathlib import Path

import pytest
from fake_ollama import Exchange, FakeOllama, says, status

from oq.builders import generate
from oq.client import Client
from tests.acceptance.conftest import Serve
from tests.cli.live import fake_model_server, refused

pytestmark = pytest.mark.slow
SLOTS = 3


async def by_prompt(exchange: Exchange) -> None:
    """Hang, fail or answer as the prompt says."""
    prompt = json.loads(exchange.request.body)["prompt"]
    if prompt.startswith("hang"):
        await says("never", first_after=600.0)(exchange)
    elif prompt.startswith("fail"):
        await status(503, "server busy")(exchange)
    else:
        await says("fine")(exchange)


def asked(fake: FakeOllama) -> Counter[str]:
    return Counter(json.loads(request.body)["prompt"] for request in fake.requests if request.body)


def test_a_kill_loses_nothing_counts_nothing_and_runs_nothing_twice(serve: Serve):
    with fake_model_server() as fake:
        fake.default = by_prompt
        arguments = ("--ollama-host", fake.url, "--workers", str(SLOTS))
        slow = {"RETRY_INITIAL_DELAY": "10m", "RETRY_MAX_DELAY": "10m"}
        served = serve(*arguments, **slow)
        with Client(served.url) as client:
            done = [client.submit(generate("m", f"done {n}")).wait(20) for n in range(5)]
            with client.subscribe(["task_retrying"]) as retrying:
                failing = [client.submit(generate("m", f"fail {n}", max_retries=4)).id for n in range(4)]
                assert {next(retrying).task_id for _ in failing} == set(failing)
            with client.subscribe(["task_started"]) as started:
                running = [client.submit(generate("m", f"hang {n}")).id for n in range(SLOTS)]
                assert {next(started).task_id for _ in running} == set(running)
            waiting = [client.submit(generate("m", f"wait {n}", priority=n)).id for n in range(6)]
            delayed = client.submit(generate("m", "later", delay="2h")).id
            due = {id: client.get(id).run_at for id in (*failing, delayed)}
            served.stop(signal.SIGKILL)
        first_run = asked(fake)
        fake.default = says("fine")
        served = serve(*arguments, **slow)
        with Client(served.url) as client:
            assert client.status().total_tasks == 5 + 4 + SLOTS + 6 + 1
            for id in (*running, *waiting):
                task = client.wait(id, 20)
                assert (task.status, task.retry_count) == ("completed", 0)
            assert [client.get(task.id) for task in done] == done
            for id, run_at in due.items():
                task = client.get(id)
                assert (task.status, task.run_at) == ("scheduled", run_at)
            for id in failing:
                task = client.get(id)
                assert (task.retry_count, task.error_code) == (1, "busy")
                assert [attempt.outcome for attempt in task.attempts] == ["failed"]
            for id in running:
                assert client.get(id).attempts[-1].outcome == "succeeded"
        assert served.stop() == 0
        second_run = asked(fake) - first_run
    assert set(second_run) == {f"hang {n}" for n in range(SLOTS)} | {f"wait {n}" for n in range(6)}
    assert set(second_run.values()) == {1}


def test_a_second_server_on_the_folder_is_refused_and_harms_nothing(serve: Serve, tmp_path: Path):
    with fake_model_server() as fake:
        served = serve("--ollama-host", fake.url)
        line = refused("--port", "0", "--data-dir", str(tmp_path / "data"), "--ollama-host", fake.url)
        assert "in use" in line
        assert str(tmp_path / "data") in line
        with Client(served.url) as client:
            assert client.submit(generate("m", "still here")).result(20)["response"] == "Hello world"
        assert served.stop() == 0
