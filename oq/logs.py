"""Logging of the server: one line per record, as text or JSON, to stderr or to a file that rotates.

The library itself never configures logging; `oq serve` calls `set_up`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import logging.handlers
import os
import select
import stat
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from oq.config import LoggingSettings

_PLAIN = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def _stamp(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


def _plain(text: str, escaped: Callable[[str], str]) -> str:
    """Return *text* with what begins a line or steers a terminal *escaped*: paths and headers are a stranger's."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else escaped(char) for char in text)


def _for_text(char: str) -> str:
    return char.encode("unicode_escape").decode()


def _for_json(char: str) -> str:
    return json.dumps(char)[1:-1]


class TextFormatter(logging.Formatter):
    """``2026-01-31T12:00:00.000+00:00 INFO oq.actors.bus: task … started …``; a traceback follows on lines of its own."""

    def format(self, record: logging.LogRecord) -> str:
        line = f"{_stamp(record)} {record.levelname} {record.name}: {record.getMessage()}"
        lines = [line, *(self.formatException(record.exc_info).split("\n") if record.exc_info else ())]
        return "\n".join(_plain(line, _for_text) for line in lines)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the record's extra fields."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, object] = {
            "time": _stamp(record), "level": record.levelname.lower(), "logger": record.name,
            "message": record.getMessage(),
        }  # fmt: skip
        fields |= {name: value for name, value in vars(record).items() if name not in _PLAIN}
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return _plain(json.dumps(fields, default=str, ensure_ascii=False), _for_json)


class PrivateFile(logging.handlers.RotatingFileHandler):
    """A rotating file that only its owner can read, whatever the umask: it names tasks, models and addresses.

    What a full disk does not take is counted, and told once there is space. Logging would print a page for each line, and
    wait for a reader of the standard error that may have stopped.
    """

    _lost = 0

    def emit(self, record: logging.LogRecord) -> None:
        lost = self._lost
        super().emit(record)
        if lost and self._lost == lost:
            self._lost = 0
            super().emit(_missing("%d lines are missing before this: the file could not be written", lost))

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
            return
        self._lost += 1
        if self._lost == 1 and sys.stderr is not None:
            stderr = UnreadStream(sys.stderr)
            stderr.setFormatter(self.formatter)
            stderr.handle(
                _missing("the log file %s cannot be written: %s", self.baseFilename, error.strerror)
            )

    def _open(self) -> Any:
        descriptor = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):  # /dev/stderr and its like are not ours to change
            with contextlib.suppress(PermissionError):  # an older one of another owner stays as it is
                os.fchmod(descriptor, 0o600)
        return os.fdopen(descriptor, self.mode, encoding=self.encoding)


class UnreadStream(logging.StreamHandler[TextIO]):
    """A stream; what its reader leaves no room for is not logged, and counted once there is room again.

    A write would wait for the reader, and the server with it: `oq serve 2>&1 | less` would stop the queue, and no signal end it.
    A pipe that is ready takes 4,096 bytes at once (PIPE_BUF of pipe(7)).
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._room: select.poll | None = None
        self._lost = 0
        with contextlib.suppress(OSError, ValueError):  # a stream in memory always has room
            room = select.poll()
            room.register(stream.fileno(), select.POLLOUT)
            self._room = room

    def emit(self, record: logging.LogRecord) -> None:
        if self._room is not None and not self._room.poll(0):
            self._lost += 1
            return
        if self._lost:
            lost, self._lost = self._lost, 0
            super().emit(
                _missing("%d lines are missing here: nobody read what was written before them", lost)
            )
        super().emit(record)


def _missing(words: str, *args: object) -> logging.LogRecord:
    return logging.LogRecord(__name__, logging.WARNING, __file__, 0, words, args, None)


def set_up(settings: LoggingSettings) -> logging.Handler:
    """Send all records of level and above where *settings* say; return the handler. OSError if the file cannot be."""
    handler: logging.Handler
    if settings.file:
        path = Path(settings.file).expanduser()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handler = PrivateFile(
            path, maxBytes=settings.max_bytes, backupCount=settings.backups, encoding="utf-8"
        )
    else:
        handler = UnreadStream(sys.stderr)
    handler.setFormatter(JsonFormatter() if settings.format == "json" else TextFormatter())
    root = logging.getLogger()
    root.addHandler(handler)
    level = getattr(logging, {"warn": "warning"}.get(settings.level, settings.level).upper())
    root.setLevel(max(level, logging.WARNING))  # others speak up only when something is wrong
    logging.getLogger("oq").setLevel(level)
    if level > logging.DEBUG:
        for name in ("relstorage", "ZEO"):  # pages about a server that is away: oq says it in one line
            logging.getLogger(name).setLevel(logging.CRITICAL)
        handler.addFilter(_is_news)
    return handler


def _is_news(record: logging.LogRecord) -> bool:
    """Return whether it says anything: after each kill ZODB reads the data file in place of an index that is older, and warns."""
    return not (record.name == "ZODB.FileStorage" and str(record.msg).startswith("Ignoring index for"))
