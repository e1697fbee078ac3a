"""What a server writes and shows, searched for what it was told."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path

import httpx
import pytest
from fake_ollama import FakeOllama, says, status

import oq as library
from tests.cli.conftest import Oq
from tests.cli.live import Served, environment

pytestmark = pytest.mark.slow

PROMPT, ANSWER, FIXED = "prompt-zq81", "answer-zq82", "token-zq83"
LOGIN = "me:password-zq84"  # of the model server
SECRETS = (PROMPT, ANSWER, FIXED, "password-zq84")


def test_no_prompt_and_no_secret_gets_out(
    bare: Oq, tmp_path: Path, model_server: FakeOllama, monkeypatch: pytest.MonkeyPatch
):
    log, data = tmp_path / "oq.log", tmp_path / "data"
    made = bare("--data-dir", str(data), "token", "create", "boss", "--scope", "admin").stdout.strip()
    env = {
        "OQ_SERVER__TOKEN": FIXED, "LOG_LEVEL": "debug", "LOG_FILE": str(log), "OQ_SERVER__ACCESS_LOG": "true",
        "RETRY_MAX_RETRIES": "0",
    }  # fmt: skip
    model_server.default = says(ANSWER, " end")
    login = model_server.url.replace("://", f"://{LOGIN}@")
    env["OLLAMA_HOST"] = login
    served = Served(data, **env)
    shown = []
    try:
        with library.Client(served.url, token=made) as client:
            assert ANSWER in client.submit(library.chat("llama3.2", PROMPT)).result()["message"]["content"]
            model_server.script(status(500, f"it went wrong near {PROMPT}"))
            failed = client.submit(library.generate("llama3.2", PROMPT)).wait()
            assert (failed.status, PROMPT in (failed.error or "")) == ("failed", True)  # its owner is told
        headers = {"Authorization": f"Bearer {FIXED}"}
        with httpx.Client(base_url=served.url, headers=headers) as http:
            bodies = (
                {"type": "chat", "model": "m", "payload": {"messages": PROMPT}},
                {"type": "chat", "model": "m", "payload": {"prompt": PROMPT}},
                {"type": "generate", "model": "m", "payload": {"prompt": [PROMPT]}},
                {"type": "generate", "model": "m", "payload": {"prompt": PROMPT}, "priority": "odd"},
            )
            shown += [http.post("/api/tasks", json=body).text for body in bodies]
            shown.append(
                http.post(
                    "/api/tasks",
                    content=f'{{"payload": {PROMPT}',
                    headers={"Content-Type": "application/json"},
                ).text
            )
            assert all('"code"' in text for text in shown)
            for path in ("/metrics", "/api/status", "/api/hosts", "/health", "/openapi.json"):
                shown.append(http.get(path).raise_for_status().text)
            with http.stream("GET", f"/api/events?token={FIXED}") as events:
                assert events.status_code == 200
            shown.append(
                httpx.get(served.url + "/api/tasks", headers={"Authorization": f"Bearer {made}x"}).text
            )
            shown.append(Path(f"/proc/{served.process.pid}/cmdline").read_text())
            basic = base64.b64encode(LOGIN.encode()).decode()
            assert {asked.headers.get("authorization") for asked in model_server.requests} >= {
                f"Basic {basic}"
            }
    finally:
        served.stop()
        model_server.default = says("Hello", " world")
    shown += [log.read_text(), "\n".join(served.said)]
    assert "/api/events" in log.read_text()
    shown += [bare("--ollama-host", login, "doctor").output]
    assert "me:***@" in shown[-1]
    command = [sys.executable, "-m", "oq", "config", "show", "--origin"]
    monkeypatch.setenv("OQ_SERVER__TOKEN", FIXED)
    config = subprocess.run(
        command, capture_output=True, text=True, env=environment(**env), timeout=60, check=True
    )
    shown.append(config.stdout + config.stderr)
    assert "(set)" in config.stdout
    for text in shown:
        for secret in (*SECRETS, made, made[3:]):
            assert secret not in text, text
