"""`oq serve`: the queue, its HTTP server, and how both stop."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncIterator
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from oq.cli import exits
from oq.cli.session import Command, Session, complain, pass_session
from oq.errors import ConfigError, OqError, StorageError
from oq.version import VERSION

if TYPE_CHECKING:
    from oq.config import Settings
    from oq.queue import Queue

log = logging.getLogger(__name__)

# After the grace: the web server's last sends, the queue's last commit, closing the store. Then the process ends,
# whatever still hangs: everything acknowledged is on disk by then.
STOP_SECONDS = 5.0
WEB_SECONDS = 1.5  # of that for connections that are still open


@click.command(cls=Command)
@click.option("--host", help="The address to listen on [default: 127.0.0.1].")
@click.option("--port", type=click.IntRange(0, 65535), help="The port; 0: any free one [default: 7125].")
@click.option("--data-dir", metavar="FOLDER", help="The data folder [default: ~/.ollama-queue/data].")
@click.option("--ollama-host", multiple=True, metavar="URL", help="The model server; repeat it for several.")
@click.option("--workers", type=click.IntRange(1), help="Tasks that run at a time [default: 4].")
@click.option("--paused", is_flag=True, help="Start no task until `oq resume`.")
@click.option("--log-format", type=click.Choice(["text", "json"]), help="The form of log lines.")
@click.option(
    "--insecure", is_flag=True, help="Allow other machines to reach a server that asks for no token."
)
@click.option(
    "--while-stdin",
    is_flag=True,
    help="Stop when standard input ends: for a program that starts a server of its own.",
)
@pass_session
def serve(
    session: Session,
    ollama_host: tuple[str, ...],
    paused: bool,
    insecure: bool,
    while_stdin: bool,
    **given: Any,
) -> None:
    """Run the queue and its HTTP server until SIGTERM or Ctrl-C.

    The first signal drains: nothing new starts, what runs has server.shutdown_grace to end, the rest goes back to
    pending. A second one stops at once.
    """
    names = {
        "host": "server.host", "port": "server.port", "data_dir": "queue.storage_path",
        "workers": "queue.max_workers", "log_format": "logging.format",
    }  # fmt: skip
    overrides = {names[name]: value for name, value in given.items() if value is not None}
    if len(ollama_host) == 1:
        overrides["ollama.host"] = ollama_host[0]
    elif ollama_host:
        overrides["hosts"] = list(ollama_host)
    if insecure:
        overrides["server.insecure"] = True
    if session.verbose:
        overrides["logging.level"] = "debug"
    from oq.config import refuse_itself

    loaded = session.load(overrides)
    refuse_itself(loaded)
    settings = loaded.settings
    raise SystemExit(run(settings, paused=paused, quiet=session.quiet, while_stdin=while_stdin))


def _stop_after_stdin() -> None:
    """Stop as by SIGTERM once whoever holds the other end of our standard input is gone, however it went."""
    try:
        while os.read(0, 4096):
            pass
    except OSError:
        pass  # there is no standard input: nobody holds it
    os.kill(os.getpid(), signal.SIGTERM)


def run(settings: Settings, *, paused: bool = False, quiet: bool = False, while_stdin: bool = False) -> int:
    """Serve until a signal; return the exit code."""
    import trio

    from oq import logs
    from oq.cli.process import prepare

    try:
        logs.set_up(settings.logging)
    except OSError as error:
        raise ConfigError(
            f"the log file {settings.logging.file} cannot be written: {error.strerror}", "logging.file"
        ) from error
    prepare()
    server = _Server(settings, paused=paused, quiet=quiet, while_stdin=while_stdin)
    trio.run(server.run)
    if server.error is not None:
        if not isinstance(server.error, OqError):
            log.critical("the server stops because of an error of its own", exc_info=server.error)
            return exits.ERROR
        complain(server.error)
        return exits.ERROR
    return exits.OK


class _Server:
    """One run of the server: starts, waits for a signal, stops."""

    def __init__(self, settings: Settings, *, paused: bool, quiet: bool, while_stdin: bool) -> None:
        import trio

        self._settings = settings
        self._paused = paused
        self._quiet = quiet
        self._while_stdin = while_stdin
        self._stop = trio.Event()
        self._now = trio.CancelScope()
        self.error: BaseException | None = None

    async def run(self) -> None:
        import trio

        numbers = [signal.SIGINT, signal.SIGTERM]
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup leaves it
            numbers.append(signal.SIGHUP)  # the terminal is gone
        with trio.open_signal_receiver(*numbers) as signals:
            if self._while_stdin:
                # Not earlier: standard input may have ended already, and the signal would kill us.
                threading.Thread(target=_stop_after_stdin, daemon=True).start()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen, signals)
                try:
                    with self._now:
                        await self._serve()
                except Exception as error:  # it must not be wrapped by this nursery
                    self.error = _first(error)
                nursery.cancel_scope.cancel()

    async def _listen(self, signals: AsyncIterator[int]) -> None:
        async for number in signals:
            name = signal.Signals(number).name
            if self._stop.is_set():
                log.warning("%s again: stopping at once", name)
                self._now.cancel()
                continue
            grace = self._settings.server.shutdown_grace
            log.info("%s: stopping; what runs has %g s to end", name, grace)
            last = threading.Timer(grace + STOP_SECONDS, _give_up)
            last.daemon = True
            last.start()
            self._stop.set()

    async def _serve(self) -> None:
        import trio

        from oq.engine import open_queue
        from oq.web import make_app, serve_app
        from oq.web.exposure import check_certificate, warning
        from oq.web.serve import addresses_of, open_checked

        settings = self._settings
        # Before anything runs: a second server by mistake must not start tasks only to interrupt them.
        check_certificate(settings)
        listeners = await open_checked(settings)
        beware = warning(settings, addresses_of(listeners))
        for listener in listeners:
            await listener.aclose()
        async with open_queue(settings=settings, paused=self._paused) as queue:
            app, shutdown = make_app(queue, settings), trio.Event()

            async with trio.open_nursery() as nursery:
                urls: list[str] = await nursery.start(partial(serve_app, app, settings, shutdown=shutdown))
                self._tell(queue, urls)
                if beware:
                    log.warning("%s", beware)
                nursery.start_soon(self._tell_hosts, queue)
                await self._stop.wait()
                try:
                    await queue.drain(settings.server.shutdown_grace)
                except StorageError as error:  # recovery does what a drain could not write: nothing is lost
                    log.warning("%s; what runs now runs again at the next start", error)
                gc.disable()  # the process ends, and to close 10,000 connections took 2.4 s of CPU without it, 5.8 s with it
                shutdown.set()
                nursery.cancel_scope.deadline = trio.current_time() + WEB_SECONDS
        log.info("stopped")

    def _tell(self, queue: Queue, urls: list[str]) -> None:
        from oq.config import without_password

        stats = queue.stats()
        waiting = stats.pending + stats.scheduled + stats.running
        state = " (paused)" if stats.paused else ""
        self._say(f"oq {VERSION} listens on {urls[0]}{state}")
        uri = self._settings.queue.storage
        where = (
            f"store: {without_password(uri)}"
            if uri
            else f"data folder: {os.path.abspath(os.path.expanduser(self._settings.queue.storage_path))}"
        )
        self._say(f"{where} ({waiting} unfinished of {stats.total} tasks)")

    async def _tell_hosts(self, queue: Queue) -> None:
        urls = {host.name: host.shown for host in self._settings.hosts}
        for name, info in (await queue.host_info()).items():
            if info.up:
                state = f"up, version {info.version or 'unknown'}, {len(info.models)} models"
            else:
                # The error names the server itself: `cannot reach model server "default" (http://…): …`.
                why = (info.error or "it does not answer").partition("): ")[2] or info.error
                state = f"not reachable: {why}. Tasks wait until it is"
            self._say(f"model server {name} at {urls.get(name, '?')}: {state}")

    def _say(self, text: str) -> None:
        """Tell people on the terminal, and the log where that is read by machines or kept in a file."""
        if self._settings.logging.format == "json" or self._settings.logging.file:
            log.info("%s", text)
        if (self._settings.logging.format != "json" or self._settings.logging.file) and not self._quiet:
            print(text, file=sys.stderr, flush=True)


def _first(error: BaseException) -> BaseException:
    """Return the error that says most: one of ours inside a group, else the first."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    found = [_first(part) for part in error.exceptions]
    return next((part for part in found if isinstance(part, OqError)), found[0])


def _give_up() -> None:
    log.error(
        "the stop took longer than the grace and %g s; the process ends now, the store is safe", STOP_SECONDS
    )
    logging.shutdown()
    os._exit(exits.ERROR)
