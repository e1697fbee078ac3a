from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from oq.config import LoggingSettings
from oq.logs import set_up


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


@pytest.mark.usefixtures("clean_logging")
def test_the_file_rotates(tmp_path: Path) -> None:
    set_up(LoggingSettings(file=str(tmp_path / "oq.log"), max_bytes=300, backups=2))

    for number in range(50):
        logging.getLogger("oq.x").info("line %d", number)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["oq.log", "oq.log.1", "oq.log.2"]
    assert all(path.stat().st_size <= 300 for path in tmp_path.iterdir())
    assert "line 49" in (tmp_path / "oq.log").read_text()
