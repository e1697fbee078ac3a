"""What every store does: a file, a ZEO server, a PostgreSQL database."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oq.core.embedding import entry_of
from oq.core.messages import Step, Write
from oq.core.model import Attempt, Status, TaskSpec, TaskState
from oq.errors import StorageError
from oq.store import ZodbJournal, open_journal

from .conftest import FIRST

Submit = Callable[..., Step]
Place = Callable[[], ZodbJournal]
SPEC = TaskSpec(
    type="chat",
    model="llama3",
    payload=b'{"messages": [{"role": "user", "content": "Gr\\u00fc\\u00dfe"}]}',
    options=b'{"num_ctx": 8, "seed": 12345678901234567890}',
    keep_alive=b'"5m"',
    priority=10,
    max_retries=7,
    timeout=2.5,
    run_at=1234.5,
    tags=("a", "b"),
    idempotency_key="once",
    fingerprint=b"\x00\xff",
    guard="retry",
)
STATE = TaskState(
    Status.SCHEDULED,
    3,
    revision=9,
    retry_count=2,
    run_at=1.25,
    started_at=0.5,
    finished_at=None,
    host="h",
    error="no",
    error_code="busy",
    attempts=(Attempt(1, "h", 0.5, 0.75, "failed", "no", "busy"), Attempt(2, "i", 1.0)),
    warnings=("length",),
)


@pytest.fixture(params=["file", "zeo", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Opens one empty store, and later the same again."""
    if request.param == "file":
        return lambda: open_journal(tmp_path / "data")
    server = request.getfixturevalue("zeo" if request.param == "zeo" else "postgres")
    uri = server.new_uri()
    return lambda: open_journal(storage_uri=uri)


@pytest.fixture
def journal(place: Place) -> Iterator[ZodbJournal]:
    opened = place()
    yield opened
    opened.close()


def test_a_task_comes_back_exactly_as_it_went_in(place: Place) -> None:
    first = place()
    first.commit([Step((Write(FIRST, STATE, SPEC, b'{"done": true}'),))])
    first.close()
    second = place()
    [task] = second.get([FIRST])
    second.close()
    assert task is not None
    assert (task.key, task.spec, task.state) == (FIRST, SPEC, STATE)


@pytest.mark.parametrize("size", [0, 300, 5_000, 2_000_000])
def test_a_payload_of_any_size_comes_back(journal: ZodbJournal, submit: Submit, size: int) -> None:
    payload = b'{"prompt": "' + b"x" * size + b'"}'
    journal.commit([submit(payload=payload)])
    [spec] = journal.specs([FIRST])
    assert spec is not None
    assert spec.payload == payload


def test_a_result_is_read_by_get_and_left_out_by_get_light(journal: ZodbJournal, submit: Submit) -> None:
    done = TaskState(Status.COMPLETED, 5, revision=3, finished_at=2.0)
    journal.commit([submit(), Step((Write(FIRST, done, None, b"{}"),))])
    assert [task and task.result_json for task in journal.get([FIRST])] == [b"{}"]
    assert [task and task.result_json for task in journal.get_light([FIRST])] == [None]


def test_a_task_that_runs_again_loses_its_old_result(journal: ZodbJournal, submit: Submit) -> None:
    done = TaskState(Status.COMPLETED, 5, revision=3, finished_at=2.0)
    journal.commit([submit(), Step((Write(FIRST, done, None, b"{}"),))])
    journal.commit([Step((Write(FIRST, TaskState(Status.PENDING, 5, revision=4)),))])
    [task] = journal.get([FIRST])
    assert task is not None
    assert task.result_json is None


def test_what_is_not_there_is_none(journal: ZodbJournal, submit: Submit) -> None:
    journal.commit([submit()])
    assert journal.get([1])[0] is None
    assert [found is None for found in journal.specs([FIRST, 1, FIRST])] == [False, True, False]


def test_a_deleted_task_is_gone(journal: ZodbJournal, submit: Submit) -> None:
    journal.commit([submit(2)])
    journal.commit([Step(deletes=(FIRST, 99))])
    assert [task is None for task in journal.get([FIRST, FIRST + 1])] == [True, False]


def test_the_pause_switch_survives(place: Place) -> None:
    for paused in (True, False):
        first = place()
        first.commit([Step(paused=paused)])
        first.close()
        second = place()
        assert second.recover().paused is paused
        second.close()


def test_recovery_tells_what_scheduling_needs(journal: ZodbJournal) -> None:
    journal.commit([Step((Write(FIRST, STATE, SPEC),))])
    found = journal.recover()
    [entry] = found.unfinished
    assert (entry.key, entry.type, entry.model, entry.tags) == (FIRST, "chat", "llama3", ("a", "b"))
    assert (entry.max_retries, entry.timeout, entry.state) == (7, 2.5, STATE)
    assert entry.affinity == "llama3 num_ctx=8"
    assert found.idempotency == [("once", FIRST, b"\x00\xff")]
    assert found.last_key == FIRST


