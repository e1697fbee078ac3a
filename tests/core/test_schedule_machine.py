"""Random walks of the schedule, every promise checked after every step (see `world`)."""

from __future__ import annotations

import dataclasses
import os
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from oq.core.hosts import ABSENT_SECONDS
from oq.core.model import Failed, Interrupted, Outcome, Status, Succeeded, TaskSpec
from oq.core.retry import RetryPolicy
from oq.core.rules import Rules
from oq.core.schedule import Limits

from .promises import Shape
from .world import World, embed, spec

models = st.sampled_from(["a", "b", "c"])
priorities = st.sampled_from([1, 5, 5, 10])
HOSTS = st.lists(st.tuples(st.integers(1, 2), st.integers(0, 2)), min_size=1, max_size=3).map(
    lambda sizes: tuple((f"h{n}", slots, loaded) for n, (slots, loaded) in enumerate(sizes, 1))
)
RULES = st.sampled_from(
    [
        Rules(),
        Rules(affinity_limit=2, affinity_wait=3.0, starvation_after=0.0),
        Rules(affinity_limit=0),
        Rules(affinity_limit=2, affinity_wait=1000.0, starvation_after=4.0, starvation_share=2),
        Rules(affinity_limit=1, affinity_wait=2.0, starvation_after=2.0, starvation_share=3),
    ]
)
CALLS = st.sampled_from(
    [
        {},
        {"embed_batch": 3, "embed_batch_bytes": 30},
        {"embed_batch": 4},
        {"embed_batch": 3, "embed_wait": 1.5},
        {"embed_batch": 5, "embed_batch_bytes": 30, "embed_wait": 3.0},
    ]
)
LIMITS = st.sampled_from(
    [
        Limits(),
        Limits(max_pending=4, max_finished=2, cleanup_interval=10.0),
        Limits(max_pending=6, max_finished=20, max_finished_age=5.0, cleanup_interval=3.0),
        Limits(max_pending=9, max_finished=4, cleanup_interval=10.0),
    ]
)
OUTCOMES = st.sampled_from(
    [
        Succeeded(b'{"done": true}'),
        Succeeded(b'{"done": true}'),
        Failed("wrong option", "invalid_request"),
        Failed("no such model", "model_not_found", elsewhere=True),
        Failed("no such model", "model_not_found", elsewhere=True),
        Failed("busy", "busy", retryable=True),
        Failed("slow", "timeout", retryable=True, retry_limit=1),
        Failed("busy", "busy", retryable=True, retry_after=7.0),
        Failed("gone", "unreachable", retryable=True, unreachable=True),
    ]
)


