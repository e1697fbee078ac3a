from __future__ import annotations

import contextlib
import json
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from ZODB.DB import DB
from ZODB.FileStorage import FileStorage

from oq.config import LoggingSettings
from oq.logs import PrivateFile, set_up


@pytest.fixture
def clean_logging() -> Iterator[None]:
    root, own = logging.getLogger(), logging.getLogger("oq")
    before = (root.handlers[:], root.level, own.level)
    yield
    for handler in set(root.handlers) - set(before[0]):
        root.removeHandler(handler)
        handler.close()
    root.setLevel(before[1])
    own.setLevel(before[2])


@pytest.mark.usefixtures("clean_logging")
def test_a_json_line_carries_the_fields_of_the_record(tmp_path: Path) -> None:
    set_up(LoggingSettings(file=str(tmp_path / "logs" / "oq.log"), format="json"))

    logging.getLogger("oq.x").info("task %s\nstarted", "t1", extra={"task": "t1", "attempt": 2})

    (line,) = (tmp_path / "logs" / "oq.log").read_text().splitlines()
    record = json.loads(line)
    assert record["message"] == "task t1\nstarted"
    assert (record["level"], record["logger"], record["task"], record["attempt"]) == ("info", "oq.x", "t1", 2)


@pytest.mark.usefixtures("clean_logging")
def test_a_text_record_is_one_line(tmp_path: Path) -> None:
    set_up(LoggingSettings(file=str(tmp_path / "oq.log")))

    logging.getLogger("oq.x").warning("two\nlines")
    logging.getLogger("oq.x").debug("not at this level")

    (line,) = (tmp_path / "oq.log").read_text().splitlines()
    assert line.endswith("WARNING oq.x: two\\nlines")


STEERING = "\x1b]0;title\x07\x1b[31m\r\x9b2J\x7f\u202e\u2028\x00"


@pytest.mark.usefixtures("clean_logging")
@pytest.mark.parametrize("form", ["text", "json"])
def test_no_record_steers_the_terminal_that_shows_it(tmp_path: Path, form: str) -> None:
    """Paths and headers are a stranger's, and the access log has them."""
    set_up(LoggingSettings(file=str(tmp_path / "oq.log"), format=form))

    try:
        raise ValueError(f"caused by {STEERING}")
    except ValueError:
        logging.getLogger("oq.x").exception("GET /%s caf\u00e9", STEERING)

    text = (tmp_path / "oq.log").read_text()
    assert "caf\u00e9" in text
    assert "31m" in text
    assert [char for char in text if not char.isprintable() and char != "\n"] == []
    if form == "json":
        assert json.loads(text)["message"] == f"GET /{STEERING} caf\u00e9"


@pytest.mark.usefixtures("clean_logging")
def test_the_file_rotates(tmp_path: Path) -> None:
    set_up(LoggingSettings(file=str(tmp_path / "oq.log"), max_bytes=300, backups=2))

    for number in range(50):
        logging.getLogger("oq.x").info("line %d", number)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["oq.log", "oq.log.1", "oq.log.2"]
    assert all(path.stat().st_size <= 300 for path in tmp_path.iterdir())
    assert "line 49" in (tmp_path / "oq.log").read_text()


@pytest.mark.usefixtures("clean_logging")
def test_only_the_owner_can_read_the_file_and_those_before_it(tmp_path: Path) -> None:
    file = tmp_path / "logs" / "oq.log"
    before = os.umask(0)
    try:
        set_up(LoggingSettings(file=str(file), max_bytes=100, backups=1))
        for number in range(5):
            logging.getLogger("oq.x").info("a line of some length, number %d", number)
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in file.parent.iterdir()}
    assert modes == {"oq.log": 0o600, "oq.log.1": 0o600}
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


@pytest.mark.usefixtures("clean_logging")
def test_a_file_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    file = tmp_path / "oq.log"
    file.write_text("before\n")
    file.chmod(0o644)
    set_up(LoggingSettings(file=str(file)))
    logging.getLogger("oq.x").info("after")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.read_text().startswith("before\n")


@pytest.mark.usefixtures("clean_logging")
def test_a_reader_that_stopped_holds_nobody_up_and_is_told_what_it_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    end, start = os.pipe()
    with os.fdopen(end, "rb", buffering=0) as reader, os.fdopen(start, "w") as stderr:
        monkeypatch.setattr("sys.stderr", stderr)
        set_up(LoggingSettings())
        for _ in range(3000):  # more than a pipe holds
            logging.getLogger("oq.x").info("x" * 100)
        written = reader.read(1 << 20)
        logging.getLogger("oq.x").info("read again")
        note, last = reader.read(1 << 20).decode().splitlines()
    missing = 3000 - written.count(b"\n")
    assert 0 < missing < 3000
    assert f"{missing} lines are missing here" in note
    assert last.endswith("read again")


@pytest.mark.usefixtures("clean_logging")
def test_a_full_disk_is_told_once_holds_nobody_up_and_what_it_cost_is_told_when_there_is_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "oq.log"
    file.symlink_to("/dev/full")
    end, start = os.pipe()
    with os.fdopen(end, "rb", buffering=0) as reader, os.fdopen(start, "w") as stderr:
        monkeypatch.setattr("sys.stderr", stderr)
        handler = set_up(LoggingSettings(file=str(file)))
        assert isinstance(handler, PrivateFile)
        for _ in range(300):  # a page for each would be more than a pipe holds
            logging.getLogger("oq.x").info("x" * 100)
        (told,) = reader.read(1 << 20).decode().splitlines()
        assert f"the log file {file} cannot be written: No space left" in told
        with contextlib.suppress(OSError):
            handler.stream.close()
        file.unlink()
        file.write_text("")
        handler.stream = handler._open()  # as when there is space in the same file
        logging.getLogger("oq.x").info("written again")
        logging.getLogger("oq.x").info("and again")
    lines = file.read_text().splitlines()
    assert [line.partition(": ")[2] for line in lines] == [
        "written again", "300 lines are missing before this: the file could not be written", "and again",
    ]  # fmt: skip


@pytest.mark.usefixtures("clean_logging")
@pytest.mark.parametrize("level", ["info", "debug"])
def test_a_start_after_a_kill_warns_of_nothing_and_of_damage_it_does(tmp_path: Path, level: str) -> None:
    data, lines = tmp_path / "Data.fs", tmp_path / "oq.log"
    for number in range(2):
        storage = FileStorage(str(data))
        database = DB(storage)
        with database.transaction() as connection:
            connection.root()[number] = number
        database.close()
        if not number:
            stale = (tmp_path / "Data.fs.index").read_bytes()
    (tmp_path / "Data.fs.index").write_bytes(stale.replace(b"\0\0\0\0", b"\0\0\0\7", 1))
    set_up(LoggingSettings(file=str(lines), level=level))
    logging.getLogger("ZODB.FileStorage").warning("%s truncated at %s", "Data.fs", 4)
    FileStorage(str(data)).close()
    found = lines.read_text()
    assert "truncated" in found
    assert ("Ignoring index" in found) == (level == "debug")
