"""A campaign: lives of one server on one data folder, each ended by a kill, the account checked after each.

The seed decides what the clients do, what each task is and how the model server answers it, and when each life ends; the
machine decides how these fall together. So a broken rule fails again with the same seed, mostly in the same life; which
task shows it, and by which promise, may differ.
"""

from __future__ import annotations

import math
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx

from oq.store.inspect import inspect_file
from tests.chaos.clients import FAR, Client, Gone, Server
from tests.chaos.doomed import INSTANTS, ONCE
from tests.chaos.ledger import FINISHED, Broken, Ledger, expect, time_of
from tests.chaos.life import Life
from tests.chaos.model import Model
from tests.cli.live import fake_model_server

CLIENTS = 3
WORKERS = 4
INSTANT_SHARE = 0.6  # of the kills
INSTANT_SECONDS = 2.0  # after which a life whose instant does not come is killed all the same
REST_SECONDS = 120.0  # for the tasks left at the end
# How often an instant passes before it kills: recovery passes one a task, a commit comes many times a second.
COMMITS = ("before-commit", "commit-written", "commit-marked", "commit-durable", "after-commit")
PASSES = {"in-recovery": 60} | dict.fromkeys(COMMITS, 40)
FIRST_START = ("before-marker", "marker-written", "commit-written:1", "opening", "after-commit:1")


