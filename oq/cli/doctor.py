"""`oq doctor`: is everything in place, and what is to be done where it is not."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from oq.cli import exits
from oq.cli.output import emit, unheard
from oq.cli.session import Command, Session, pass_session
from oq.errors import ConfigError, OqError

if TYPE_CHECKING:
    from oq.config import Settings
    from oq.config.settings import HostSettings

FREE_LOW, FREE_NONE = (
    2**30,
    64 * 2**20,
)  # bytes of free disk: below the first it warns, below the second it fails

# What a kill leaves in a data folder, beside a data file that is whole.
LEFT_BEHIND = {
    "Data.fs.old": "the data file before the last pack, which was cut short at its end: see that --deep finds no damage",
    "Data.fs.pack": "a pack was cut short, the data file is the one before: see that --deep finds no damage",
    "backup-*.fs": "a backup was cut short, and what the next pack frees stays on the disk: back up again",
    ".oq.json.*": "the marker was being written; the one in place is whole",
    ".tokens.json.*": "tokens were being written; those in place are whole",
    "restore.part": "a restore was cut short before it changed anything: restore again",
}

WANTS_TOKEN = {"unauthorized", "forbidden", "too_many_failures"}  # codes that only an oq server answers with

Finding = tuple[str, str, str]  # ok, warn or fail; what; how it is and what to do


@click.command(cls=Command)
@click.option("--port", type=click.IntRange(1, 65535), help="The port `oq serve` is to use.")
@click.option("--deep", is_flag=True, help="Also read every task in the data file: damage shows only then.")
@pass_session
def doctor(session: Session, port: int | None, deep: bool) -> None:
    """Check settings, data folder, disk, port and model server; exits with 1 when something fails."""
    with nullcontext() if session.verbose else unheard("ZODB"):
        found = list(_examine(session, port, deep))
    items: list[dict[str, Any]] = [
        {"state": state, "what": what, "finding": text} for state, what, text in found
    ]
    emit(
        session,
        items,
        ("STATE", "WHAT", "FINDING"),
        lambda item: tuple(item.values()),
        id=lambda i: str(i["what"]),
    )
    if any(state == "fail" for state, _, _ in found):
        raise SystemExit(exits.ERROR)


def _examine(session: Session, port: int | None, deep: bool) -> Iterator[Finding]:
    if port is not None:
        session.overrides["server.port"] = port
    try:
        loaded = session.load()
    except ConfigError as error:
        yield "fail", "settings", error.message
        return
    settings = loaded.settings
    sources = sorted({origin for origin in loaded.origins.values() if origin != "default"})
    yield "ok", "settings", f"from {', '.join(sources)}" if sources else "all defaults"
    running, finding = _server(session, settings)
    yield finding
    if settings.queue.storage:
        yield _remote_store(settings.queue.storage)
    else:
        folder = Path(settings.queue.storage_path).expanduser().absolute()
        yield from _folder(folder)
        yield _disk(folder)
        yield from _store(folder, running)
        if deep and (folder / "Data.fs").exists():
            yield _tasks(folder / "Data.fs")
    if not running:
        yield _port(settings)
    yield from _strangers(settings)
    for host in settings.hosts:
        yield _model_server(host, settings.ollama.connect_timeout)


def _server(session: Session, settings: Settings) -> tuple[bool, Finding]:
    """Say whether an oq server answers where these settings put it."""
    from oq.client import Client, Patience

    address = session.address()
    try:
        with Client(address, token=session.token(), timeout=3.0, patience=Patience(retries=0)) as client:
            stats = client.status()
    except OqError as error:
        if error.code == "server_unreachable":
            return False, ("warn", "oq server", f"none runs at {address}; start one with `oq serve`")
        if error.code in WANTS_TOKEN:
            return True, ("warn", "oq server", _wants_token(address, session.token() is not None, error))
        return False, (
            "warn",
            "oq server",
            f"what answers at {address} is no healthy oq server; see that the address is right: {error.message}",
        )
    if not stats.storage_ok:
        return True, ("fail", "oq server", f"{address} runs, but its disk refuses writes: free some space")
    waiting = stats.pending_tasks + stats.scheduled_tasks
    return True, (
        "ok",
        "oq server",
        f"{address} runs: {stats.running_tasks} tasks running, {waiting} waiting",
    )


def _wants_token(address: str, given: bool, error: OqError) -> str:
    text = f"an oq server runs at {address} and wants a token (OQ_TOKEN)"
    return f"{text}, another than this one: {error.message}" if given else text


def _folder(folder: Path) -> Iterator[Finding]:
    if folder.is_symlink() and not folder.exists():
        text = f"{folder} is a link to {folder.readlink()}, which is not there: mount or make that, or choose --data-dir"
        yield "fail", "data folder", text
        return
    if not folder.exists():
        parent = next(parent for parent in folder.parents if parent.exists())
        if os.access(parent, os.W_OK | os.X_OK):
            yield "ok", "data folder", f"{folder} is not there yet; `oq serve` makes it"
        else:
            yield (
                "fail",
                "data folder",
                f"{folder} cannot be made: {parent} is not writable; choose --data-dir",
            )
        return
    if not folder.is_dir():
        yield "fail", "data folder", f"{folder} is a file; choose another --data-dir"
        return
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK):
        yield "fail", "data folder", f"{folder} is not writable by this user; chown it, or choose --data-dir"
        return
    mode = stat.S_IMODE(folder.stat().st_mode)
    if mode & 0o077:
        yield "warn", "data folder", f"{folder} has mode {mode:04o}, others can get at it: chmod 700 {folder}"
    else:
        yield "ok", "data folder", f"{folder} (mode {mode:04o})"


def _disk(folder: Path) -> Finding:
    there = folder if folder.exists() else next(parent for parent in folder.parents if parent.exists())
    free = shutil.disk_usage(there).free
    text = f"{free / 2**30:.1f} GiB free"
    if free < FREE_NONE:
        return "fail", "disk", f"{text}: new tasks will be refused; free some space"
    return (
        ("warn", "disk", f"{text}: that is little; free some space")
        if free < FREE_LOW
        else ("ok", "disk", text)
    )


def _store(folder: Path, running: bool) -> Iterator[Finding]:
    """Look at the data file without opening it: it may be in use."""
    data, lock = folder / "Data.fs", folder / "oq.lock"
    if data.exists():
        yield _data_file(data)
        for path in sorted(folder.glob("Data.fs.tr[0-9]*")):
            text = f"a start cut it off the end of {data.name}, as damaged: `oq restore` a backup, or see what `oq serve` says of it"
            yield "warn", path.name, text
    elif (folder / "Data.fs.old").exists():
        yield _lost_in_a_pack(folder)
    elif (folder / "oq.json").exists():
        text = f"{data} is missing, though {folder} was in use: `oq restore` a backup, or remove oq.json to start empty"
        yield "fail", "store", text
    held = lock.exists() and _locked(lock)
    if held and not running:
        yield (
            "warn",
            "lock",
            f"another process has {folder}, no server at the address asked for: stop it, or choose --data-dir",
        )
    if not held:  # else they belong to what is going on
        for pattern, text in LEFT_BEHIND.items():
            for path in sorted(folder.glob(pattern)) if data.exists() else ():
                yield "warn", path.name, f"{text}; then remove {path}"


def _data_file(data: Path) -> Finding:
    size = data.stat().st_size
    with data.open("rb") as file:
        begin = file.read(4)
        file.seek(max(0, size - 8))
        end = file.read(8)
    if begin[:2] != b"FS":
        return "fail", "store", f"{data} is empty or no data file of oq: `oq restore` a backup"
    if size > 4 and not any(end):  # each transaction ends with its length
        return (
            "warn",
            "store",
            f"{data} ends in zeros, as after a power cut: `oq serve` cuts them off; run --deep",
        )
    return "ok", "store", f"{data}, {size / 2**20:.1f} MiB"


def _lost_in_a_pack(folder: Path) -> Finding:
    data, old = folder / "Data.fs", folder / "Data.fs.old"
    if (folder / "Data.fs.pack").exists():
        return (
            "warn",
            "store",
            f"a pack was cut short between its renames: `oq serve` makes {old} {data.name} again",
        )
    text = f"{data} is missing but {old} is there: a pack was cut short; rename it to Data.fs"
    return "fail", "store", text


def _tasks(file: Path) -> Finding:
    """Read every task."""
    from oq.store.inspect import inspect_file

    damaged: list[tuple[str, str]] = []
    try:
        read = inspect_file(file, lambda id, reason: damaged.append((id, reason)))
    except OqError as error:
        return "fail", "tasks", error.message
    if damaged:
        (id, reason), more = damaged[0], f" and {len(damaged) - 1} more" if damaged[1:] else ""
        return "fail", "tasks", f"{id}{more} cannot be read ({reason}), {read} can: restore a backup"
    return "ok", "tasks", f"all {read} can be read"


def _remote_store(uri: str) -> Finding:
    """Look whether the server of a storage URI answers and keeps the promise; it may be in use."""
    from oq.config import without_password
    from oq.errors import StorageError
    from oq.store.remote import check_remote

    try:
        check_remote(uri)
    except StorageError as error:
        return "fail", "store", error.message
    return "ok", "store", f"{without_password(uri)} answers"


def _locked(path: Path) -> bool:
    try:
        import fcntl
    except ImportError:
        return False
    try:
        with open(path, "rb+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(file, fcntl.LOCK_UN)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _port(settings: Settings) -> Finding:
    from oq.web.exposure import check_exposed

    host, port = settings.server.host, settings.server.port
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            check_exposed(settings, [probe.getsockname()[0]])
    except OSError as error:
        text = f"{host}:{port} cannot be used ({error.strerror or error}): stop what has it, or choose --port"
        return "fail", "port", text
    except ConfigError as error:
        return "fail", "port", error.message
    return "ok", "port", f"{host}:{port} is free"


def _strangers(settings: Settings) -> Iterator[Finding]:
    """Look at what lets people in and keeps others out."""
    from oq.tokens import TokenFile
    from oq.web.exposure import check_certificate

    try:
        if check_certificate(settings) is not None:
            yield "ok", "TLS", f"certificate and key belong together: {settings.server.tls_cert}"
    except ConfigError as error:
        yield "fail", "TLS", error.message
    file = TokenFile(settings.queue.storage_path)
    try:
        if file.state() is not None:
            tokens = file.read()
            mode = stat.S_IMODE(file.path.stat().st_mode)
            if mode & 0o077:
                text = f"{file.path} has mode {mode:04o}, others can get at it: chmod 600 {file.path}"
                yield "warn", "tokens", text
            else:
                yield "ok", "tokens", f"{len(tokens)} in {file.path}"
    except ConfigError as error:
        yield "fail", "tokens", error.message


def _model_server(host: HostSettings, timeout: float) -> Finding:
    import httpx

    from oq.client.deadline import answered_by, heed_deadlines
    from oq.client.transport import lost
    from oq.client.transport import settings as http_settings

    what, url = f"model server {host.name}", host.shown
    timeout = max(timeout, 1.0)
    try:
        client = heed_deadlines(httpx.Client(**http_settings(host.url, timeout)))
        with client, answered_by(time.monotonic() + 2 * timeout):  # one for each answer
            version = client.get("/api/version").raise_for_status().json().get("version", "unknown")
            models = len(client.get("/api/tags").raise_for_status().json().get("models") or ())
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return (
            "fail",
            what,
            f"{url} cannot be reached ({lost(error).reason if isinstance(error, httpx.HTTPError) else error}): "
            "start it, as `ollama serve`, or check ollama.host",
        )
    except (ValueError, AttributeError, TypeError, RecursionError):
        return "fail", what, f"{url} answers, but not as Ollama does: check ollama.host"
    if not models:
        return "warn", what, f"{url} runs version {version} but has no models: `ollama pull llama3.2`"
    return "ok", what, f"{url} runs version {version} with {models} models"
