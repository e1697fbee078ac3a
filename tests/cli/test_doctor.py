"""`oq doctor` and `oq config`: on a machine without a server."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from fake_ollama import FakeOllama

from oq.cli.doctor import FREE_LOW, FREE_NONE, LEFT_BEHIND
from oq.client import Client
from oq.config import settings_from
from oq.core.messages import Step, Write
from oq.core.model import Status, TaskSpec, TaskState
from oq.errors import StorageError
from oq.store import open_journal
from oq.store.lock import FolderLock
from tests.cli.conftest import Oq
from tests.cli.live import Served, environment


def findings(bare: Oq, *arguments: str) -> dict[str, tuple[str, str]]:
    found = bare(*arguments, "-o", "jsonl")
    items = [json.loads(line) for line in found.stdout.splitlines()]
    assert found.exit_code == (1 if any(item["state"] == "fail" for item in items) else 0)
    return {item["what"]: (item["state"], item["finding"]) for item in items}


@pytest.fixture
def port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def test_all_is_well_with_a_model_server_and_a_new_folder(
    bare: Oq, tmp_path: Path, model_server: FakeOllama, port
):
    found = findings(bare, "--data-dir", "data", "--ollama-host", model_server.url, "doctor", "--port", port)
    assert found["data folder"][0] == found["port"][0] == found["disk"][0] == "ok"
    assert found["model server default"] == ("ok", f"{model_server.url} runs version 0.32.15 with 1 models")
    assert found["oq server"][0] == "warn"
    assert not (tmp_path / "data").exists()


def test_a_model_server_that_is_not_there_fails(bare: Oq, port):
    found = findings(bare, "--ollama-host", "http://127.0.0.1:9", "doctor", "--port", port)
    assert found["model server default"][0] == "fail"
    assert found["model server default"][1] == (
        "http://127.0.0.1:9 cannot be reached (Connection refused): start it, as `ollama serve`, or check ollama.host"
    )


def test_a_folder_that_others_can_read_is_warned_of(bare: Oq, tmp_path: Path, port):
    (tmp_path / "data").mkdir(mode=0o755)
    (tmp_path / "data").chmod(0o755)
    state, text = findings(bare, "--data-dir", "data", "doctor", "--port", port)["data folder"]
    assert (state, "chmod 700" in text) == ("warn", True)


def test_a_data_folder_that_is_a_file_fails(bare: Oq, tmp_path: Path, port):
    (tmp_path / "data").write_text("")
    state, text = findings(bare, "--data-dir", "data", "doctor", "--port", port)["data folder"]
    assert (state, text) == ("fail", f"{tmp_path / 'data'} is a file; choose another --data-dir")


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the permissions as they are for a user who owns everything here and is not root."""

    def access(path: Path, mode: int) -> bool:
        return (os.stat(path).st_mode >> 6) & mode == mode

    monkeypatch.setattr(os, "access", access)


def test_a_data_folder_that_cannot_be_written_fails(bare: Oq, tmp_path: Path, port, nobody: None):
    (tmp_path / "data").mkdir(mode=0o500)
    state, text = findings(bare, "--data-dir", "data", "doctor", "--port", port)["data folder"]
    assert (state, text.startswith(f"{tmp_path / 'data'} is not writable")) == ("fail", True)
    assert text.endswith("chown it, or choose --data-dir")


def test_a_data_folder_that_cannot_be_made_fails(bare: Oq, tmp_path: Path, port, nobody: None):
    (tmp_path / "mine").mkdir(mode=0o500)
    state, text = findings(bare, "--data-dir", "mine/more/data", "doctor", "--port", port)["data folder"]
    assert state == "fail"
    assert text == (
        f"{tmp_path / 'mine/more/data'} cannot be made: {tmp_path / 'mine'} is not writable; choose --data-dir"
    )


@pytest.mark.parametrize(
    ("free", "state", "said"),
    [
        (FREE_LOW, "ok", "1.0 GiB free"),
        (FREE_LOW - 1, "warn", "1.0 GiB free: that is little; free some space"),
        (FREE_NONE, "warn", "0.1 GiB free: that is little; free some space"),
        (FREE_NONE - 1, "fail", "0.1 GiB free: new tasks will be refused; free some space"),
    ],
)
def test_a_disk_that_fills_is_told_in_time(
    bare: Oq, port, monkeypatch: pytest.MonkeyPatch, free: int, state: str, said: str
):
    usage = shutil.disk_usage(".")._replace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    assert findings(bare, "--data-dir", "data", "doctor", "--port", port)["disk"] == (state, said)


# --- what answers, and is something else