class Campaign:
    """*folder* is empty, or is made; *say* gets a line after each life. No kill comes later than after *seconds*."""

    def __init__(
        self,
        folder: Path,
        kills: int,
        seed: int,
        say: Callable[[str], object] = lambda line: None,
        seconds: float = math.inf,
    ) -> None:
        self._data = folder / "data"
        self._kills = kills
        self._seconds = seconds
        self._seed = seed
        self._say = say
        self._luck = random.Random(seed)
        self.ledger = Ledger()
        self.model = Model(seed)
        self.clients = [Client(number, self.ledger, seed) for number in range(CLIENTS)]
        self.deaths: Counter[str] = Counter()  # by instant; "" is a random one
        self._past: list[
            tuple[int, float, bool]
        ] = []  # lives whose attempts are to be checked: when begun, if killed
        self._ends: dict[int, float] = {}

    def run(self) -> dict[str, Any]:
        """Run it; return figures. Raises `Broken`."""
        began = time.monotonic()
        self._data.parent.mkdir(parents=True, exist_ok=True)
        with fake_model_server() as fake:
            fake.default = self.model.reply
            self._url = fake.url
            number = 0
            while number < self._kills and time.monotonic() < began + self._seconds:
                number += 1
                try:
                    self._live(number, fake)
                except Broken as broken:
                    raise Broken(f"seed {self._seed}, life {number}: {broken}") from None
            try:
                self._end(number + 1, fake)
            except Broken as broken:
                raise Broken(f"seed {self._seed}, the end: {broken}") from None
        return {
            "seed": self._seed,
            "kills": number,
            "seconds": round(time.monotonic() - began, 1),
            "acknowledged": sum(client.answers for client in self.clients),
            "tasks": len(self.ledger.known),
            "asked of the model": len(self.model.asked),
            "attempts torn away": self.ledger.torn,
            "deaths": {name or "a random moment": count for name, count in sorted(self.deaths.items())},
        }

    def _doom(self, number: int) -> str | None:
        if number == 1:
            found = self._luck.choice(FIRST_START)
        elif self._luck.random() < INSTANT_SHARE:
            found = self._luck.choice([instant for instant in INSTANTS if instant not in ONCE])
        else:
            return None
        if ":" not in found:
            found += f":{self._luck.randrange(PASSES.get(found, 2)) + 1}"
        if found.startswith("undoing-a-pack") and not self._data.joinpath("Data.fs.pack").exists():
            found = "between-renames:1"
        return found

    def _live(self, number: int, fake: Any) -> None:
        doom = self._doom(number)
        left = self._luck.uniform(0.05, 1.2)
        life = self._begin(number, doom)
        try:
            if life.url:
                threads = self._start_clients(life, number)
                if doom is None:
                    life.wait_dead(left)
                else:
                    life.wait_dead(INSTANT_SECONDS)
        finally:
            by_itself = life.process.poll() is not None
            code = life.stop()
        expect(code == -signal.SIGKILL, f"the server ended with {code}: {life.said}")
        self.deaths[doom.partition(":")[0] if doom and by_itself else ""] += 1
        if life.url:
            self._join(threads)
        self._close(number, life, fake, killed=True)
        self._say(
            f"life {number}: {doom or 'random'}{' ' if by_itself else ' (by hand) '}- {len(self.ledger.known)} tasks"
        )

    def _begin(self, number: int, doom: str | None) -> Life:
        """Start a life, and check the account when it is up."""
        self._began_paused = self.ledger.paused is True
        env = {"CHAOS_KILL": doom} if doom else {}
        life = Life(self._data, f"{self._url}/{number}", WORKERS, "tests.chaos.doomed", **env)
        try:
            if not life.url and life.process.wait(10) != -signal.SIGKILL:
                raise Broken(f"the server does not start: {life.said}")
            if life.url:
                self._audit(life, number)
        except BaseException:
            life.stop()  # a broken promise leaves no server behind
            raise
        return life

    def _audit(self, life: Life, number: int) -> None:
        server = Server(life.url)
        try:
            if self.ledger.paused is not None:
                _, status = server.ask("GET", "/api/status")
                expect(status["paused"] == self.ledger.paused, f"the switch is {status['paused']}")
            self.ledger.audit(server.list(), server.get, number)
        except Gone:
            return  # died while it was looked at; the next life is
        finally:
            server.close()
        for past, began, killed in self._past:
            self.ledger.check_attempts(self.model.of_life(past), past, began, self._ends[past], killed)
        self._past.clear()

    def _start_clients(self, life: Life, number: int) -> list[tuple[threading.Thread, list[BaseException]]]:
        started = []
        for client in self.clients:
            errors: list[BaseException] = []
            thread = threading.Thread(
                target=_run_client, args=(client, life.url, number, errors), daemon=True
            )
            thread.start()
            started.append((thread, errors))
        return started

    def _join(self, threads: list[tuple[threading.Thread, list[BaseException]]]) -> None:
        for thread, _ in threads:
            thread.join(90)
            expect(not thread.is_alive(), "a client hangs though its server is dead")
        for _, errors in threads:
            for error in errors:
                raise error

    def _close(self, number: int, life: Life, fake: Any, *, killed: bool) -> None:
        # Accepted after all that the dead server had opened.
        httpx.get(f"{self._url}/api/version", timeout=30, trust_env=False)
        deadline = time.monotonic() + 30
        while fake.open_connections:  # what the dead server has sent is read to its end
            expect(time.monotonic() < deadline, "the model server still has connections")
            time.sleep(0.005)
        asked = self.model.of_life(number)
        self.ledger.check_life(asked, number)
        stayed = self._began_paused and self.ledger.resumed_life != number
        expect(not asked or not stayed, f"life {number} was paused from its beginning, and ran {asked[:1]}")
        self._past.append((number, life.began_at, killed))
        self._ends[number] = time.time()

    def _end(self, number: int, fake: Any) -> None:
        """Let everything finish, stop properly, and look at each whole task and at the file."""
        life = self._begin(number, None)
        server = Server(life.url)
        try:
            for client in self.clients:
                for known in [known for known in client.tasks if not known.deleted]:
                    client._post(server, known)  # the same task, however the first answer was lost
            self.ledger.paused, self.ledger.resumed_life = False, number
            server.ask("POST", "/api/queue/resume")
            deadline = time.monotonic() + REST_SECONDS
            while waiting := [task for task in server.list() if not _rests(task)]:
                expect(time.monotonic() < deadline, f"these do not end: {waiting}")
                time.sleep(0.1)
            listed = server.list()
            self.ledger.audit(listed, server.get, number)
            self._check_results([server.get(task["id"]) for task in listed])
        finally:
            server.close()
            code = life.stop(signal.SIGTERM)
        expect(code == 0, f"the stop ended with {code}: {life.said}")
        self._close(number, life, fake, killed=False)
        unreadable: list[str] = []
        read = inspect_file(self._data / "Data.fs", lambda id, why: unreadable.append(f"{id}: {why}"))
        expect(not unreadable and read == len(listed), f"{read} of {len(listed)} can be read; {unreadable}")

    def _check_results(self, tasks: list[dict[str, Any]]) -> None:
        """Each result is an answer that the model really gave, whole, to this task."""
        for task in tasks:
            if task["status"] != "completed":
                continue
            marker, _, serial = task["result"]["response"].split()
            asked = self.model.asked[int(serial)]
            expect(
                asked.marker == marker and marker == task["payload"]["prompt"].split()[0],
                f"another's: {task}",
            )


def _rests(task: dict[str, Any]) -> bool:
    return task["status"] in FINISHED or (
        task["status"] == "scheduled" and time_of(task["run_at"]) > time.time() + FAR / 2
    )


def _run_client(client: Client, url: str, life: int, errors: list[BaseException]) -> None:
    server = Server(url)
    try:
        client.run(server, life)
    except BaseException as error:  # raised where the campaign can see it
        errors.append(error)
    finally:
        server.close()
