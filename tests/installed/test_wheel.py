"""What people install: the source package and the wheel made from it, in an environment of its own."""

from __future__ import annotations

import email.message
import email.parser
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from oq.version import VERSION
from oq.web.pages import SHOWN
from tests.cli.live import LISTENS, environment

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
# What makes the vendored files, and what checks the modules, stays in the checkout.
NOT_SHIPPED = re.compile(
    r"node_modules/|tests?/|\.test\.m?js$|package(-lock)?\.json$|[jt]sconfig.*\.json$|vendor/(build\.mjs|.*\.entry\.js)$"
)
MADE = shutil.ignore_patterns(".*", "build", "dist", "*.egg-info", "__pycache__", "node_modules")


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command away from the checkout; return what it prints."""
    plain = {name: value for name, value in environment().items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False, env=plain
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source package, and the wheel built from that."""
    folder = tmp_path_factory.mktemp("built")
    shutil.copytree(ROOT, folder / "tree", ignore=MADE)
    run(sys.executable, "-m", "build", "--outdir", folder / "dist", folder / "tree", cwd=folder)
    return folder / "dist"


@pytest.fixture(scope="module")
def wheel(built: Path) -> Path:
    [found] = built.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def inside(wheel: Path) -> list[str]:
    """The names in the wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return email.parser.Parser().parsestr(archive.read(name).decode())


@pytest.fixture(scope="module")
def programs(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of a new environment with nothing but the wheel and what it asks for."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=True)
    run(
        folder / "bin" / "python",
        "-m",
        "pip",
        "install",
        "-q",
        "--disable-pip-version-check",
        wheel,
        cwd=folder,
    )
    return folder / "bin"


def test_the_wheel_has_every_module_and_nothing_else(inside: list[str]) -> None:
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "oq").rglob("*.py")}
    there = {name for name in inside if name.endswith(".py")}
    assert there == modules | {"oq/web/frontend/__init__.py"}
    tops = {name.split("/")[0] for name in inside}
    assert tops == {"oq", f"ollama_queue-{VERSION}.dist-info"}


def test_the_wheel_has_every_file_of_the_page(inside: list[str]) -> None:
    page = {path.relative_to(ROOT / "frontend").as_posix() for path in (ROOT / "frontend").rglob("*")}
    wanted = {name for name in page if Path(name).suffix in SHOWN and not NOT_SHIPPED.search(name)}
    assert "index.html" in wanted
    assert wanted <= {name.removeprefix("oq/web/frontend/") for name in inside}


def test_the_wheel_says_that_it_is_typed(inside: list[str]) -> None:
    assert "oq/py.typed" in inside


def test_the_metadata_says_what_it_is(metadata: email.message.Message) -> None:
    assert metadata["Name"] == "ollama-queue"
    assert metadata["Version"] == VERSION
    assert metadata["Requires-Python"] == ">=3.11"
    assert "MIT" in (metadata["License-Expression"] or metadata["License"])
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert set(metadata.get_all("Provides-Extra", [])) >= {"demo", "postgresql", "test", "zeo"}
    assert "# oq" in str(metadata.get_payload())


def test_no_extra_needs_a_compiler(metadata: email.message.Message) -> None:
    needed = [re.split(r"[^\w.-]", line)[0] for line in metadata.get_all("Requires-Dist", [])]
    assert "psycopg2-binary" in needed
    assert "psycopg2" not in needed, "it has no wheels: it is built with a compiler and libpq's headers"


def test_the_source_package_can_be_tested(built: Path) -> None:
    [path] = built.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names >= {
        "tests/run.py",
        "tests/needs.py",
        "tests/installed/test_wheel.py",
        "docs/reference/rest.md",
    }
    assert names >= {"frontend/index.html", "LICENSE", "README.md", "CHANGELOG.md", "setup.cfg", "tox.ini"}


def test_both_programs_run(programs: Path, tmp_path: Path) -> None:
    for name in ("oq", "ollama-queue"):
        assert VERSION in run(programs / name, "version", cwd=tmp_path)
    assert VERSION in run(programs / "python", "-m", "oq", "version", cwd=tmp_path)


def test_what_it_needs_fits_together(programs: Path, tmp_path: Path) -> None:
    assert "No broken requirements" in run(programs / "python", "-m", "pip", "check", cwd=tmp_path)


def test_a_missing_extra_is_said(programs: Path, tmp_path: Path) -> None:
    code = "import oq.store; oq.store.open_journal(storage_uri='postgresql://x@127.0.0.1/x')"
    done = subprocess.run(
        [programs / "python", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "pip install 'ollama-queue[postgresql]'" in done.stderr


@pytest.fixture(scope="module")
def url(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A running server of the installed program."""
    folder = tmp_path_factory.mktemp("serve")
    plain = {name: value for name, value in environment().items() if name != "PYTHONPATH"}
    command = [programs / "oq", "serve", "--port", "0", "--data-dir", folder / "data"]
    with subprocess.Popen(command, cwd=folder, env=plain, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = ""
        while not (found := LISTENS.search(said)):
            line = process.stderr.readline()
            assert line, said
            said += line
        yield found[1]
        process.send_signal(signal.SIGTERM)
        process.stderr.read()


def test_the_installed_program_serves_the_page(url: str, inside: list[str]) -> None:
    answer = httpx.get(url, headers={"Accept": "text/html"})
    assert answer.status_code == 200
    assert "<html" in answer.text
    assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
    shipped = [name.removeprefix("oq/web/frontend/") for name in inside if "/frontend/" in name]
    for name in (name for name in shipped if Path(name).suffix in SHOWN):
        assert httpx.get(f"{url}/static/{name}").status_code == 200, name
