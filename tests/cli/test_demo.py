"""`oq demo` with a fake model server in the place of the real model (tests/acceptance has that one)."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator

import pytest
from fake_ollama import FakeOllama, says

import oq.demo
from tests.cli.conftest import Oq


class Handle:
    def __init__(self, url: str) -> None:
        self.url = url
        self.stopped = False

    def stop(self) -> None:
        self.stopped = True


@pytest.fixture
def handle(model_server: FakeOllama, monkeypatch: pytest.MonkeyPatch) -> Iterator[Handle]:
    handle = Handle(model_server.url)
    monkeypatch.setattr(oq.demo, "start_model_server", lambda knobs: handle, raising=False)
    model_server.default = says("Hello", " world")
    yield handle
    model_server.default = says("Hello", " world")


def test_once_shows_all_tasks_and_ends_well(bare: Oq, handle: Handle):
    found = bare("demo", "--once")
    assert found.exit_code == 0, found.stderr
    answers = found.stdout.splitlines()
    assert len(answers) == 7
    assert answers[0] == "an order, critical (chat, priority 15): Hello world"
    assert "two vectors, high (embed, priority 10): 2 vectors of 2 dimensions" in answers
    assert "7 of 7 tasks completed" in found.stderr
    assert handle.stopped


def test_a_task_that_fails_makes_the_demo_fail(bare: Oq, handle: Handle, model_server: FakeOllama):
    from fake_ollama import status

    model_server.default = status(400, "no")
    found = bare("demo", "--once")
    assert found.exit_code == 4
    assert handle.stopped


def test_a_queue_that_does_not_start_is_told_in_its_own_words(bare: Oq, handle: Handle):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        found = bare("demo", "--once", "--port", str(taken.getsockname()[1]))
    assert found.exit_code == 1
    assert "in use" in found.stderr
    assert handle.stopped


def test_without_the_extra_it_says_what_to_install(bare: Oq, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "oq.demo", None)
    found = bare("demo", "--once")
    assert found.exit_code == 1
    assert "pip install 'ollama-queue[demo]'" in found.stderr


def test_a_library_that_the_system_lacks_is_not_taken_for_the_extra(
    bare: Oq, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "oq.demo", types.ModuleType("oq.demo"))
    found = bare("demo", "--once")
    assert found.exit_code == 1
    assert "the system lacks a library" in found.stderr
    assert "pip install" not in found.stderr
