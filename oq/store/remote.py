"""Stores beyond one machine: a PostgreSQL database (RelStorage) or a ZEO server, given as a URI.

Only what keeps the promise that an answered submit is on disk is opened: the rest is refused with a reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import urlsplit

import ZODB

from oq.config.values import without_password
from oq.errors import OqError, StorageError
from oq.store.faults import describe
from oq.store.storages import make_db

WAIT_SECONDS = 5  # without the server: then a start is refused, and a commit fails and is tried again
COMMIT_LOCK_SECONDS = 10  # RelStorage waits that long for another's commit, such as a pack's
# libpq's names. A server that is gone without a word is noticed after 10 + 3 × 5 seconds.
POSTGRESQL_DEFAULTS = {
    "connect_timeout": str(WAIT_SECONDS),
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "3",
    "tcp_user_timeout": "25000",  # milliseconds
}
POSTGRESQL = ("postgresql", "postgres")
REFUSED = {
    "file": "for a file on this machine set queue.storage_path to a folder instead",
    "memory": "it would not survive a stop",
    "demo": "it would not survive a stop",
    "sqlite": (
        "RelStorage does not wait for the disk on SQLite, so an answered task could be lost; "
        "set queue.storage_path to a folder instead, which is faster too"
    ),
    "mysql": "it was never tested; use postgresql",
    "oracle": "it was never tested; use postgresql",
}


def open_remote(uri: str) -> ZODB.DB:
    """Return the database at *uri*, with empty tables if it is new; `StorageError` when it cannot be used."""
    with _explained(uri) as scheme:
        storage = _postgresql(uri) if scheme in POSTGRESQL else _zeo(uri)
        try:
            return make_db(storage)
        except BaseException:
            storage.close()
            raise


def check_remote(uri: str) -> None:
    """Raise `StorageError` when the server behind *uri* does not answer or would not do. Changes nothing."""
    with _explained(uri) as scheme:
        if scheme in POSTGRESQL:
            _parameters(uri)
        else:
            _zeo(uri).close()


@contextmanager
def _explained(uri: str) -> Iterator[str]:
    """Give the scheme; errors become `StorageError`."""
    scheme = uri.partition(":")[0].lower()
    if scheme in REFUSED:
        raise StorageError(f"{scheme}: cannot be queue.storage: {REFUSED[scheme]}")
    if scheme not in (*POSTGRESQL, "zeo", "zconfig"):
        raise StorageError(
            f"queue.storage takes zeo://host:port, postgresql://user@host/database or zconfig://file, not {scheme}:"
        )
    try:
        yield scheme
    except OqError:
        raise
    except ImportError as exc:
        extra = "postgresql" if scheme in POSTGRESQL else "zeo"
        raise StorageError(
            f"{scheme}: needs more packages ({exc}): pip install 'ollama-queue[{extra}]'"
        ) from exc
    except Exception as exc:
        raise StorageError(f"cannot open the store {without_password(uri)} ({describe(exc)})") from exc


def _zeo(uri: str) -> Any:
    """Return the ZEO client that zodburi makes of *uri*: ``zeo:``, or ``zconfig:`` for what a URI cannot say (TLS)."""
    import zodburi
    from ZEO.ClientStorage import ClientStorage

    if uri.startswith("zeo:") and "wait_timeout=" not in uri:
        uri += f"{'&' if urlsplit(uri).query else '?'}wait_timeout={WAIT_SECONDS}"
    factory, rest = zodburi.resolve_uri(uri)
    del rest  # parameters of the database object: oq sets those
    storage = factory()
    if not isinstance(storage, ClientStorage):
        storage.close()
        raise StorageError(
            f"{without_password(uri)} is a {type(storage).__name__}; that way oq uses ZEO servers only"
        )
    return storage


def _postgresql(uri: str) -> Any:
    """Return RelStorage on the database at *uri*.

    RelStorage's own zodburi resolver knows only ``postgres:``, takes ``%40`` in a password as it stands and writes
    ``host='None'`` for a socket; libpq reads its URIs, with all its parameters, itself.
    """
    from psycopg2.extensions import make_dsn
    from relstorage.adapters.postgresql import PostgreSQLAdapter
    from relstorage.options import Options
    from relstorage.storage import RelStorage

    options = Options(keep_history=False, driver="psycopg2", commit_lock_timeout=COMMIT_LOCK_SECONDS)
    return RelStorage(
        adapter=PostgreSQLAdapter(dsn=make_dsn(**_parameters(uri)), options=options), options=options
    )


def _parameters(uri: str) -> dict[str, str]:
    """Return libpq's connection parameters for *uri*, once the database there was seen to wait for its disk."""
    import psycopg2
    from psycopg2.extensions import parse_dsn

    name = without_password(uri)
    try:
        parameters: dict[str, str] = POSTGRESQL_DEFAULTS | parse_dsn(uri)
    except psycopg2.ProgrammingError as exc:
        # libpq quotes what it does not understand, which may be a part of the password.
        hint = (
            describe(exc)
            if "query parameter" in str(exc)
            else "in user and password, write @ as %40 and so on"
        )
        raise StorageError(f"queue.storage, {name}, does not parse: {hint}") from None
    with closing(psycopg2.connect(**parameters)) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT current_setting('fsync'), current_setting('synchronous_commit'), pg_is_in_recovery()"
        )
        fsync, commit, standby = cursor.fetchone()
    if fsync == "off":
        raise StorageError(
            f"the server of {name} runs with fsync = off: a power cut would lose answered tasks; "
            "set it to on in postgresql.conf"
        )
    if standby:
        raise StorageError(f"{name} is a standby, which takes no writes; name the primary")
    if commit == "off":
        parameters["options"] = f"{parameters.get('options', '')} -c synchronous_commit=on".strip()
    return parameters


__all__ = ["check_remote", "open_remote"]
