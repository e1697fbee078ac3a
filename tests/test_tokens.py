"""The file of access tokens."""

from __future__ import annotations

import itertools
import os
import stat
import threading
from pathlib import Path

import pytest

from oq.errors import ConfigError, InvalidTask, TaskConflict, TaskNotFound
from oq.tokens import MOST, Scope, TokenFile, digest


@pytest.fixture
def file(tmp_path: Path) -> TokenFile:
    return TokenFile(tmp_path / "data")


def test_a_token_is_kept_as_a_hash_alone(file: TokenFile) -> None:
    secret = file.create("ci", Scope.SUBMIT, 12.5)
    text = file.path.read_text()
    assert len(secret) == 46
    assert secret not in text
    assert secret[3:] not in text
    (token,) = file.read()
    assert (token.name, token.scope, token.created_at) == ("ci", "submit", 12.5)
    assert token.sha256 == digest(secret.encode()).hex()


def test_no_two_tokens_are_the_same(file: TokenFile) -> None:
    assert len({file.create(f"t{number}", Scope.READ, 0.0) for number in range(20)}) == 20


def test_only_the_owner_can_read_the_file_whatever_the_umask(file: TokenFile) -> None:
    before = os.umask(0)
    try:
        file.create("a", Scope.READ, 0.0)
        file.create("b", Scope.READ, 0.0)
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.folder.stat().st_mode) == 0o700


def test_a_revoked_token_is_gone_and_the_others_stay(file: TokenFile) -> None:
    for name in ("a", "b", "c"):
        file.create(name, Scope.READ, 0.0)
    assert file.revoke("b").name == "b"
    assert [token.name for token in file.read()] == ["a", "c"]


def test_a_name_is_taken_once(file: TokenFile) -> None:
    file.create("a", Scope.READ, 0.0)
    with pytest.raises(TaskConflict, match="revoke it first"):
        file.create("a", Scope.ADMIN, 0.0)
    assert [token.scope for token in file.read()] == ["read"]


@pytest.mark.parametrize("name", ["", "a b", "-a", "x" * 65, "a\n", "../a", "ü"])
def test_a_name_is_a_plain_word(file: TokenFile, name: str) -> None:
    with pytest.raises(InvalidTask, match="is no name"):
        file.create(name, Scope.READ, 0.0)


def test_a_token_that_is_not_there_cannot_be_revoked(file: TokenFile) -> None:
    with pytest.raises(TaskNotFound):
        file.revoke("a")
    file.create("b", Scope.READ, 0.0)
    with pytest.raises(TaskNotFound):
        file.revoke("a")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        '{"version": 1, "tokens": [{"name": "a", "scope": "all", "sha256": "00", "created_at": 1}]}',
    ],
)
def test_a_damaged_file_is_an_error_and_is_not_replaced(file: TokenFile, text: str) -> None:
    file.folder.mkdir()
    file.path.write_text(text)
    with pytest.raises(ConfigError, match="damaged"):
        file.read()
    with pytest.raises(ConfigError, match="damaged"):
        file.create("a", Scope.READ, 0.0)
    assert file.path.read_text() == text


def test_there_is_a_most(file: TokenFile) -> None:
    for number in range(MOST):
        file.create(f"t{number}", Scope.READ, 0.0)
    with pytest.raises(TaskConflict, match="revoke some"):
        file.create("more", Scope.READ, 0.0)


def test_tokens_made_at_the_same_time_are_all_kept(file: TokenFile) -> None:
    threads = [
        threading.Thread(target=file.create, args=(f"t{number}", Scope.READ, 0.0)) for number in range(16)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(file.read()) == 16
    assert [path.name for path in file.folder.iterdir()] == ["tokens.json"]


def test_its_state_changes_with_every_change(file: TokenFile) -> None:
    states = [file.state()]
    for _ in range(5):
        file.create("a", Scope.READ, 0.0)
        states.append(file.state())
        file.revoke("a")
        states.append(file.state())
    assert states[0] is None
    assert all(one != other for one, other in itertools.pairwise(states))
