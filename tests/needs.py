"""What the tests need of the system, besides Python: found on the machine, else installed with apt when root."""

from __future__ import annotations

import ctypes.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

NODE = 18  # the first with `node --test`


class Need(NamedTuple):
    """Something of the system's. *found* tells whether it is there; *packages* are Debian's."""

    name: str
    found: Callable[[], bool]
    packages: tuple[str, ...]
    why: str


def postgresql_programs() -> Path | None:
    """Return the folder with the newest PostgreSQL server's programs; Debian keeps them off PATH."""
    installed = sorted(
        Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: float(path.parts[-3])
    )
    on_path = shutil.which("postgres")
    for path in [*reversed(installed), *([Path(on_path).resolve()] if on_path else [])]:
        if (path.parent / "initdb").exists() and (path.parent / "pg_ctl").exists():
            return path.parent
    return None


def chromium() -> str | None:
    """Return the browser that draws the monitor in tests."""
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    return next(filter(None, map(shutil.which, names)), None)


def said_by(*command: str) -> str:
    """Return what a program prints; nothing if it is not there or fails."""
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""


def node_is_there() -> bool:
    version = re.match(r"v(\d+)", said_by("node", "--version"))
    return version is not None and int(version[1]) >= NODE and shutil.which("npm") is not None


NEEDS: list[Need] = [
    Need(
        "libgomp",
        lambda: ctypes.util.find_library("gomp") is not None,
        ("libgomp1",),
        "the real model runs on it",
    ),
    Need(
        "bash",
        lambda: shutil.which("bash") is not None,
        ("bash",),
        "README, tutorial and completion are tried in it",
    ),
    Need("curl", lambda: shutil.which("curl") is not None, ("curl",), "README's blocks call it"),
    Need(
        "the PostgreSQL server",
        lambda: postgresql_programs() is not None,
        ("postgresql",),
        "the store is tested on it",
    ),
    Need("Chromium", lambda: chromium() is not None, ("chromium",), "the monitor is tested in it"),
    Need(
        "a font with Chinese",
        lambda: bool(said_by("fc-list", ":lang=zh").strip()),
        ("fontconfig", "fonts-wqy-microhei"),
        "the monitor is drawn with it",
    ),
    Need(
        f"Node.js {NODE} or newer, with npm",
        node_is_there,
        ("nodejs", "npm"),
        "the monitor's parts are tested in it",
    ),
]


def provide(needs: list[Need]) -> bool:
    """Install what is missing with apt where that is possible; say what is missing still; return whether all is there."""
    missing = [need for need in needs if not need.found()]
    if missing and os.geteuid() == 0 and shutil.which("apt-get"):
        environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}

        def apt(*arguments: str) -> None:
            subprocess.run(("apt-get", *arguments), check=False, env=environment, stdin=subprocess.DEVNULL)

        apt("update", "-q")
        for need in missing:  # one by one: what one of them lacks must not hold up the others
            print(f"--- installing {need.name}: {need.why}", flush=True)
            apt("install", "-yq", "--no-install-recommends", *need.packages)
        missing = [need for need in missing if not need.found()]
    for need in missing:
        print(
            f"missing: {need.name} ({need.why}). Install {' and '.join(need.packages)} and try again.",
            file=sys.stderr,
        )
    return not missing
