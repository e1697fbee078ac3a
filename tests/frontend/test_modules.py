"""The monitor's modules without a browser: their own tests under node, and their types."""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess

import pytest
from npm_packages import FRONTEND, HERE, installed


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.slow
def test_the_modules_pass_their_own_tests() -> None:
    installed()
    node = shutil.which("node")
    assert node is not None, "no node: apt-get install nodejs npm (Node 20 or newer)"
    done = run(node, "--test", *map(str, sorted(HERE.glob("*.test.mjs"))))
    assert done.returncode == 0, done.stdout[-4000:]
    assert re.search(r"^# pass [1-9]|^ℹ pass [1-9]", done.stdout, re.MULTILINE), done.stdout[-4000:]


@pytest.mark.slow
def test_the_types_are_right() -> None:
    done = run(str(installed() / ".bin" / "tsc"), "-p", str(FRONTEND))
    assert (done.returncode, done.stdout) == (0, "")


def test_the_vendored_files_are_those_that_the_readme_names() -> None:
    text = (FRONTEND / "vendor" / "README.md").read_text(encoding="utf-8")
    sums = dict(re.findall(r"^\| `(\S+)` \|.*`([0-9a-f]{64})` \|$", text, re.MULTILINE))
    files = {name: hashlib.sha256((FRONTEND / "vendor" / name).read_bytes()).hexdigest() for name in sums}
    assert files == sums
    assert set(sums) == {path.name for path in (FRONTEND / "vendor").glob("*.js")} - {"preact.entry.js"}


def test_nothing_writes_markup_and_nothing_is_evaluated() -> None:
    wrong = re.compile(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|dangerouslySetInnerHTML|\beval\(|new Function|srcdoc"
    )
    for path in FRONTEND.rglob("*.js"):
        if path.parent.name != "vendor" and "node_modules" not in path.parts:
            assert wrong.search(path.read_text(encoding="utf-8")) is None, path
