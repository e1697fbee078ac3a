"""Stores beyond one machine: one owner at a time, nothing lost when either side is killed, clear refusals."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
import trio
from click.testing import CliRunner
from fake_ollama import FakeOllama, open_fake_ollama, says, unused_port

import oq
from oq.cli import cli
from oq.client import Client, Patience
from oq.core.messages import Step
from oq.engine import open_queue
from oq.errors import OqError, StorageError, StorageLocked
from oq.store import ZodbJournal, open_journal
from oq.store.remote import open_remote
from tests.cli.live import Served, environment, fake_model_server

from .conftest import FIRST
from .servers import PASSWORD, PostgresServer, Server, ZeoServer
from .test_crash import run_and_kill

Submit = Callable[..., Step]
LEASE = 1.5  # seconds; three beats


def keys(uri: str) -> list[int]:
    journal = open_journal(storage_uri=uri)
    try:
        return [entry.key for entry in journal.recover().unfinished]
    finally:
        journal.close()


def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this process look as one of another machine."""
    monkeypatch.setattr("oq.store.lease._machine", lambda: "another machine")


# --- durability
def test_what_was_committed_is_seen_by_another_client_at_once(uri: str, submit: Submit) -> None:
    journal = open_journal(storage_uri=uri)
    journal.commit([submit(3)])
    other = open_remote(uri)
    with other.transaction() as connection:
        assert list(connection.root()["tasks"]) == [FIRST, FIRST + 1, FIRST + 2]
    other.close()
    journal.close()


@pytest.mark.slow
def test_after_kills_every_acknowledged_task_is_there(uri: str) -> None:
    first = FIRST
    for lines in (1, 7, 20):
        first = run_and_kill(uri, first, lines)
        found = keys(uri)
        assert found[: first - FIRST] == list(range(FIRST, first))
        assert len(found) % 5 == 0, "a commit is whole or not there"
        first = found[-1] + 1


@pytest.mark.slow
def test_what_was_acknowledged_survives_a_kill_of_the_server(
    server: Server, uri: str, submit: Submit
) -> None:
    journal = open_journal(storage_uri=uri, lease=LEASE)
    for n in range(20):
        journal.commit([submit(1, FIRST + n)])
    server.stop()
    with pytest.raises(StorageError, match="cannot be written"):
        journal.commit([submit(1, FIRST + 20)])
    if isinstance(server, PostgresServer):  # a ZEO client answers from its cache
        with pytest.raises(StorageError, match="cannot be read"):
            journal.get([FIRST])
    server.start()
    commit_when_it_heals(journal, submit(1, FIRST + 21))
    assert [task is not None for task in journal.get([FIRST, FIRST + 19, FIRST + 21])] == [True] * 3
    journal.close()
    assert keys(uri) == [*range(FIRST, FIRST + 20), FIRST + 21]


def commit_when_it_heals(journal: ZodbJournal, step: Step) -> None:
    for _ in range(60):
        try:
            return journal.commit([step])
        except StorageError:
            threading.Event().wait(0.25)  # as the writer does: the server may be recovering
    raise AssertionError("it did not heal")


@pytest.mark.slow
def test_a_database_that_would_not_wait_for_the_disk_is_made_to(
    postgres: PostgresServer, submit: Submit
) -> None:
    uri = postgres.new_uri()
    name = urlsplit(uri).path[1:]
    postgres.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    journal = open_journal(storage_uri=uri)
    journal.commit([submit(5)])
    postgres.stop()  # what is not on disk is lost
    postgres.start()
    journal.close()
    assert keys(uri) == [FIRST + n for n in range(5)]


@pytest.mark.slow
def test_a_server_that_never_waits_for_the_disk_is_refused(postgres: PostgresServer) -> None:
    uri = postgres.new_uri()
    postgres.stop()
    postgres.start("fsync=off")
    try:
        with pytest.raises(StorageError, match="fsync = off"):
            open_journal(storage_uri=uri)
    finally:
        postgres.stop()
        postgres.start()


