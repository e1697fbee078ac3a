"""The command that runs all checks: it goes on after a failure, ends what hangs, and says what is missing."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import needs
import pytest
import run


@pytest.fixture
def checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run checks with this Python, with nothing to install."""
    monkeypatch.setattr(run, "NEEDS", [])
    monkeypatch.setattr(run, "install", lambda python, folder, results: results.append(("install", 0, 0.0)))
    monkeypatch.setattr(run, "script", lambda python, command: [sys.executable, *command])


def test_all_checks_run_and_the_failed_one_is_named(
    checked: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    checks = [("first", ["-c", "raise SystemExit(3)"], True), ("second", ["-c", "print('ran')"], True)]
    monkeypatch.setattr(run, "CHECKS", checks)
    assert run.main(["--fast"]) == 1
    said = capfd.readouterr().out
    assert "ran\n" in said
    assert "FAILED (3)" in said
    assert said.splitlines()[-1].startswith(f"--- FAILED: first ({run.python_version(sys.executable)}) in ")


def test_when_all_is_well_it_says_so(
    checked: None, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "CHECKS", [("only", ["-c", ""], True)])
    assert run.main(["--fast"]) == 0
    assert "--- all checks passed in " in capfd.readouterr().out


def test_a_check_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "LIMIT_SECONDS", 1)
    name, code, seconds = run.step("hangs", [sys.executable, "-c", "import time; time.sleep(60)"])
    assert (name, code) == ("hangs", 1)
    assert seconds < 50


def test_a_second_python_that_does_not_run_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shell = tmp_path / "python3.13"
    shell.write_text("#!/bin/sh\nexit 127\n")
    shell.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{tmp_path / 'not there'}")
    assert run.pythons(fast=False) == [sys.executable]


def test_what_is_missing_is_said_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)  # no root: nothing is installed
    there = needs.Need("this", lambda: True, ("nothing",), "it is used")
    missing = needs.Need("a thing", lambda: False, ("thing", "thing-data"), "the tests use it")
    assert not needs.provide([there, missing])
    assert (
        capsys.readouterr().err
        == "missing: a thing (the tests use it). Install thing and thing-data and try again.\n"
    )
    assert needs.provide([there])
