"""Whom a server would let in from outside, said before it listens; and its certificate."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from oq.errors import ConfigError
from oq.tokens import TokenFile

if TYPE_CHECKING:
    from oq.config import Settings


def asks_for_tokens(settings: Settings) -> bool:
    """Return whether a server with these settings asks everybody for a token."""
    return bool(settings.server.token) or TokenFile(settings.queue.storage_path).state() is not None


def check_exposed(settings: Settings, addresses: Iterable[str]) -> None:
    """Refuse with `ConfigError` to be reached from other machines without asking for a token.

    *addresses* are those really bound: a name may mean more than it says.
    """
    server = settings.server
    outside = [address for address in addresses if not is_loopback(address)]
    if outside and not server.insecure and not asks_for_tokens(settings):
        raise ConfigError(
            f"server.host: {server.host!r} can be reached from other machines, and no token is asked for; make one "
            "with `oq token create`, or set server.token, or allow it with --insecure (server.insecure)",
            "server.host",
        )


def warning(settings: Settings, addresses: Iterable[str]) -> str | None:
    """Return what to tell who starts a server that can be reached from outside; None if all is well."""
    if all(is_loopback(address) for address in addresses):
        return None
    if not asks_for_tokens(settings):
        return "everybody who can reach this server may read and change all tasks (server.insecure)"
    if not settings.server.tls_cert:
        return "tokens and tasks cross the network as they are: set server.tls_cert, or put a proxy with TLS before it"
    return None


def is_loopback(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        return parsed.ipv4_mapped.is_loopback
    return parsed.is_loopback


def check_certificate(settings: Settings) -> tuple[str, str] | None:
    """Return the files of certificate and key, None for plain HTTP; `ConfigError` if they do not go together."""
    server = settings.server
    if not server.tls_cert and not server.tls_key:
        return None
    if not server.tls_cert or not server.tls_key:
        there, absent = ("tls_cert", "tls_key") if server.tls_cert else ("tls_key", "tls_cert")
        raise ConfigError(f"server.{there} needs server.{absent} beside it", f"server.{absent}")
    cert, key = (str(Path(name).expanduser()) for name in (server.tls_cert, server.tls_key))
    try:
        # The password is asked for on the terminal otherwise.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password="")
    except ssl.SSLError as error:
        what = (
            "do not belong together"
            if "MISMATCH" in (error.reason or "")
            else "are no PEM files without a password"
        )
        raise ConfigError(
            f"server.tls_cert and server.tls_key ({cert}, {key}) {what}", "server.tls_cert"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"server.tls_cert or server.tls_key ({cert}, {key}) cannot be read: {error.strerror}",
            "server.tls_cert",
        ) from error
    return cert, key