def test_a_pack_takes_what_was_deleted_out_of_the_store(server: Server, uri: str, submit: Submit) -> None:
    journal = open_journal(storage_uri=uri)
    journal.commit([submit(100, payload=b'{"prompt": "' + b"y" * 3000 + b'"}')])
    journal.commit([Step(deletes=tuple(FIRST + n for n in range(90)))])
    journal.pack()
    assert keys_left(journal) == [FIRST + n for n in range(90, 100)]
    if isinstance(server, ZeoServer):
        assert 0 < journal.size() < 100_000  # of 300,000
    else:
        # PostgreSQL keeps the pages and fills them again.
        [(rows,)] = server.execute("SELECT count(*) FROM object_state", urlsplit(uri).path[1:])
        assert rows < 60
    journal.close()


def keys_left(journal: ZodbJournal) -> list[int]:
    return [entry.key for entry in journal.recover().unfinished]


# --- one owner
def test_a_store_in_use_is_refused_and_the_owner_named(uri: str) -> None:
    journal = open_journal(storage_uri=uri)
    with pytest.raises(
        StorageLocked, match=r"in use by another oq \(process \d+ on .+\); stop that one first"
    ):
        open_journal(storage_uri=uri)
    journal.close()
    journal = open_journal(storage_uri=uri)
    journal.close()


def test_of_many_that_start_together_one_gets_the_store(uri: str) -> None:
    open_journal(storage_uri=uri).close()
    got: list[ZodbJournal] = []
    refused: list[OqError] = []
    together = threading.Barrier(4)

    def start() -> None:
        together.wait()
        try:
            got.append(open_journal(storage_uri=uri))
        except OqError as error:
            refused.append(error)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for journal in got:
        journal.close()
    assert len(got) == 1, refused
    assert {type(error) for error in refused} == {StorageLocked}


