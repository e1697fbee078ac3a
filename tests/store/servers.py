"""Real database servers for tests: a PostgreSQL cluster and a ZEO server, each in a folder of its own."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg2
from fake_ollama import unused_port
from needs import postgresql_programs

READY_SECONDS = 60
STORAGES = 60  # of the ZEO server, one a test
PASSWORD = "p@ss 'w/rd"  # what has to be escaped in a URI, in a connection string, or in both


class PostgresServer:
    """A cluster of its own, that waits for the disk as in production. `new_uri` makes a database in it."""

    def __init__(self, *, in_memory: bool = True) -> None:
        programs = postgresql_programs()
        assert programs is not None, "install postgresql"
        self._programs = programs
        # Not pytest's folder: another user must get there. In memory where that is possible: after each crash the
        # server syncs all its files, which takes a busy disk a minute; a killed process loses neither.
        memory = "/dev/shm" if in_memory and os.access("/dev/shm", os.W_OK) else None
        self.folder = Path(tempfile.mkdtemp(prefix="oq-pg-", dir=memory))
        self.port = unused_port()
        self._databases = 0
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:  # PostgreSQL refuses to run as root
            names = {entry.pw_name for entry in pwd.getpwall()}
            user = pwd.getpwnam("postgres" if "postgres" in names else "nobody")
            os.chown(self.folder, user.pw_uid, user.pw_gid)
            self._as = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": ()}
        password = self.folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        self._run(
            "initdb", "-U", "oq", "-A", "scram-sha-256", "--pwfile", str(password), "-E", "UTF8", "--no-sync"
        )
        self.start()

    def _run(self, program: str, *arguments: str) -> None:
        command: Sequence[str] = [str(self._programs / program), "-D", str(self.folder / "db"), *arguments]
        with (self.folder / "log").open("ab") as log:
            done = subprocess.run(command, cwd=self.folder, stdout=log, stderr=log, check=False, **self._as)
        assert done.returncode == 0, (self.folder / "log").read_text()

    def start(self, *settings: str) -> None:
        """Start it; *settings* are lines of postgresql.conf without blanks."""
        given = "".join(f" -c {setting}" for setting in ("listen_addresses=127.0.0.1", *settings))
        options = f"-p {self.port} -k {self.folder}{given}"
        self._run("pg_ctl", "-w", "-t", str(READY_SECONDS), "-o", options, "start")

    def stop(self) -> None:
        """Stop at once, as in a crash."""
        self._run("pg_ctl", "-w", "-m", "immediate", "stop")

    def uri(self, database: str) -> str:
        return f"postgresql://oq:{quote(PASSWORD, safe='')}@127.0.0.1:{self.port}/{database}"

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run one statement; return its rows."""
        with closing(psycopg2.connect(self.uri(database))) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall() if cursor.description else []

    def new_uri(self) -> str:
        self._databases += 1
        name = f"test{self._databases}"
        self.execute(f"CREATE DATABASE {name}")
        return self.uri(name)

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self.folder)


class ZeoServer:
    """A ZEO server with files of its own, one for each `new_uri`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = unused_port()
        self._used = 0
        storages = "".join(f"<filestorage s{n}>\n path s{n}.fs\n</filestorage>\n" for n in range(STORAGES))
        (folder / "zeo.conf").write_text(f"<zeo>\n address 127.0.0.1:{self._port}\n</zeo>\n{storages}")
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "ZEO.runzeo", "-C", "zeo.conf"]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, cwd=self._folder, stdout=log, stderr=log)
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", self._port), 1).close()
                return
            except OSError:
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(0.05)
                    break
        raise AssertionError((self._folder / "log").read_text())

    def stop(self) -> None:
        """Stop at once, as in a crash."""
        self._process.kill()
        self._process.wait()

    def new_uri(self) -> str:
        assert self._used < STORAGES, "raise STORAGES"
        self._used += 1
        return f"zeo://127.0.0.1:{self._port}?storage=s{self._used - 1}"

    def close(self) -> None:
        self.stop()


Server = PostgresServer | ZeoServer
