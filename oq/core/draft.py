"""A step while it is being made: gathers writes, deletes, effects and starts, merging writes of one task."""

from __future__ import annotations

from oq.core.events import Change, EventType, Happening
from oq.core.messages import Announce, Effect, Reply, Respond, Start, Step, Write
from oq.core.model import Entry, TaskSpec, TaskState


class Draft:
    def __init__(self) -> None:
        self.writes: dict[int, Write] = {}
        self.deletes: list[int] = []
        self.starts: list[Start] = []
        self.documents: list[tuple[str, bytes | None]] = []
        self.paused: bool | None = None
        self.wake_at: Effect | None = None
        self._happenings: list[Happening] = []
        self._responses: list[Respond] = []

    def write(
        self, key: int, state: TaskState, spec: TaskSpec | None = None, result: bytes | None = None
    ) -> None:
        before = self.writes.get(key)
        if before is not None:
            spec, result = spec or before.spec, result or before.result
        self.writes[key] = Write(key, state, spec, result)

    def tell(self, event: EventType, entry: Entry) -> None:
        self._happenings.append(Change(event, entry.key, entry.type, entry.model, entry.tags, entry.state))

    def announce(self, happening: Happening) -> None:
        self._happenings.append(happening)

    def respond(self, reply: Reply, answer: object) -> None:
        self._responses.append(Respond(reply, answer))

    def step(self) -> Step:
        """Return the finished step. Events come before answers: who has an answer finds the event already sent."""
        effects: list[Effect] = [Announce(tuple(self._happenings))] if self._happenings else []
        effects += self._responses
        if self.wake_at is not None:
            effects.append(self.wake_at)
        return Step(
            tuple(self.writes.values()), tuple(self.deletes), tuple(effects), tuple(self.starts), self.paused,
            tuple(self.documents),
        )  # fmt: skip