@pytest.mark.slow
def test_an_owner_elsewhere_that_still_beats_keeps_the_store(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = open_journal(storage_uri=uri, lease=LEASE)
    elsewhere(monkeypatch)
    with pytest.raises(StorageLocked, match="in use by another oq"):
        open_journal(storage_uri=uri, lease=LEASE)
    journal.close()


@pytest.mark.slow
def test_an_owner_elsewhere_that_fell_silent_is_replaced_and_can_write_no_more(
    uri: str, submit: Submit, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    silent = open_journal(storage_uri=uri, lease=3600)
    silent.commit([submit()])
    elsewhere(monkeypatch)
    caplog.set_level(logging.WARNING, "oq.store")
    owner = open_journal(storage_uri=uri, lease=1)
    assert "watching for 1 s whether it still is" in caplog.text
    assert "taking it over" in caplog.text
    owner.commit([submit(1, FIRST + 1)])
    for _ in range(2):
        with pytest.raises(StorageError):
            silent.commit([submit(1, FIRST + 2)])
    with pytest.raises(StorageLocked):
        silent.commit([submit(1, FIRST + 2)])
    silent.close()
    owner.commit([submit(1, FIRST + 3)])
    assert keys_left(owner) == [FIRST, FIRST + 1, FIRST + 3]
    owner.close()


def test_an_owner_replaced_in_the_middle_of_a_commit_writes_nothing(
    uri: str, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    loser = open_journal(storage_uri=uri)
    winners: list[ZodbJournal] = []
    put = loser._put

    def put_and_lose(steps: Sequence[Step]) -> None:
        put(steps)
        monkeypatch.setattr("oq.store.lease._lives", lambda _: False)
        winners.append(open_journal(storage_uri=uri))

    monkeypatch.setattr(loser, "_put", put_and_lose)
    with pytest.raises(StorageError, match="Conflict"):
        loser.commit([submit()])
    assert keys_left(winners[0]) == []
    loser.close()
    winners[0].close()


@pytest.mark.slow
def test_an_owner_learns_that_it_was_replaced_without_writing(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loser = open_journal(storage_uri=uri, lease=LEASE)
    monkeypatch.setattr("oq.store.lease._lives", lambda _: False)
    winner = open_journal(storage_uri=uri, lease=LEASE)
    with pytest.raises(StorageLocked):
        loser.wait_lost()
    loser.close()
    winner.commit([Step(paused=True)])
    winner.close()


async def test_a_queue_whose_store_was_taken_ends_saying_so(
    uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    winners: list[ZodbJournal] = []

    async def embed() -> None:
        host = f"http://127.0.0.1:{unused_port()}"
        async with open_queue(storage=uri, storage_lease=1.0, ollama_host=host):
            monkeypatch.setattr("oq.store.lease._lives", lambda _: False)
            winners.append(await trio.to_thread.run_sync(lambda: open_journal(storage_uri=uri)))
            await trio.sleep(30)

    with pytest.raises(StorageLocked, match="in use by another oq"):
        await embed()
    await trio.to_thread.run_sync(winners[0].close)


def test_a_process_that_was_closed_without_its_server_can_open_the_store_again(
    server: Server, uri: str, submit: Submit
) -> None:
    journal = open_journal(storage_uri=uri)
    journal.commit([submit()])
    server.stop()
    journal.close()
    server.start()
    assert keys(uri) == [FIRST]


# --- the whole program
async def test_the_library_keeps_its_tasks_there(uri: str) -> None:
    with trio.fail_after(60):
        async with open_fake_ollama() as fake:
            async with oq.open_queue(storage=uri, ollama_host=fake.url) as queue:
                task = await queue.submit(oq.generate("m", "x"))
                assert (await task.result())["response"]
        async with oq.open_queue(storage=uri, ollama_host=fake.url) as queue:
            assert (await queue.get(task.id)).status == "completed"


@pytest.fixture(scope="module")
def model_server():
    with fake_model_server() as fake:
        yield fake


@pytest.mark.slow
def test_the_server_program_survives_kills_of_itself_and_of_the_database(
    server: Server, uri: str, model_server: FakeOllama, tmp_path: Path
) -> None:
    def serve(*arguments: str) -> Served:
        return Served(tmp_path / "data", "--ollama-host", model_server.url, *arguments, OQ_QUEUE__STORAGE=uri)

    model_server.default = says("Hel", "lo")
    served = serve("--paused")
    with Client(served.url, patience=Patience(retries=0)) as client:
        ids = [client.submit(oq.generate("m", str(n))).id for n in range(5)]
        second = subprocess.run(
            [sys.executable, "-m", "oq", "serve", "--port", "0"],
            env=environment(OQ_QUEUE__STORAGE=uri), cwd=tmp_path, capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip
        assert second.returncode == 1
        assert re.search(r"is in use by another oq \(process \d+ on", second.stderr)
        assert "Traceback" not in second.stderr

        served.stop(9)
    served = serve("--paused")
    with Client(served.url, patience=Patience(retries=0), timeout=30) as client:
        assert sorted(task.id for task in client.list(status=["pending"])) == sorted(ids)
        server.stop()
        with pytest.raises(StorageError):
            client.submit(oq.generate("m", "refused"))
        server.start()
        submitted_again = None
        for _ in range(100):
            try:
                submitted_again = client.submit(oq.generate("m", "again")).id
                break
            except OqError:
                threading.Event().wait(0.25)
        assert submitted_again is not None
        client.resume()
        for id in [*ids, submitted_again]:
            assert client.wait(id, 30).status == "completed"
    assert served.wait_said(re.compile(r"^store: (zeo|postgresql)://"))
    assert served.stop() == 0
    shown = "\n".join(served.said)
    assert PASSWORD not in shown
    assert "%40" not in shown


# --- what is refused, and how it is said
@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("sqlite://?data_dir=x", "an answered task could be lost"),
        ("file:///tmp/x.fs", "queue.storage_path"),
        ("memory://", "would not survive"),
        ("mysql://db/oq", "use postgresql"),
        ("nosuch://x", "takes zeo://host:port"),
        ("just text", "takes zeo://host:port"),
        ("zeo://host:port", "cannot open the store"),
        ("zeo://127.0.0.1:1?nosuch=1&wait_timeout=1", "nosuch"),
        ("zconfig:///nowhere/zeo.conf", "cannot open the store"),
        ("postgresql://oq:se%zzcret@127.0.0.1/x", "write @ as %40"),
        ("postgresql://oq:secret@127.0.0.1/x?nosuch=1", "nosuch"),
    ],
)
def test_a_uri_that_cannot_be_used_is_refused_with_a_reason(uri: str, words: str) -> None:
    with pytest.raises(StorageError) as caught:
        open_journal(storage_uri=uri)
    assert words in caught.value.message
    assert "\n" not in caught.value.message
    assert "secret" not in caught.value.message
    assert "zzcret" not in caught.value.message


def test_a_zconfig_file_may_name_a_zeo_server_and_nothing_else(
    zeo: ZeoServer, tmp_path: Path, submit: Submit
) -> None:
    address = urlsplit(zeo.new_uri())
    file = tmp_path / "store.conf"
    file.write_text(
        f"<zeoclient>\n server {address.netloc}\n storage {address.query.removeprefix('storage=')}\n</zeoclient>\n"
    )
    journal = open_journal(storage_uri=f"zconfig://{file}")
    journal.commit([submit()])
    journal.close()
    assert keys(f"zconfig://{file}") == [FIRST]
    file.write_text(f"<filestorage>\n path {tmp_path / 'x.fs'}\n</filestorage>\n")
    with pytest.raises(StorageError, match="is a FileStorage"):
        open_journal(storage_uri=f"zconfig://{file}")


def test_a_server_that_does_not_answer_is_an_error_that_hides_the_password() -> None:
    with pytest.raises(StorageError, match=r"oq:\*\*\*@127.0.0.1") as caught:
        open_journal(storage_uri=f"postgresql://oq:secret@127.0.0.1:{unused_port()}/x")
    assert "secret" not in caught.value.message
    with pytest.raises(StorageError, match="cannot open the store zeo://"):
        open_journal(storage_uri=f"zeo://127.0.0.1:{unused_port()}?wait_timeout=1")


def test_a_wrong_password_is_said_without_it(postgres: PostgresServer) -> None:
    with pytest.raises(StorageError, match="password authentication failed") as caught:
        open_journal(storage_uri=re.sub(":[^:@]+@", ":wrong-secret@", postgres.uri("postgres")))
    assert "wrong-secret" not in caught.value.message


def test_a_socket_in_the_parameters_of_the_uri_works(postgres: PostgresServer, submit: Submit) -> None:
    name, password = urlsplit(postgres.new_uri()).path[1:], quote(PASSWORD, safe="")
    uri = f"postgresql:///{name}?host={postgres.folder}&port={postgres.port}&user=oq&password={password}"
    journal = open_journal(storage_uri=uri)
    journal.commit([submit()])
    journal.close()
    assert keys(uri) == [FIRST]


def test_a_database_of_something_else_is_refused_and_left_alone(uri: str) -> None:
    other = open_remote(uri)
    with other.transaction() as connection:
        connection.root()["Application"] = "something"
    other.close()
    with pytest.raises(StorageError, match="holds no tasks table"):
        open_journal(storage_uri=uri)
    other = open_remote(uri)
    with other.transaction() as connection:
        assert dict(connection.root()) == {"Application": "something"}
    other.close()


def test_doctor_looks_whether_the_store_answers(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("OQ_QUEUE__STORAGE", uri)
    said = (
        CliRunner().invoke(cli, ["doctor", "-o", "json", "--port", str(unused_port())], prog_name="oq").stdout
    )
    assert "answers" in said
    assert "%40" not in said
    assert "%40" not in CliRunner().invoke(cli, ["config", "show"], prog_name="oq").stdout
    monkeypatch.setenv("OQ_QUEUE__STORAGE", f"zeo://127.0.0.1:{unused_port()}?wait_timeout=1")
    said = (
        CliRunner().invoke(cli, ["doctor", "-o", "json", "--port", str(unused_port())], prog_name="oq").stdout
    )
    assert "cannot open the store" in said
