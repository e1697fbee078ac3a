"""Every walk of a small world: 3 tasks, 2 hosts with a slot each, all messages in any order, up to a depth.

Where a random walk may miss an order of messages, this one cannot. Worlds that differ only in what no later message
can tell apart (revisions, numbers and times long past) count as one state.
"""

from __future__ import annotations

import copyreg
import dataclasses
import io
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from oq.core.messages import Interrupt, Probe, Run
from oq.core.model import Failed, Interrupted, Status, Succeeded, TaskSpec
from oq.core.retry import RetryPolicy
from oq.core.rules import Rules
from oq.core.schedule import Limits

from .promises import Shape
from .world import World, embed, spec

DONE = Succeeded(b"{}")
BUSY = Failed("busy", "busy", retryable=True)
GONE = Failed("gone", "unreachable", retryable=True, unreachable=True)
# Model "a" twice, so that affinity and the limit of one loaded model a host matter.
TASKS = [spec("a", 5, max_retries=1), spec("b", 10, max_retries=0), spec("a", 5, max_retries=0)]
SHAPE = Shape(
    (("h1", 1, 1), ("h2", 1, 1)),
    RetryPolicy(initial_delay=1.0),
    Rules(affinity_limit=1, affinity_wait=100.0, starvation_after=0.0),
    Limits(max_pending=3, max_finished=0, cleanup_interval=1e6),
)
# The same with tasks that share calls: two in one, and one more that asks for the same as the first.
EMBEDS = [embed(max_retries=1), embed(max_retries=0, text="y"), embed(max_retries=0)]
EMBED_SHAPE = Shape(
    (("h1", 1, 1),),
    RetryPolicy(initial_delay=1.0),
    Rules(affinity_limit=1, affinity_wait=100.0, starvation_after=0.0, embed_batch=2),
    Limits(max_pending=3, max_finished=0, cleanup_interval=1e6),
)
# And where a call with room waits for more.
WAIT_SHAPE = dataclasses.replace(EMBED_SHAPE, rules=dataclasses.replace(EMBED_SHAPE.rules, embed_wait=0.5))
WORLDS = [(TASKS, SHAPE, 6, 20_000), (EMBEDS, EMBED_SHAPE, 6, 3_500), (EMBEDS, WAIT_SHAPE, 6, 3_500)]
Move = tuple[str, Callable[[World], object]]


# What never changes is shared by all worlds instead of being pickled with each.
CONSTANTS = [
    part for tasks, shape, *_ in WORLDS for part in (shape, shape.retry, shape.rules, shape.limits, *tasks)
]


def constant(number: int) -> object:
    return CONSTANTS[number]


def _reduce(value: object) -> tuple[Any, ...]:
    return constant, (next(n for n, known in enumerate(CONSTANTS) if known is value),)


def freeze(world: World) -> bytes:
    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, pickle.HIGHEST_PROTOCOL)
    pickler.dispatch_table = copyreg.dispatch_table | dict.fromkeys(map(type, CONSTANTS), _reduce)
    pickler.dump(world)
    return buffer.getvalue()


def moves(world: World, tasks: list[TaskSpec]) -> Iterator[Move]:
    """Every message that may come next, with its name."""
    keys = sorted(world.disk)
    if len(keys) < len(tasks):
        yield f"submit {len(keys)}", lambda world: world.submit([tasks[len(keys)]])
    for number, key in enumerate(keys):
        status = world.disk[key].state.status
        if status.finished:
            yield f"retry {number}", lambda world, key=key: world.retry(key)
        else:
            yield f"cancel {number}", lambda world, key=key: world.cancel(key)
            if status is not Status.RUNNING:
                raised = 5 if world.disk[key].state.priority == 10 else 10
                yield (
                    f"priority {number}",
                    lambda world, key=key, raised=raised: world.reprioritize(key, raised),
                )
    for attempt in sorted(world.active):
        outcomes = [DONE, BUSY, GONE] + [Interrupted()] * (attempt in world.stopping)
        for outcome in outcomes:
            yield (
                f"finish {attempt[1]} of {keys.index(attempt[0])} {outcome}",
                lambda world, attempt=attempt, outcome=outcome: world.finish(*attempt, outcome),
            )
        if len(world.members(attempt)) > 1:
            for own, others in ((DONE, [BUSY]), (BUSY, [DONE]), (DONE, [GONE])):
                yield (
                    f"finish {attempt[1]} of {keys.index(attempt[0])} {own}, those with it {others}",
                    lambda world, attempt=attempt, own=own, others=others: world.finish(
                        *attempt, own, others=others
                    ),
                )
    if world.unread:
        yield "read", lambda world: world.read()
    for host in sorted(world.probing):
        for up in (True, False):
            yield (
                f"probe {host} {up}",
                lambda world, host=host, up=up: world.answer_probe(host, up),
            )
    if not world.paused:
        yield "pause", lambda world: world.pause()
    if world.paused or world.draining:
        yield "resume", lambda world: world.resume()
    if len(world.drains) < 2:
        yield "drain", lambda world: world.drain(5.0)
        yield "stop", lambda world: world.drain(0.0)
    if world.alarm < world.now + 1e5:
        yield "ring", lambda world: world.ring()
    yield "crash", lambda world: world.crash()


