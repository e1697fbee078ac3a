"""Access tokens: what they allow, and the file that has them.

A token is 256 random bits, shown once when it is made; the file keeps its SHA-256. A slow hash protects words that
people choose, because those can be guessed; nobody guesses 256 random bits, so one round is as safe and costs a
request microseconds. Why a file, and why in the data folder: docs/decisions/tokens.md.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from enum import IntEnum
from pathlib import Path

import msgspec

from oq.durable import replace_file
from oq.errors import ConfigError, InvalidTask, TaskConflict, TaskNotFound

FILE_NAME = "tokens.json"
PREFIX = "oq_"  # so that people, and programs that look for leaked secrets, know one when they see it
SECRET_BYTES = 32
MOST = 256  # tokens in a file: a request is compared with each
VERSION = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Scope(IntEnum):
    """What a request needs and a token has; each includes those below it."""

    READ = 1
    SUBMIT = 2
    ADMIN = 3

    @property
    def word(self) -> str:
        return self.name.lower()


WORDS = {scope.word: scope for scope in Scope}


class Token(msgspec.Struct, frozen=True, kw_only=True):
    """One token as it is kept: *sha256* in hex, *created_at* in Unix seconds."""

    name: str
    scope: str
    sha256: str
    created_at: float


class _Content(msgspec.Struct, frozen=True, kw_only=True):
    version: int
    tokens: tuple[Token, ...]


def digest(secret: bytes) -> bytes:
    """Return what is kept of *secret* and compared."""
    return hashlib.sha256(secret).digest()


class TokenFile:
    """``tokens.json`` in a data folder. Once it is there, the server asks everybody for a token, also if none is left."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder).expanduser()
        self.path = self.folder / FILE_NAME

    def state(self) -> tuple[int, int, int] | None:
        """Return what differs after every change; None while there is no file."""
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            return None
        except OSError as error:
            return (0, 0, error.errno or 0)  # there, as far as anybody can tell: `read` says what is wrong
        return (found.st_ino, found.st_mtime_ns, found.st_size)

    def read(self) -> tuple[Token, ...]:
        """Return all tokens, none without a file; `ConfigError` when it cannot be read or is not such a file."""
        try:
            text = self.path.read_bytes()
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise ConfigError(f"{self.path} cannot be read: {error.strerror}", "tokens") from error
        try:
            content = msgspec.json.decode(text, type=_Content)
            for token in content.tokens:
                if token.scope not in WORDS or len(bytes.fromhex(token.sha256)) != SECRET_BYTES:
                    raise ValueError(f"the token {token.name!r} has a scope or a hash that is none")
        except ValueError as error:  # msgspec's errors are of it
            what = (
                f"{self.path} is damaged ({error}); move it away and make new tokens with `oq token create`"
            )
            raise ConfigError(what, "tokens") from error
        if content.version != VERSION:
            raise ConfigError(f"{self.path} was written by another version of oq", "tokens")
        return content.tokens

    def create(self, name: str, scope: Scope, now: float) -> str:
        """Add a token and return its secret, which nothing can show again."""
        if not _NAME.fullmatch(name):
            raise InvalidTask(
                f"{name[:80]!r} is no name: 1 to 64 letters, digits, dots, dashes or underscores"
            )
        secret = PREFIX + secrets.token_urlsafe(SECRET_BYTES)
        made = Token(name=name, scope=scope.word, sha256=digest(secret.encode()).hex(), created_at=now)
        with self._alone():
            tokens = self.read()
            if any(token.name == name for token in tokens):
                raise TaskConflict(
                    f"there is a token {name!r} already; revoke it first, or choose another name"
                )
            if len(tokens) >= MOST:
                raise TaskConflict(f"there are {MOST} tokens already; revoke some first")
            self._write((*tokens, made))
        return secret

    def revoke(self, name: str) -> Token:
        """Take a token out and return what was kept of it."""
        if not self.folder.is_dir():
            raise TaskNotFound(f"there is no token {name[:80]!r}: {self.folder} is not there")
        with self._alone():
            tokens = self.read()
            for token in tokens:
                if token.name == name:
                    self._write(tuple(other for other in tokens if other is not token))
                    return token
        raise TaskNotFound(f"there is no token {name[:80]!r}; `oq token list` shows them")

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the folder against another process that changes tokens; the server does not need to."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise ConfigError(
                f"cannot use the data folder {self.folder}: {error.strerror}; see --data-dir",
                "queue.storage_path",
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _write(self, tokens: tuple[Token, ...]) -> None:
        """Replace the file in one step, so that a reader sees the old one or the new one, whole."""
        text = msgspec.json.format(msgspec.json.encode(_Content(version=VERSION, tokens=tokens)))
        try:
            replace_file(self.path, text + b"\n")
        except OSError as error:
            raise ConfigError(f"{self.path} cannot be written: {error.strerror}", "tokens") from error
