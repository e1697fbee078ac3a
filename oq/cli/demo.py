"""`oq demo`: a small real model, a queue with its server, and a handful of tasks that one can watch."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

import oq
from oq import builders
from oq.cli import exits
from oq.cli.output import console
from oq.cli.session import Command, Session, pass_session
from oq.cli.words import one_line, printable, seconds
from oq.core.model import CRITICAL, HIGH, LOW, TaskSpec
from oq.errors import ConfigError, ServerError

if TYPE_CHECKING:
    from oq.client import Client
    from oq.wire import RemoteTask

MODEL, EMBEDDER = "smollm2", "smollm2-embed"
WORKERS = 2  # and so many places of each model: what is shown as running does run
START_SECONDS = 30.0  # for the queue's server to listen
RUN_SECONDS = 300.0  # for the tasks, on a slow machine
STOP_SECONDS = 10.0
_LISTENS = re.compile(r"listens on (http://\S+)")


@click.command(cls=Command)
@click.option("--once", is_flag=True, help="End when the tasks are finished.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=0, help="The queue's port [default: any free one]."
)
@pass_session
def demo(session: Session, once: bool, port: int) -> None:
    """Start a small real model and a queue, submit tasks of all types and priorities, and show them run.

    Nothing else is needed, neither Ollama nor a GPU. Without --once it stays up until Ctrl-C.
    """
    try:
        from oq.demo import start_model_server
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"the demo's model cannot run ({error}): pip install 'ollama-queue[demo]', or '.[demo]' in a clone of oq"
        ) from error
    except ImportError as error:
        raise ConfigError(
            f"the demo's model cannot run ({error}): the system lacks a library; "
            "libgomp comes with Debian's libgomp1, Fedora's libgomp"
        ) from error

    with ExitStack() as stack:
        # Who ends the demo ends all of it, not only this process; a closed terminal ends it too.
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:
                stack.callback(signal.signal, number, signal.signal(number, _interrupt))
        try:
            session.say("starting the model server (the first time it fetches a model of 93 MB) …")
            model_server = start_model_server({"OLLAMA_NUM_PARALLEL": str(WORKERS)})
            stack.callback(model_server.stop)
            url = stack.enter_context(_queue_server(model_server.url, port))
            from oq.client import Client

            client = stack.enter_context(Client(url))
            session.say(
                f"the queue runs: {url} shows it in a browser; its model server is {model_server.url}\n"
            )
            code = _show(session, client)
            if once:
                raise SystemExit(code)
            session.say(f"\nIt stays up until Ctrl-C. Watch it at {url}, or try in another terminal:")
            session.say(f"  oq --server {url} submit chat -m {MODEL} --stream 'Tell me a joke.'")
            signal.pause()
        except KeyboardInterrupt:
            session.say("\nstopping …")
            if once:
                raise SystemExit(exits.INTERRUPTED) from None


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


@contextmanager
def _queue_server(model_url: str, port: int) -> Iterator[str]:
    """Run `oq serve` with a data folder of its own until the block ends; give its URL."""
    folder = Path(tempfile.mkdtemp(prefix="oq-demo-"))
    command = [sys.executable, "-m", "oq", "serve", "--port", str(port), "--data-dir", str(folder / "data")]
    # The demo shows itself, not the settings of this machine; and it is this oq, installed or not.
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("OQ_", "QUEUE_", "LOG_"))
    }
    path = os.pathsep.join([str(Path(oq.__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
    process = subprocess.Popen(
        [*command, "--ollama-host", model_url, "--workers", str(WORKERS), "--while-stdin"],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        start_new_session=True,  # Ctrl-C reaches it through us, once
        env=kept | {"OQ_SERVER__SHUTDOWN_GRACE": "1s", "PYTHONPATH": path}, cwd=folder,
    )  # fmt: skip
    said: list[str] = []
    readers: list[threading.Thread] = []
    try:
        yield _url_of(process, said, readers)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin is not None:
            process.stdin.close()
        if readers:
            readers[0].join(1)
        shutil.rmtree(folder, ignore_errors=True)


def _url_of(process: subprocess.Popen[str], said: list[str], readers: list[threading.Thread]) -> str:
    """Read what the server says until it listens; go on reading, so that it never waits for us."""
    assert process.stderr is not None
    stderr, listening = process.stderr, threading.Event()
    found: list[str] = []

    def read() -> None:
        with stderr:
            for line in stderr:
                match = _LISTENS.search(line)
                if match:
                    found.append(match[1])
                    listening.set()
                elif not found:
                    said.append(line)
        listening.set()

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    readers.append(thread)
    listening.wait(START_SECONDS)
    if not found:
        raise ServerError(f"the queue's server did not start: {''.join(said).strip() or 'it says nothing'}")
    return found[0]


def _tasks() -> list[tuple[str, TaskSpec]]:
    """Return the tasks in the order of their submission: the later ones overtake by priority."""
    short = {"num_predict": 32, "temperature": 0.2, "seed": 7}
    return [
        ("a story, low", builders.generate(MODEL, "Once upon a time, a queue", options=short, priority=LOW)),
        ("a list, low", builders.chat(MODEL, "Name three colours.", options=short, priority=LOW)),
        ("a greeting", builders.chat(MODEL, [builders.user("Say hello in one sentence.")], options=short)),
        ("a definition", builders.generate(MODEL, "A queue is", options=short)),
        ("two vectors, high", builders.embed(EMBEDDER, ["first in", "first out"], priority=HIGH)),
        ("a question, high", builders.chat(MODEL, "What is the capital of France?", options=short, priority=HIGH)),
        (
            "an order, critical",
            builders.chat(
                MODEL, [builders.system("Answer with one word."), builders.user("Is water wet?")], options=short,
                priority=CRITICAL,
            ),
        ),
    ]  # fmt: skip


def _show(session: Session, client: Client) -> int:
    """Submit the tasks, show them until they are finished, print the answers; return the exit code."""
    client.pause()  # so that all are there when the first one starts: priorities show
    names = {}
    for name, spec in _tasks():
        names[client.submit(spec).id] = name
    client.resume()
    tasks = _watch(session, client, list(names))
    session.say("")
    for task in sorted(tasks, key=lambda task: (task.started_at or 0, -task.priority)):
        click.echo(f"{names[task.id]} ({task.type}, priority {task.priority}): {_answer(task)}")
    done = sum(task.status == "completed" for task in tasks)
    session.say(f"\n{done} of {len(tasks)} tasks completed")
    return exits.OK if done == len(tasks) else exits.TASK_FAILED


def _answer(task: RemoteTask) -> str:
    vectors = (task.result or {}).get("embeddings")
    if vectors:
        return f"{len(vectors)} vectors of {len(vectors[0])} dimensions"
    if task.status != "completed":
        return printable(f"{task.status}: {task.error}")
    return one_line(task.output, 200)


def _watch(session: Session, client: Client, ids: list[str]) -> list[RemoteTask]:
    """Return the tasks when all are finished; shows them meanwhile, as a live table or as lines."""
    deadline = time.monotonic() + RUN_SECONDS
    with _picture(session) as draw:
        while True:
            tasks = [client.get(id) for id in ids]
            draw(tasks)
            if all(task.finished for task in tasks):
                return tasks
            if time.monotonic() > deadline:
                raise ServerError(f"the tasks were not finished within {RUN_SECONDS:g} s")
            time.sleep(0.2)


@contextmanager
def _picture(session: Session) -> Iterator[Callable[[list[RemoteTask]], None]]:
    screen = console(session, err=True)
    if screen.is_terminal:
        from rich.live import Live

        from oq.cli.top import task_table

        with Live(console=screen, auto_refresh=False) as live:
            yield lambda tasks: live.update(task_table(tasks, screen.width), refresh=True)
        return
    known: dict[str, str] = {}

    def tell(tasks: list[RemoteTask]) -> None:
        for task in tasks:
            if known.get(task.id) != task.status:
                known[task.id] = task.status
                took = "" if not task.completed_at else seconds(task.completed_at - (task.started_at or 0))
                session.say(
                    f"{task.id}  {task.type:<8}  priority {task.priority:<2}  {task.status}  {took}".rstrip()
                )

    yield tell