def identity(world: World) -> tuple[Any, ...]:
    """What later messages can tell apart."""
    now = world.now
    order = {key: number for number, key in enumerate(sorted(world.disk))}

    def name(attempt: tuple[int, int]) -> tuple[int, int]:
        """An attempt as the task's place and how many newer attempts the task has."""
        key, number = attempt
        attempts = world.disk[key].state.attempts
        return order[key], (attempts[-1].number if attempts else 0) - number

    def start(item: Any) -> tuple[Any, ...]:
        match item:
            case Run() | Interrupt():
                return type(item).__name__, name((item.key, item.attempt))
            case Probe():
                return "Probe", item.host
        raise AssertionError(item)

    tasks = tuple(
        (state.status, state.priority, state.retry_count, (state.run_at or now) - now)
        for _, state in sorted((key, task.state) for key, task in world.disk.items())
    )
    hosts = tuple(
        (
            tuple(sorted(tuple(map(name, world.members(attempt))) for attempt in seat.held)),
            tuple(sorted((name(twin), name(member)) for twin, member in seat.copies.items())),
            tuple(seat.recent),
            seat.up,
            seat.probe_at - now,
        )
        for seat in world.seats.values()
    )
    overtaken = tuple(sorted(_overtaken(world, order)))
    return (
        tasks,
        hosts,
        overtaken,
        tuple(map(start, world.unread)),
        tuple(sorted(map(name, world.active))),
        tuple(sorted(map(name, world.stopping))),
        tuple(sorted(map(name, world.interrupted))),
        tuple(sorted(world.probing)),
        world.paused,
        world.draining,
        world.drain_at - now,
        len(world.drains),
        world.alarm - now,
    )


def _overtaken(world: World, order: dict[int, int]) -> Iterator[tuple[str, int, int, int]]:
    for (view, priority), (key, times, _) in world.passed_over.items():
        if world.disk[key].state.status is Status.PENDING:
            yield view, priority, order[key], times


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tasks", "shape", "depth", "at_least"), WORLDS, ids=["tasks", "embeds", "embeds that wait"]
)
def test_every_walk_of_a_small_world_keeps_every_promise(
    record_property: Callable[[str, object], None],
    tasks: list[TaskSpec],
    shape: Shape,
    depth: int,
    at_least: int,
) -> None:
    empty, full = World(shape), World(shape)
    for task in tasks:
        full.submit([task])
    edge: list[tuple[bytes, tuple[str, ...]]] = [
        (freeze(empty), ("from nothing",)),
        (freeze(full), ("from three tasks",)),
    ]
    seen = {identity(empty), identity(full)}
    steps, largest = 0, 1
    for _ in range(depth):
        following: list[tuple[bytes, tuple[str, ...]]] = []
        for frozen, path in edge:
            for name, move in moves(pickle.loads(frozen), tasks):
                world: World = pickle.loads(frozen)
                steps += 1
                try:
                    move(world)
                except Exception as error:
                    raise AssertionError(f"{', '.join((*path, name))}: {error!r}") from error
                largest = max(
                    largest,
                    *(len(world.members(one)) for seat in world.seats.values() for one in seat.held),
                    1,
                )
                key = identity(world)
                if key not in seen:
                    seen.add(key)
                    following.append((freeze(world), (*path, name)))
        edge = following
    record_property("states", len(seen))
    record_property("steps", steps)
    print(f"{len(seen):,} states, {steps:,} steps, depth {depth}")
    assert len(seen) >= at_least
    assert (largest >= 3) == (tasks is EMBEDS), "no call was shared by as many as may share one"
