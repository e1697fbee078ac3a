"""Clients of a campaign: each does one thing after the other with tasks of its own, until the server is gone."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from typing import Any

import httpx

from oq.wire.scalars import rfc3339
from tests.chaos.ledger import FINISHED, Json, Known, Ledger, expect

OWN = 40  # tasks above which a client rather deletes than submits
FAR = 3600.0  # seconds until a due time that no campaign reaches


class Gone(Exception):
    """The server is not there any more."""


class Server:
    """The REST API of one life. Raises `Gone`; every other failure of a connection is a broken promise."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, timeout=60.0, trust_env=False)

    def close(self) -> None:
        self._http.close()

    def ask(self, method: str, path: str, body: Any = None, key: str | None = None) -> tuple[int, Any]:
        """Return status and JSON of an answer."""
        try:
            answer = self._http.request(
                method, path, json=body, headers={"Idempotency-Key": key} if key else None
            )
        except httpx.TimeoutException:
            raise
        except httpx.TransportError as error:
            raise Gone from error
        return answer.status_code, answer.json()

    def get(self, id: str) -> Json:
        status, task = self.ask("GET", f"/api/tasks/{id}")
        expect(status == 200, f"task {id} is not there: {task}")
        return dict(task)

    def list(self) -> list[Json]:
        """Return all tasks, oldest first."""
        found: list[Json] = []
        path = "/api/tasks?limit=1000&sort=created"
        while True:
            status, page = self.ask("GET", path + (f"&cursor={found[-1]['id']}" if found else ""))
            expect(status == 200, f"no list: {page}")
            found += page
            if len(page) < 1000:
                return found

    def follow(self, id: str, lines: int) -> Json | None:
        """Read some lines of a task's text; return the finished task, if they tell of its end."""
        try:
            with self._http.stream("GET", f"/api/tasks/{id}/stream") as answer:
                for number, line in enumerate(answer.iter_lines()):
                    item = json.loads(line) if line.strip() else {}
                    if item.get("type") == "end":
                        return item.get("task")
                    if number >= lines:
                        return None
        except httpx.TimeoutException:
            raise
        except httpx.TransportError as error:
            raise Gone from error
        return None


