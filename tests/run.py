"""Install everything into a fresh environment and run every check: ``python tests/run.py [--fast] [pytest options]``.

Needs only Python 3.11 or newer. For the Python at hand, and for python3.13 too if it is on PATH (not with --fast),
it makes a virtual environment in the checkout, installs oq with its extras, and runs the checks below. What the
system must provide is in NEEDS: found on the machine, else installed with apt when root, else a failure that says
what to install.
"""

from __future__ import annotations

import ctypes.util
import os
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = ".[demo,zeo,test]"


class Need(NamedTuple):
    """Something of the system's. *found* tells whether it is there; *packages* are Debian's."""

    name: str
    found: Callable[[], bool]
    packages: tuple[str, ...]
    why: str


NEEDS: list[Need] = [
    Need(
        "libgomp",
        lambda: ctypes.util.find_library("gomp") is not None,
        ("libgomp1",),
        "the real model runs on it",
    ),
    Need("bash", lambda: shutil.which("bash") is not None, ("bash",), "the completion script is tried in it"),
    # RelStorage's build of psycopg2 is a wheel; the server comes from the system once the store is tested on it.
]

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
    ("pytest", ["pytest", "-q"], False),
]


def main(arguments: list[str]) -> int:
    """Run all; return 1 if anything failed, after everything was run."""
    fast = "--fast" in arguments
    options = [argument for argument in arguments if argument != "--fast"]
    provide(NEEDS)
    pythons = [sys.executable]
    other = shutil.which("python3.13")
    if other and not fast and sys.version_info[:2] != (3, 13):
        pythons.append(other)
    failed: list[str] = []
    for number, python in enumerate(pythons):
        inside = environment(python)
        for name, command, once in CHECKS:
            if once and number:
                continue
            if name == "pytest":
                command = [*command, *options]
            if not step(f"{name} ({python_version(inside)})", script(inside, command)):
                failed.append(name)
    print(f"FAILED: {', '.join(failed)}" if failed else "all checks passed", flush=True)
    return 1 if failed else 0


def provide(needs: list[Need]) -> None:
    """Install what is missing with apt, or exit saying what to install."""
    missing = [need for need in needs if not need.found()]
    if not missing:
        return
    packages = [package for need in missing for package in need.packages]
    if os.geteuid() == 0 and shutil.which("apt-get"):
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        for command in (["apt-get", "update", "-q"], ["apt-get", "install", "-yq", *packages]):
            subprocess.run(command, check=False, env=os.environ | quiet)
        missing = [need for need in needs if not need.found()]
    for need in missing:
        print(
            f"missing: {need.name} ({need.why}). Install {' '.join(need.packages)} and try again.",
            file=sys.stderr,
        )
    if missing:
        sys.exit(1)


def environment(python: str) -> Path:
    """Return the interpreter of the checkout's virtual environment for *python*, made and filled if it is not there."""
    folder = ROOT / f".venv-test-{python_version(Path(python))}"
    inside = folder / "bin" / "python"
    if not inside.exists():
        if python == sys.executable:
            venv.create(folder, with_pip=True)
        else:
            subprocess.run([python, "-m", "venv", str(folder)], check=True)
    install = [str(inside), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    if not step(f"install ({folder.name})", [*install, "--upgrade", "pip", "setuptools"]) or not step(
        f"install oq ({folder.name})", [*install, "-e", EXTRAS]
    ):
        sys.exit(1)
    return inside


def python_version(python: Path) -> str:
    code = "import sys; print('%d.%d' % sys.version_info[:2])"
    return subprocess.run(
        [str(python), "-c", code], check=True, capture_output=True, text=True
    ).stdout.strip()


def script(python: Path, command: list[str]) -> list[str]:
    """Return how to run one of CHECKS in an environment: two have no ``-m`` form."""
    if command == ["lint-imports"]:
        return [str(python.parent / "lint-imports")]
    if command == ["flake8-async"]:
        sources = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "oq").rglob("*.py"))
        return [
            str(python.parent / "flake8-async"),
            f"--disable={ASYNC_OFF}",
            f"--startable-in-context-manager={ASYNC_STARTABLE}",
            *sources,
        ]
    return [str(python), "-m", *command]


def step(name: str, command: list[str]) -> bool:
    """Run one command; say how it went and how long it took."""
    print(f"--- {name}", flush=True)
    began = time.monotonic()
    # The environment's own tools come first: tests start `oq` as a user does.
    path = os.pathsep.join([str(Path(command[0]).parent), os.environ.get("PATH", "")])
    code = subprocess.run(command, cwd=ROOT, env=os.environ | {"PATH": path}, check=False).returncode
    print(
        f"--- {name}: {'ok' if code == 0 else f'FAILED ({code})'} in {time.monotonic() - began:.0f} s",
        flush=True,
    )
    return code == 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