class ScheduleMachine(RuleBasedStateMachine):
    world: World

    @initialize(hosts=HOSTS, rules=RULES, calls=CALLS, limits=LIMITS, jitter=st.sampled_from([0.0, 0.5]))
    def begin(self, hosts: Any, rules: Rules, calls: Any, limits: Limits, jitter: float) -> None:
        rules = dataclasses.replace(rules, **calls)
        self.world = World(Shape(hosts, RetryPolicy(jitter=jitter), rules, limits))

    def pick(self, data: st.DataObject, keys: Any) -> Any:
        return data.draw(st.sampled_from(sorted(keys)))

    # --- requests
    @rule(data=st.data(), count=st.integers(1, 4), atomic=st.booleans())
    def submit(self, data: st.DataObject, count: int, atomic: bool) -> None:
        self.world.submit([self.draw_spec(data) for _ in range(count)], atomic=atomic)

    def draw_spec(self, data: st.DataObject) -> TaskSpec:
        name = data.draw(st.sampled_from([None, None, None, "k1", "k2"]))
        delay = data.draw(st.sampled_from([None, None, None, -1.0, 0.5, 4.0]))
        make = data.draw(
            st.sampled_from([spec, *(partial(embed, text=text) for text in ("x", "x", "y", "z"))])
        )
        return make(
            data.draw(models),
            data.draw(priorities),
            max_retries=data.draw(st.integers(0, 2)),
            run_at=None if delay is None else self.world.now + delay,
            idempotency_key=name,
            fingerprint=None if name is None else data.draw(st.sampled_from([b"1", b"2"])),
        )

    @precondition(lambda self: self.world.disk)
    @rule(data=st.data(), count=st.integers(1, 2))
    def cancel(self, data: st.DataObject, count: int) -> None:
        self.world.cancel(*(self.pick(data, self.world.disk) for _ in range(count)))

    @precondition(lambda self: self.world.active)
    @rule(data=st.data())
    def cancel_what_runs(self, data: st.DataObject) -> None:
        running = [key for key, _ in self.world.active if key in self.world.disk]
        if running:
            self.world.cancel(self.pick(data, running))

    @precondition(lambda self: self.world.disk)
    @rule(data=st.data(), priority=priorities)
    def reprioritize(self, data: st.DataObject, priority: int) -> None:
        self.world.reprioritize(self.pick(data, self.world.disk), priority)

    @precondition(lambda self: self.world.disk)
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        key = self.pick(data, self.world.ended or self.world.disk)
        finished = self.world.disk[key].state.status.finished
        answer = self.world.retry(key)
        if not finished:
            assert self.world.disk[key].state.status is not Status.COMPLETED
            assert isinstance(answer, Exception)

    @precondition(lambda self: self.world.disk)
    @rule(data=st.data())
    def delete(self, data: st.DataObject) -> None:
        self.world.delete(self.pick(data, self.world.ended or self.world.disk))

    @rule()
    def pause(self) -> None:
        self.world.pause()

    @rule()
    def resume(self) -> None:
        self.world.resume()

    @rule(grace=st.sampled_from([0.0, 2.0, 30.0]))
    def drain(self, grace: float) -> None:
        self.world.drain(grace)

    @precondition(lambda self: self.world.draining or self.world.paused)
    @rule()
    def resume_soon(self) -> None:
        self.world.resume()

    # --- the world
    @precondition(lambda self: self.world.unread)
    @rule()
    def read_one(self) -> None:
        self.world.read()

    @precondition(lambda self: self.world.unread)
    @rule()
    def read_all(self) -> None:
        while self.world.unread:
            self.world.read()

    @precondition(lambda self: self.world.active)
    @rule(
        data=st.data(),
        outcome=OUTCOMES,
        luck=st.sampled_from([0.0, 0.5, 1.0]),
        others=st.lists(OUTCOMES, max_size=3),
    )
    def finish(self, data: st.DataObject, outcome: Outcome, luck: float, others: list[Outcome]) -> None:
        self.world.finish(*self.pick(data, self.world.active), outcome, luck, others)

    @precondition(lambda self: self.world.stopping)
    @rule(data=st.data())
    def stop(self, data: st.DataObject) -> None:
        self.world.finish(*self.pick(data, self.world.stopping), Interrupted())

    @precondition(lambda self: self.world.probing)
    @rule(data=st.data(), up=st.booleans())
    def answer_probe(self, data: st.DataObject, up: bool) -> None:
        self.world.answer_probe(self.pick(data, self.world.probing), up)

    @rule(seconds=st.sampled_from([0.25, 1.0, 5.0, ABSENT_SECONDS]))
    def pass_time(self, seconds: float) -> None:
        self.world.pass_time(seconds)

    @rule()
    def ring(self) -> None:
        if self.world.alarm < float("inf"):
            self.world.ring()

    @rule()
    def crash(self) -> None:
        self.world.crash()


TestScheduleMachine = pytest.mark.slow(ScheduleMachine.TestCase)
TestScheduleMachine.settings = settings(
    max_examples=int(os.environ.get("OQ_WALKS", "150")),
    stateful_step_count=80,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
