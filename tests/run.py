"""Install everything into a fresh environment and run every check: ``python tests/run.py [--fast] [pytest options]``.

Needs only Python 3.11 or newer. For the Python at hand, and for python3.13 too if it is on PATH (not with --fast),
it makes a virtual environment in the checkout, installs oq with its extras, and runs the checks below, all of them
even if one fails. What the system must provide is in needs.py. Not among them: tests/integrations, whose programs are
large and take minutes to install (``tox -e integrations``).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

if sys.version_info < (3, 11):  # noqa: UP036 (said here, before something fails that an older one has not)
    sys.exit("oq needs Python 3.11 or newer: python3.11 tests/run.py")

from needs import NEEDS, provide, said_by

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = ".[demo,zeo,postgresql,test]"
LIMIT_SECONDS = 25 * 60  # for one check: one that hangs must not hide the others

# ASYNC9 asks for a checkpoint in every function, also in those that promise not to wait. ASYNC109: `timeout` is part
# of the verbs that library and client share. ASYNC124: handlers and verbs are async by contract. ASYNC119: `follow` is
# closed by who leaves it early (aclosing). ASYNC127 would have httpx replaced: docs/decisions/httpx.md.
ASYNC_OFF = "ASYNC9,ASYNC109,ASYNC119,ASYNC124,ASYNC127"
ASYNC_STARTABLE = "_run_actors,serve_app"  # they report with `task_status`

# name, command after `python -m`, whether it runs once only (on the first Python)
CHECKS: list[tuple[str, list[str], bool]] = [
    ("ruff check", ["ruff", "check", "."], True),
    ("ruff format", ["ruff", "format", "--check", "."], True),
    ("mypy", ["mypy", "--strict", "oq"], False),
    ("import-linter", ["lint-imports"], True),
    ("flake8-async", ["flake8-async"], True),
    ("doctests", ["pytest", "-q", "--doctest-modules", "oq", "-p", "no:cacheprovider"], False),
    # the same generated examples in every run; `pytest` by hand draws new ones
    ("pytest", ["pytest", "-q", "--hypothesis-profile=ci"], False),
]


Result = tuple[str, int, float]  # a step, its exit code, its seconds


def main(arguments: list[str]) -> int:
    """Run all; return 1 if anything failed, after everything was run."""
    began = time.monotonic()
    options = [argument for argument in arguments if argument != "--fast"]
    if not provide(NEEDS):
        return 1
    results: list[Result] = []
    for number, python in enumerate(pythons(fast="--fast" in arguments)):
        folder = ROOT / f".venv-test-{python_version(python)}"
        install(python, folder, results)
        if results[-1][1]:
            continue
        for name, command, once in CHECKS:
            if once and number:
                continue
            if name == "pytest":
                command = [*command, *options]
            results.append(
                step(f"{name} ({python_version(python)})", script(folder / "bin" / "python", command))
            )
    print("\n--- summary")
    for name, code, seconds in results:
        print(f"{'FAILED' if code else 'ok':<7} {name:<36} {seconds:>5.0f} s")
    failed = [name for name, code, _ in results if code]
    verdict = f"FAILED: {', '.join(failed)}" if failed else "all checks passed"
    print(f"--- {verdict} in {time.monotonic() - began:.0f} s", flush=True)
    return 1 if failed else 0


def pythons(*, fast: bool) -> list[str]:
    """Return the Python at hand, and python3.13 where one on PATH really runs: version managers leave empty shells."""
    found = [sys.executable]
    if not fast and sys.version_info[:2] != (3, 13):
        folders = os.environ.get("PATH", "").split(os.pathsep)
        others = (str(Path(folder) / "python3.13") for folder in folders if folder)
        found += [other for other in others if python_version(other) == "3.13"][:1]
    return found


def python_version(python: str) -> str:
    """Return its version as ``3.11``; nothing if it does not run."""
    return said_by(python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])").strip()


def install(python: str, folder: Path, results: list[Result]) -> None:
    """Make a virtual environment in *folder*, if it is not there, with oq and its extras in it; stop at a failure."""
    inside = str(folder / "bin" / "python")
    pip = [inside, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    commands = {
        "install": [*pip, "--upgrade", "pip", "setuptools"],
        "install oq": [*pip, "-e", EXTRAS],
    }
    if not python_version(inside):
        commands = {"venv": [python, "-m", "venv", "--clear", str(folder)]} | commands
    for name, command in commands.items():
        results.append(step(f"{name} ({python_version(python)})", command))
        if results[-1][1]:
            return


def script(python: Path, command: list[str]) -> list[str]:
    """Return how to run one of CHECKS in an environment: two have no ``-m`` form."""
    if command == ["lint-imports"]:
        return [str(python.parent / "lint-imports")]
    if command == ["flake8-async"]:
        # It takes a second a file, and has nothing to say of those without async in them.
        files = sorted((ROOT / "oq").rglob("*.py"))
        sources = [
            str(path.relative_to(ROOT)) for path in files if "async" in path.read_text(encoding="utf-8")
        ]
        return [
            str(python.parent / "flake8-async"),
            f"--disable={ASYNC_OFF}",
            f"--startable-in-context-manager={ASYNC_STARTABLE}",
            *sources,
        ]
    return [str(python), "-m", *command]


def step(name: str, command: list[str]) -> Result:
    """Run one command, for LIMIT_SECONDS at most; say how it went."""
    print(f"--- {name}", flush=True)
    began = time.monotonic()
    # The environment's own tools come first: tests start `oq` as a user does.
    path = os.pathsep.join([str(Path(command[0]).parent), os.environ.get("PATH", "")])
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PATH": path}, start_new_session=True)
    try:
        code = process.wait(LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        print(f"--- {name}: still running after {LIMIT_SECONDS} s, ended", flush=True)
        code = 1
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    seconds = time.monotonic() - began
    print(f"--- {name}: {f'FAILED ({code})' if code else 'ok'} in {seconds:.0f} s", flush=True)
    return name, code, seconds


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
