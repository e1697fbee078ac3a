"""`oq doctor`: is everything in place, and what is to be done where it is not."""

from __future__ import annotations

import os
import shutil
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from oq.cli import exits
from oq.cli.output import emit
from oq.cli.session import Command, Session, pass_session
from oq.errors import ConfigError, OqError

if TYPE_CHECKING:
    from oq.config import Settings

FREE_LOW, FREE_NONE = (
    2**30,
    64 * 2**20,
)  # bytes of free disk: below the first it warns, below the second it fails

Finding = tuple[str, str, str]  # ok, warn or fail; what; how it is and what to do


@click.command(cls=Command)
@click.option("--port", type=click.IntRange(1, 65535), help="The port `oq serve` is to use.")
@click.option("--deep", is_flag=True, help="Also read every task in the data file: damage shows only then.")
@pass_session
def doctor(session: Session, port: int | None, deep: bool) -> None:
    """Check settings, data folder, disk, port and model server; exits with 1 when something fails."""
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
    try:
        loaded = session.load({} if port is None else {"server.port": port})
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
        yield _model_server(host.name, host.url, settings.ollama.connect_timeout)


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
        return False, (
            "warn",
            "oq server",
            f"what answers at {address} is no healthy oq server: {error.message}",
        )
    if not stats.storage_ok:
        return True, ("fail", "oq server", f"{address} runs, but its disk refuses writes: free some space")
    waiting = stats.pending_tasks + stats.scheduled_tasks
    return True, (
        "ok",
        "oq server",
        f"{address} runs: {stats.running_tasks} tasks running, {waiting} waiting",
    )


def _folder(folder: Path) -> Iterator[Finding]:
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
    return ("warn", "disk", f"{text}: that is little") if free < FREE_LOW else ("ok", "disk", text)


def _store(folder: Path, running: bool) -> Iterator[Finding]:
    """Look at the data file without opening it: it may be in use."""
    from oq.store.storages import MARKER_NAME, is_data_file

    data, old, lock = folder / "Data.fs", folder / "Data.fs.old", folder / "oq.lock"
    if old.exists() and not data.exists():
        text = f"{data} is missing but {old} is there: a pack was cut short; rename it to Data.fs"
        yield "fail", "store", text
    elif (folder / MARKER_NAME).exists() and not data.exists():
        yield "fail", "store", f"{data} is missing, though this folder has been used: restore a backup"
    elif data.exists() and not is_data_file(data):
        yield "fail", "store", f"{data} is empty or no ZODB file: copy the folder, then restore a backup"
    elif data.exists():
        yield "ok", "store", f"{data}, {data.stat().st_size / 2**20:.1f} MiB"
    if lock.exists() and not running and _locked(lock):
        yield "warn", "lock", f"another process has {folder}; it is no server at the address asked for"


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


def _model_server(name: str, url: str, timeout: float) -> Finding:
    import httpx

    from oq.client.transport import settings as http_settings

    what = f"model server {name}"
    try:
        with httpx.Client(**http_settings(url, max(timeout, 1.0))) as client:
            version = client.get("/api/version").raise_for_status().json().get("version", "unknown")
            models = client.get("/api/tags").raise_for_status().json().get("models", [])
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return (
            "fail",
            what,
            f"{url} cannot be reached ({error or type(error).__name__}): start it, as `ollama serve`",
        )
    except (ValueError, AttributeError):
        return "fail", what, f"{url} answers, but not as Ollama does: check ollama.host"
    if not models:
        return "warn", what, f"{url} runs version {version} but has no models: `ollama pull llama3.2`"
    return "ok", what, f"{url} runs version {version} with {len(models)} models"