def test_recovery_tells_which_embed_tasks_may_share_a_call(journal: ZodbJournal) -> None:
    embed = TaskSpec(type="embed", model="m", payload=b'{"input": "x"}', options=b'{"num_ctx": 8}')
    journal.commit([Step((Write(FIRST, STATE, embed),))])
    assert journal.recover().unfinished == [entry_of(FIRST, embed, STATE)]
    entry = entry_of(FIRST, embed, STATE)
    assert entry.group is not None
    assert entry.text is not None
    assert entry.size == len(embed.payload)


def test_recovery_orders_finished_tasks_by_their_end(journal: ZodbJournal, submit: Submit) -> None:
    journal.commit([submit(3)])
    for n, at in ((0, 30.0), (1, 10.0), (2, 20.0)):
        journal.commit([Step((Write(FIRST + n, TaskState(Status.FAILED, 5, revision=4, finished_at=at)),))])
    found = journal.recover()
    assert found.finished == [(FIRST + 1, 10.0, 4), (FIRST + 2, 20.0, 4), (FIRST, 30.0, 4)]
    assert [head.key for head in found.heads] == [FIRST + 1, FIRST + 2, FIRST]


def test_recovery_never_reads_large_payloads(
    journal: ZodbJournal, submit: Submit, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal.commit([submit(payload=b'{"prompt": "' + b"x" * 10_000 + b'"}')])
    monkeypatch.setattr("oq.store.records.BodyRecord.__setstate__", lambda *_: pytest.fail("payload read"))
    assert len(journal.recover().unfinished) == 1


def test_an_empty_store_recovers_to_nothing(journal: ZodbJournal) -> None:
    found = journal.recover()
    assert (found.unfinished, found.finished, found.last_key) == ([], [], 0)


def test_search_finds_text_whatever_its_case_and_escapes(journal: ZodbJournal, submit: Submit) -> None:
    journal.commit([submit(3), Step((Write(FIRST + 3, STATE, SPEC),))])
    keys = [FIRST + 3, FIRST + 2, FIRST + 1, FIRST]
    texts = journal.texts([*keys, FIRST + 9])
    assert ["grüsse".casefold().encode() in text for text in texts] == [True, False, False, False, False]
    assert [b"hello" in text for text in texts] == [False, True, True, True, False]


def test_readers_in_many_threads_beside_commits_and_packs_see_whole_batches(
    journal: ZodbJournal, submit: Submit
) -> None:
    stop = threading.Event()
    wrong: list[object] = []
    journal.commit([submit(20)])

    def read() -> None:
        try:
            while not stop.is_set():
                tasks = journal.get([FIRST + n for n in range(20)])
                seen = {task.state.revision for task in tasks if task is not None}
                if len(seen) != 1:
                    wrong.append(seen)
        except Exception as exc:  # reported by the test below
            wrong.append(exc)

    threads = [threading.Thread(target=read) for _ in range(6)]
    for thread in threads:
        thread.start()
    for revision in range(2, 60):
        state = TaskState(Status.PENDING, 5, revision=revision)
        journal.commit([Step(tuple(Write(FIRST + n, state) for n in range(20)))])
        if revision % 20 == 0:
            journal.pack()
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_write_to_an_unknown_task_is_refused_whole(journal: ZodbJournal, submit: Submit) -> None:
    with pytest.raises(StorageError):
        journal.commit([submit(), Step((Write(1, TaskState(Status.PENDING, 5)),))])
    assert journal.get([FIRST]) == [None]


def test_the_memory_store_keeps_the_same_contract(submit: Submit) -> None:
    journal = open_journal()
    journal.commit([submit(3), Step(paused=True)])
    assert [entry.key for entry in journal.recover().unfinished] == [FIRST, FIRST + 1, FIRST + 2]
    journal.pack()
    assert b"ello" in journal.texts([FIRST])[0]
    journal.close()


def test_closing_twice_is_harmless(journal: ZodbJournal) -> None:
    journal.close()
    journal.close()


def test_a_commit_whose_answer_was_lost_can_be_made_again(journal: ZodbJournal, submit: Submit) -> None:
    journal.commit([submit(3)])
    done = TaskState(Status.COMPLETED, 5, revision=3, finished_at=2.0)
    steps = [Step((Write(FIRST, done, None, b"{}"),)), submit(1, FIRST + 3), Step(deletes=(FIRST,))]
    for _ in range(2):
        journal.commit(steps)
        assert [entry.key for entry in journal.recover().unfinished] == [FIRST + 1, FIRST + 2, FIRST + 3]
        assert journal.get([FIRST]) == [None]