@contextmanager
def saying(body: bytes) -> Iterator[str]:
    """Answer every request with 200 and *body*; give the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    "body", [b"It works!", b"[]", b'{"version": "1", "models": 7}', b"\xff", b"[" * 100_000]
)
def test_what_is_no_ollama_fails_as_a_model_server(bare: Oq, port, body: bytes):
    with saying(body) as url:
        found = findings(bare, "--ollama-host", url, "doctor", "--port", port)["model server default"]
    assert found == ("fail", f"{url} answers, but not as Ollama does: check ollama.host")


def test_a_model_server_without_models_is_told_how_to_get_one(bare: Oq, port):
    with saying(b'{"version": "1", "models": []}') as url:
        found = findings(bare, "--ollama-host", url, "doctor", "--port", port)["model server default"]
    assert found == ("warn", f"{url} runs version 1 but has no models: `ollama pull llama3.2`")


def test_what_is_no_oq_server_is_told_with_its_port(bare: Oq):
    with saying(b"<html>") as url:
        found = findings(bare, "doctor", "--port", url.rpartition(":")[2])
    state, text = found["oq server"]
    assert (state, text.partition(":")[0]) == ("warn", "what answers at http")
    assert "is no healthy oq server; see that the address is right" in text
    assert found["port"][0] == "fail"
    assert found["port"][1].endswith("(Address already in use): stop what has it, or choose --port")


@pytest.mark.slow
def test_a_server_that_wants_a_token_runs(
    bare: Oq, tmp_path: Path, model_server: FakeOllama, monkeypatch: pytest.MonkeyPatch
):
    made = bare("--data-dir", "data", "token", "create", "ci", "--scope", "read")
    served = Served(tmp_path / "data", "--ollama-host", model_server.url)
    look = ("--data-dir", "data", "--ollama-host", model_server.url, "--server", served.url, "doctor")
    try:
        found = findings(bare, *look)
        text = f"an oq server runs at {served.url} and wants a token (OQ_TOKEN)"
        assert found["oq server"] == ("warn", text)
        assert not {"port", "lock"} & found.keys()
        monkeypatch.setenv("OQ_TOKEN", "oq_wrong")
        assert findings(bare, *look)["oq server"][1].startswith(f"{text}, another than this one: ")
        monkeypatch.setenv("OQ_TOKEN", made.stdout.strip())
        assert findings(bare, *look)["oq server"][0] == "ok"
    finally:
        served.stop()


def test_a_server_whose_disk_refuses_writes_fails(bare: Oq):
    with saying(b'{"storage_ok": false}') as url:
        state, text = findings(bare, "doctor", "--port", url.rpartition(":")[2])["oq server"]
    assert (state, text) == (
        "fail",
        text.partition(" runs")[0] + " runs, but its disk refuses writes: free some space",
    )


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("queue: [", ("my.yaml", "YAML")),
        ("queue:\n  max_wrokers: 3\n", ("my.yaml", "queue.max_wrokers", "max_workers")),
        ("queue:\n  max_workers: many\n", ("my.yaml", "queue.max_workers", "many")),
        (None, ("my.yaml",)),
    ],
    ids=["no YAML", "an unknown name", "a wrong value", "no file"],
)
def test_a_settings_file_that_is_wrong_fails_and_says_where(bare: Oq, tmp_path: Path, content, words):
    if content is not None:
        (tmp_path / "my.yaml").write_text(content)
    found = findings(bare, "--config", "my.yaml", "doctor")
    assert list(found) == ["settings"], "nothing can be looked at without them"
    state, text = found["settings"]
    assert state == "fail"
    assert all(word in text for word in words), text


def test_a_data_file_that_vanished_fails(bare: Oq, tmp_path: Path, port):
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "data" / "Data.fs.old").write_text("")
    assert findings(bare, "--data-dir", "data", "doctor", "--port", port)["store"][0] == "fail"


@pytest.mark.parametrize("damage", ["overwritten", "emptied", "removed"])
def test_what_serve_refuses_to_open_fails(bare: Oq, tmp_path: Path, port, damage: str):
    folder = tmp_path / "data"
    open_journal(settings_from(storage_path=str(folder)).queue).close()
    if damage == "removed":
        (folder / "Data.fs").unlink()
    else:
        (folder / "Data.fs").write_bytes(b"" if damage == "emptied" else b"garbage")
    state, text = findings(bare, "--data-dir", "data", "doctor", "--port", port)["store"]
    assert (state, "backup" in text) == ("fail", True)


def test_a_folder_another_process_has_is_told(bare: Oq, tmp_path: Path, port):
    (tmp_path / "data").mkdir(mode=0o700)
    lock = FolderLock(tmp_path / "data")
    try:
        state, text = findings(bare, "--data-dir", "data", "doctor", "--port", port)["lock"]
        assert (state, text.endswith("stop it, or choose --data-dir")) == ("warn", True)
    finally:
        lock.release()


def test_a_port_in_use_fails(bare: Oq):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        taken.settimeout(0)
        port = str(taken.getsockname()[1])
        state, text = findings(bare, "--timeout", "1", "doctor", "--port", port)["port"]
    assert (state, "--port" in text) == ("fail", True)


def test_a_wrong_setting_fails_and_is_named(bare: Oq, monkeypatch):
    monkeypatch.setenv("QUEUE_MAX_WORKERS", "many")
    state, text = findings(bare, "doctor")["settings"]
    assert (state, "QUEUE_MAX_WORKERS" in text) == ("fail", True)


def test_config_show_tells_where_a_value_comes_from(bare: Oq, tmp_path: Path, monkeypatch):
    (tmp_path / "my.yaml").write_text("queue:\n  max_workers: 9\n")
    monkeypatch.setenv("OLLAMA_TIMEOUT", "5m")
    found = bare("--config", "my.yaml", "config", "show", "--origin", "-o", "json")
    rows = {row["key"]: (row["value"], row["origin"]) for row in json.loads(found.stdout)}
    assert rows["queue.max_workers"][0] == "9"
    assert "my.yaml" in rows["queue.max_workers"][1]
    assert "OLLAMA_TIMEOUT" in rows["ollama.timeout"][1]
    assert rows["server.port"] == ("7125", "default")


def test_config_get_prints_a_value_alone(bare: Oq, monkeypatch):
    monkeypatch.setenv("OLLAMA_TIMEOUT", "90")
    assert bare("config", "get", "ollama.timeout").stdout == "1m30s\n"
    found = bare("config", "get", "ollama.timeout", "-o", "json")
    assert json.loads(found.stdout) == {"key": "ollama.timeout", "value": "1m30s"}

    found = bare("config", "get", "ollama.timeouts")
    assert (found.exit_code, "did you mean ollama.timeout?" in found.stderr) == (2, True)


def test_a_token_of_the_settings_is_not_told_to_another_server(monkeypatch):
    from oq.cli.session import Session

    monkeypatch.setenv("OQ_SERVER__TOKEN", "secret")
    own, other = Session(), Session()
    other.server = "http://elsewhere.test"
    try:
        assert own.client._verbs.headers["Authorization"] == "Bearer secret"
        assert "Authorization" not in other.client._verbs.headers
    finally:
        own.close()
        other.close()


def test_a_task_that_cannot_be_read_is_found_when_asked(bare: Oq, tmp_path: Path, port):
    journal = open_journal(tmp_path / "data")
    spec = TaskSpec("generate", "m", b'{"prompt": "Hello"}')
    journal.commit([Step((Write(1 << 60, TaskState(Status.PENDING, 5), spec),))])
    journal.close()
    arguments = ("--data-dir", "data", "doctor", "--port", port, "--deep")
    assert findings(bare, *arguments)["tasks"] == ("ok", "all 1 can be read")
    file = tmp_path / "data" / "Data.fs"
    file.write_bytes(file.read_bytes().replace(b'"prompt"', bytes(8)))
    assert "tasks" not in findings(bare, *arguments[:-1])
    state, text = findings(bare, *arguments)["tasks"]
    assert (state, "restore a backup" in text) == ("fail", True)


@pytest.mark.slow
def test_damage_is_a_finding_and_no_traceback_and_the_port_asked_for_is_looked_at(
    tmp_path: Path, served: Served, queue: Client
):
    journal = open_journal(tmp_path / "data")
    spec = TaskSpec("generate", "m", b'{"prompt": "Hello"}')
    journal.commit([Step((Write(1 << 60, TaskState(Status.PENDING, 5), spec),))])
    journal.close()
    file = tmp_path / "data" / "Data.fs"
    file.write_bytes(file.read_bytes().replace(b'"prompt"', bytes(8)))
    port = served.url.rpartition(":")[2]
    command = [sys.executable, "-m", "oq", "--data-dir", str(file.parent), "doctor", "--deep", "--port", port]
    found = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=30)
    assert (found.returncode, found.stderr) == (1, "")
    assert f"ok     oq server             {served.url} runs" in found.stdout


def test_doctor_says_what_lets_strangers_in(bare: Oq, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, port):
    monkeypatch.setenv("OQ_SERVER__HOST", "0.0.0.0")
    arguments = ("--data-dir", "data", "doctor", "--port", port)
    state, text = findings(bare, *arguments)["port"]
    assert (state, "oq token create" in text) == ("fail", True)
    assert bare("--data-dir", "data", "token", "create", "a", "--scope", "read").exit_code == 0
    found = findings(bare, *arguments)
    assert (found["port"][0], found["tokens"][0]) == ("ok", "ok")
    (tmp_path / "data" / "tokens.json").chmod(0o644)
    assert "chmod 600" in findings(bare, *arguments)["tokens"][1]
    (tmp_path / "data" / "tokens.json").write_text("{")
    assert findings(bare, *arguments)["tokens"][0] == "fail"
    monkeypatch.setenv("OQ_SERVER__TLS_CERT", "none.pem")
    assert "server.tls_key" in findings(bare, *arguments)["TLS"][1]


@pytest.mark.parametrize("name", LEFT_BEHIND)
def test_what_a_kill_left_behind_is_found_and_it_is_said_what_to_do(
    bare: Oq, tmp_path: Path, port, name: str
):
    name = name.replace("*", "123")
    open_journal(tmp_path / "data").close()
    (tmp_path / "data" / name).write_bytes(b"")
    arguments = ("--data-dir", "data", "doctor", "--port", port)
    state, text = findings(bare, *arguments)[name]
    assert (state, "remove" in text) == ("warn", True)
    lock = FolderLock(tmp_path / "data")
    try:
        assert name not in findings(bare, *arguments), "it belongs to what is going on"
    finally:
        lock.release()


@pytest.mark.parametrize(
    ("content", "state", "word"),
    [(b"", "fail", "restore"), (b"\0" * 4096, "fail", "restore"), (None, "fail", "restore")],
    ids=["empty", "zeros", "missing"],
)
def test_a_data_file_that_is_none_fails(bare: Oq, tmp_path: Path, port, content: bytes | None, state, word):
    open_journal(tmp_path / "data").close()
    file = tmp_path / "data" / "Data.fs"
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    found = findings(bare, "--data-dir", "data", "doctor", "--port", port)["store"]
    assert (found[0], word in found[1]) == (state, True)


def test_a_data_file_that_ends_in_zeros_is_warned_of(bare: Oq, tmp_path: Path, port):
    open_journal(tmp_path / "data").close()
    with (tmp_path / "data" / "Data.fs").open("ab") as file:
        file.write(bytes(4096))
    state, text = findings(bare, "--data-dir", "data", "doctor", "--port", port)["store"]
    assert (state, "power cut" in text) == ("warn", True)


def test_what_was_cut_off_as_damaged_is_warned_of(bare: Oq, tmp_path: Path, port):
    open_journal(tmp_path / "data").close()
    (tmp_path / "data" / "Data.fs.tr0").write_bytes(b"x")
    state, text = findings(bare, "--data-dir", "data", "doctor", "--port", port)["Data.fs.tr0"]
    assert (state, "restore" in text) == ("warn", True)


def test_a_link_to_a_folder_that_is_not_there_fails_as_serve_does(bare: Oq, tmp_path: Path, port):
    (tmp_path / "data").symlink_to(tmp_path / "unmounted")
    state, text = findings(bare, "--data-dir", "data", "doctor", "--port", port)["data folder"]
    assert (state, f"a link to {tmp_path / 'unmounted'}, which is not there" in text) == ("fail", True)
    with pytest.raises(StorageError, match="unmounted, which is not there"):
        open_journal(tmp_path / "data")


def test_a_store_of_a_newer_oq_fails(bare: Oq, tmp_path: Path, port, monkeypatch: pytest.MonkeyPatch):
    open_journal(tmp_path / "data").close()
    monkeypatch.setattr("oq.store.migrations.SCHEMA", 1)
    state, text = findings(bare, "--data-dir", "data", "doctor", "--deep", "--port", port)["tasks"]
    assert (state, "upgrade oq" in text) == ("fail", True)


def test_a_pack_cut_short_between_its_renames_is_put_right_by_a_start(bare: Oq, tmp_path: Path, port):
    open_journal(tmp_path / "data").close()
    data = tmp_path / "data" / "Data.fs"
    data.with_name("Data.fs.pack").write_bytes(data.read_bytes())
    data.rename(data.with_name("Data.fs.old"))
    arguments = ("--data-dir", "data", "doctor", "--port", port)
    assert findings(bare, *arguments)["store"][0] == "warn"
    open_journal(tmp_path / "data").close()
    assert findings(bare, *arguments)["store"][0] == "ok"
