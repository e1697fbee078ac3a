"""`oq token`, and a real server that asks for what it made."""

from __future__ import annotations

import json
import re
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme
from fake_ollama import FakeOllama, says

import oq as library
from oq.client import Patience
from oq.errors import OqError, ServerUnreachable
from tests.cli.conftest import Oq
from tests.cli.live import Served, refused

NONE = Patience(retries=0)
pytestmark = pytest.mark.slow


def made(bare: Oq, name: str, scope: str, data: str = "data") -> str:
    found = bare("--data-dir", data, "token", "create", name, "--scope", scope)
    assert found.exit_code == 0, found.stderr
    return found.stdout.strip()


def test_a_token_is_made_listed_and_revoked(bare: Oq):
    secret = made(bare, "ci", "submit")
    assert re.fullmatch(r"oq_[\w-]{43}", secret)
    listed = bare("--data-dir", "data", "token", "list", "-o", "jsonl")
    (item,) = map(json.loads, listed.stdout.splitlines())
    assert (item["name"], item["scope"]) == ("ci", "submit")
    assert secret not in listed.stdout
    revoked = bare("--data-dir", "data", "token", "revoke", "ci")
    assert revoked.exit_code == 0
    assert "to end that, delete data/tokens.json and restart the server" in revoked.stderr
    assert bare("--data-dir", "data", "token", "list", "-o", "id").stdout == ""


def test_the_wrong_ways_say_what_to_do(bare: Oq):
    made(bare, "ci", "read")
    again = bare("--data-dir", "data", "token", "create", "ci", "--scope", "read")
    assert (again.exit_code, "revoke it first" in again.stderr) == (6, True)
    absent = bare("--data-dir", "data", "token", "revoke", "other")
    assert (absent.exit_code, "oq token list" in absent.stderr) == (3, True)
    assert bare("--data-dir", "data", "token", "create", "x").exit_code == 2
    assert bare("--data-dir", "data", "token", "create", "a b", "--scope", "read").exit_code == 1


def test_other_machines_are_let_in_with_a_token_or_insecure_alone(
    bare: Oq, tmp_path: Path, model_server: FakeOllama
):
    arguments = ("--host", "0.0.0.0", "--ollama-host", model_server.url)
    line = refused(*arguments, "--data-dir", str(tmp_path / "data"), "--port", "0")
    assert "oq token create" in line
    assert "--insecure" in line
    assert not (tmp_path / "data").exists()
    open_one = Served(tmp_path / "data", *arguments, "--insecure")
    assert open_one.wait_said(re.compile("everybody who can reach this server may read and change all tasks"))
    assert open_one.stop() == 0
    secret = made(bare, "boss", "admin", str(tmp_path / "data"))
    served = Served(tmp_path / "data", *arguments)
    try:
        assert served.wait_said(re.compile("cross the network as they are: set server.tls_cert"))
        url = served.url.replace("0.0.0.0", "127.0.0.1")
        with library.Client(url, token=secret) as client:
            assert client.status().total_tasks == 0
        with library.Client(url, token="wrong") as client, pytest.raises(OqError, match="not known"):
            client.status()
    finally:
        served.stop()


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "localhost", "::1"])
def test_loopback_needs_no_token(tmp_path: Path, model_server: FakeOllama, host: str):
    served = Served(tmp_path / "data", "--host", host, "--ollama-host", model_server.url)
    try:
        with library.Client(served.url) as client:
            assert client.status().total_tasks == 0
    finally:
        assert served.stop() == 0


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[trustme.CA, dict[str, str], Path]]:
    folder = tmp_path_factory.mktemp("tls")
    ca = trustme.CA()
    leaf = ca.issue_cert("localhost", "127.0.0.1")
    ca.cert_pem.write_to_path(folder / "ca.pem")
    with (folder / "cert.pem").open("wb") as file:
        for blob in leaf.cert_chain_pems:
            file.write(blob.bytes())
    leaf.private_key_pem.write_to_path(folder / "key.pem")
    env = {"OQ_SERVER__TLS_CERT": str(folder / "cert.pem"), "OQ_SERVER__TLS_KEY": str(folder / "key.pem")}
    return ca, env, folder


def test_client_and_command_line_speak_https(
    bare: Oq, tmp_path: Path, model_server: FakeOllama, authority, monkeypatch: pytest.MonkeyPatch
):
    _, env, folder = authority
    model_server.default = says("Hello", " world")
    secret = made(bare, "boss", "admin", str(tmp_path / "data"))
    served = Served(tmp_path / "data", "--ollama-host", model_server.url, **env)
    try:
        assert served.url.startswith("https://127.0.0.1:")
        with (
            library.Client(served.url, token=secret, patience=NONE) as client,
            pytest.raises(ServerUnreachable, match=r"(?i)certificate"),
        ):
            client.status()
        monkeypatch.setenv("SSL_CERT_FILE", str(folder / "ca.pem"))
        with (
            library.Client(served.url, token=secret) as client,
            client.subscribe(["task_completed"]) as events,
        ):
            handle = client.submit(library.chat("llama3.2", "Hi"))
            assert "".join(handle.stream()) == "Hello world"
            assert next(iter(events)).task_id == handle.id
        monkeypatch.setenv("OQ_URL", served.url)
        assert bare("status").exit_code == 1
        monkeypatch.setenv("OQ_TOKEN", secret)
        assert bare("status", "-o", "json").exit_code == 0
        assert bare("submit", "chat", "--model", "llama3.2", "Hi", "--wait").exit_code == 0
        plain = library.Client(served.url.replace("https", "http"), token=secret, timeout=5, patience=NONE)
        with plain, pytest.raises(OqError):
            plain.status()
    finally:
        assert served.stop() == 0


def test_old_tls_is_refused(tmp_path: Path, model_server: FakeOllama, authority):
    import socket
    import warnings

    _, env, folder = authority
    served = Served(tmp_path / "data", "--ollama-host", model_server.url, **env)
    try:
        for newest, works in ((ssl.TLSVersion.TLSv1_1, False), (ssl.TLSVersion.TLSv1_2, True)):
            context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                context.minimum_version = ssl.TLSVersion.TLSv1
                context.maximum_version = newest
            context.set_ciphers("DEFAULT:@SECLEVEL=0")
            port = int(served.url.rpartition(":")[2])
            with socket.create_connection(("127.0.0.1", port), timeout=10) as raw:
                if works:
                    with context.wrap_socket(raw, server_hostname="localhost") as secure:
                        assert secure.version() == "TLSv1.2"
                else:
                    with pytest.raises(OSError, match=r"(?i)alert|version|eof|reset"):
                        context.wrap_socket(raw, server_hostname="localhost")
    finally:
        assert served.stop() == 0


def test_a_wrong_certificate_is_said_before_anything_starts(tmp_path: Path, authority):
    _, env, folder = authority
    data = ("--data-dir", str(tmp_path / "data"), "--port", "0")
    trustme.CA().issue_cert("x").private_key_pem.write_to_path(folder / "other.pem")
    (folder / "text.pem").write_text("no key")
    both = refused(*data, **{**env, "OQ_SERVER__TLS_KEY": ""})
    assert "needs server.tls_key beside it" in both
    assert "do not belong together" in refused(
        *data, **{**env, "OQ_SERVER__TLS_KEY": str(folder / "other.pem")}
    )
    assert "no PEM files" in refused(*data, **{**env, "OQ_SERVER__TLS_KEY": str(folder / "text.pem")})
    assert "cannot be read" in refused(*data, **{**env, "OQ_SERVER__TLS_CERT": str(folder / "none.pem")})
    assert not (tmp_path / "data").exists()
