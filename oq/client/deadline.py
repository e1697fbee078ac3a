"""A bound on an answer as a whole for the synchronous client: httpx bounds each read of the socket by itself.

A server that sends a byte now and then passes every such bound. The asynchronous client has cancel scopes for it.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from ssl import SSLContext
from typing import Any

import httpcore
import httpx


class _Running(threading.local):
    """A request and its answer are sent and read by one thread: the deadline is that thread's."""

    until = math.inf


_running = _Running()


def expect_by(until: float) -> None:
    """Let this thread's reads and writes end with a timeout at *until*, as `time.monotonic` tells it."""
    _running.until = until


@contextmanager
def answered_by(until: float) -> Iterator[None]:
    """As `expect_by`, until the block ends."""
    expect_by(until)
    try:
        yield
    finally:
        expect_by(math.inf)


def _left(timeout: float | None, late: type[httpcore.TimeoutException]) -> float | None:
    left = _running.until - time.monotonic()
    if left <= 0:
        raise late("its answer arrived too slowly")
    return min(left, math.inf if timeout is None else timeout) if math.isfinite(left) else timeout


class _Stream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream) -> None:
        self._inner = inner

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, _left(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, _left(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _Network(httpcore.NetworkBackend):
    def __init__(self, inner: httpcore.NetworkBackend) -> None:
        self._inner = inner

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        return _Stream(self._inner.connect_tcp(host, port, timeout, local_address, socket_options))

    def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.NetworkStream:
        return _Stream(self._inner.connect_unix_socket(path, timeout, socket_options))

    def sleep(self, seconds: float) -> None:
        self._inner.sleep(seconds)


def heed_deadlines(client: httpx.Client) -> httpx.Client:
    """Make *client*'s connections, through proxies too, end their reads and writes at the deadline; return it."""
    for transport in (client._transport, *client._mounts.values()):
        if isinstance(transport, httpx.HTTPTransport):  # httpx 0.28 lets nobody choose the network backend
            transport._pool._network_backend = _Network(transport._pool._network_backend)
    return client