class Client:
    """One client. *number* names its tasks; it goes on from life to life."""

    def __init__(self, number: int, ledger: Ledger, seed: int) -> None:
        self.number = number
        self.luck = random.Random(f"{seed}/{number}")
        self.tasks: list[Known] = []
        self.answers = 0  # acknowledgements so far
        self._ledger = ledger
        self._seed = seed
        self._made = 0

    def run(self, server: Server, life: int) -> None:
        """Do things until the server is gone."""
        try:
            while True:
                act = self._choose()
                act(server, life)
                self.answers += 1
        except Gone:
            pass

    def _choose(self) -> Callable[[Server, int], None]:
        own = [task for task in self.tasks if task.id is not None and not task.deleted and not task.deleting]
        if self.number == 0 and self._ledger.paused is not False and self.luck.random() < 0.3:
            return self._resume
        choices: list[tuple[float, Callable[[Server, int], None]]] = [
            (4 if len(own) < OWN else 0, self._submit),
            (1 if len(own) < OWN else 0, self._submit_many),
            (0.3 if self.number == 0 else 0, self._pause),
        ]
        if own:
            choices += [
                (1, self._repeat), (2, self._cancel), (1.5, self._reprioritize), (2, self._retry),
                (1 if len(own) < OWN / 2 else 4, self._delete), (2, self._read), (1, self._stream),
            ]  # fmt: skip
        unsure = [task for task in self.tasks if task.id is None]
        if unsure:
            choices.append((2, self._repeat_unsure))
        return self.luck.choices([act for _, act in choices], [weight for weight, _ in choices])[0]

    # --- submits
    def _new(self) -> Known:
        self._made += 1
        marker = f"task-{self.number}.{self._made}"
        luck = random.Random(f"{self._seed}/{marker}")  # the same task again, whatever was done before it
        body: Json = {
            "type": "generate",
            "model": "llama3.2",
            "payload": {"prompt": marker + " " + "x" * luck.choice((0, 10, 900))},
            "priority": luck.choice((1, 5, 10, 15)),
            "max_retries": luck.choice((0, 2, 5)),
        }
        due = None
        if luck.random() < 0.2:
            due = round(time.time() + luck.choice((0.3, 1.0, 3.0, FAR)), 6)
            body["run_at"] = rfc3339(due)
        known = Known(marker, f"key {marker}", body, due, priorities={body["priority"]})
        self.tasks.append(known)
        return self._ledger.add(known)

    def _post(self, server: Server, known: Known) -> None:
        status, answer = server.ask("POST", "/api/tasks", known.body, known.key)
        expect(status == 201, f"{known.marker} was refused: {status} {answer}")
        expect(known.id in (None, answer["task_id"]), f"{known.marker} was {known.id}, now {answer}")
        known.id = answer["task_id"]

    def _submit(self, server: Server, life: int) -> None:
        self._post(server, self._new())

    def _submit_many(self, server: Server, life: int) -> None:
        many = [self._new() for _ in range(self.luck.randrange(2, 9))]
        name = many[0].key
        for index, known in enumerate(many):
            known.key = f"{name}#{index}"  # so the batch's key stands for it
        status, answer = server.ask("POST", "/api/tasks/batch", [known.body for known in many], name)
        expect(status == 200 and answer["failed"] == 0, f"a batch was refused: {status} {answer}")
        for known, item in zip(many, answer["items"], strict=True):
            known.id = item["task_id"]

    def _repeat(self, server: Server, life: int) -> None:
        self._post(server, self._any())

    def _repeat_unsure(self, server: Server, life: int) -> None:
        self._post(server, self.luck.choice([task for task in self.tasks if task.id is None]))

    # --- changes
    def _any(self, finished: bool | None = None) -> Known:
        own = [task for task in self.tasks if task.id is not None and not task.deleted and not task.deleting]
        fit = [task for task in own if finished is None or (task.finished is not None) == finished]
        return self.luck.choice(fit or own)

    def _cancel(self, server: Server, life: int) -> None:
        known = self._any(finished=False)
        status, answer = server.ask("POST", f"/api/tasks/{known.id}/cancel")
        if status == 409:
            self._look(server, known, life)
            expect(known.finished is not None, f"{known.marker} cannot be cancelled, though not finished")
            return
        expect(status == 200 and answer["status"] == "cancelled", f"cancel: {status} {answer}")
        known.cancelled = True
        known.settled_life = life

    def _reprioritize(self, server: Server, life: int) -> None:
        known = self._any(finished=False)
        before, level = set(known.priorities), self.luck.randrange(1, 20)
        known.priorities = before | {level}
        status, answer = server.ask("POST", f"/api/tasks/{known.id}/priority", {"priority": level})
        expect(status in (200, 409), f"priority: {status} {answer}")
        known.priorities = {level} if status == 200 else before

    def _retry(self, server: Server, life: int) -> None:
        known = self._any(finished=True)
        if known.finished is None:
            self._look(server, known, life)
        if known.finished is None:
            return
        known.retrying, known.retried_life = True, life
        known.due = None  # a retry by hand is due at once
        status, answer = server.ask("POST", f"/api/tasks/{known.id}/retry")
        expect(status == 200 and answer["status"] == "pending", f"retry: {status} {answer}")
        self._look(server, known, life)
        expect(
            not known.retrying,
            f"{known.marker}: its retry was acknowledged and is not to be seen: {known.seen}",
        )

    def _delete(self, server: Server, life: int) -> None:
        known = self._any(finished=True)
        if known.finished is None:
            return
        known.deleting = True
        status, answer = server.ask("DELETE", f"/api/tasks/{known.id}")
        expect(status == 200, f"delete: {status} {answer}")
        known.deleted = True
        self.tasks.remove(known)

    # --- reads
    def _look(self, server: Server, known: Known, life: int) -> None:
        assert known.id is not None
        known.look(server.get(known.id), life)

    def _read(self, server: Server, life: int) -> None:
        self._look(server, self._any(finished=False), life)

    def _stream(self, server: Server, life: int) -> None:
        known = self._any(finished=False)
        if (known.due is not None and known.due > time.time()) or self._ledger.paused is not False:
            return  # its text would be long in coming
        assert known.id is not None
        told = server.follow(known.id, self.luck.choice((0, 1, 100)))
        if told is not None:
            expect(told["status"] in FINISHED, f"the stream of {known.marker} ended with {told}")
            self._look(server, known, life)
            expect(known.finished is not None, f"{known.marker} is not finished, though its stream said so")

    # --- the switch
    def _pause(self, server: Server, life: int) -> None:
        self._ledger.paused = None
        status, answer = server.ask("POST", "/api/queue/pause")
        expect(status == 200, f"pause: {status} {answer}")
        self._ledger.paused = True

    def _resume(self, server: Server, life: int) -> None:
        self._ledger.paused = None
        self._ledger.resumed_life = life
        status, answer = server.ask("POST", "/api/queue/resume")
        expect(status == 200, f"resume: {status} {answer}")
        self._ledger.paused = False
