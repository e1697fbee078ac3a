"""Each rule of `oq.core.rules`, and its bounds."""

from __future__ import annotations

import dataclasses

import pytest

from oq.core.model import Failed, Succeeded, TaskSpec
from oq.core.retry import RetryPolicy
from oq.core.rules import Rules
from oq.core.waiting import Waiting, why_waiting

from .promises import Shape
from .world import World, embed, spec

DONE = Succeeded(b"{}")


def open_world(
    hosts: tuple[tuple[str, int, int], ...] = (("h1", 1, 1),), rules: Rules | None = None
) -> World:
    return World(Shape(hosts, rules=rules or Rules()))


def submit(world: World, *tasks: tuple[str, int]) -> list[int]:
    """Submit tasks given as (model, priority), a second apart."""
    keys = []
    for model, priority in tasks:
        world.pass_time(1.0)
        keys += world.submit([spec(model, priority)])
    return keys


def running(world: World, host: str | None = None) -> list[int]:
    return sorted(key for name, seat in world.seats.items() for key, _ in seat.held if host in (None, name))


def finish(world: World, key: int) -> None:
    while world.unread:
        world.read()
    (attempt,) = (pair for pair in world.active if pair[0] == key)
    world.finish(*attempt, DONE)


def order(world: World, seconds: float = 0.0) -> list[int]:
    """Run everything that waits, one after the other; return the keys in the order of their starts."""
    found = []
    while keys := running(world):
        found.append(keys[0])
        world.pass_time(seconds)
        finish(world, keys[0])
    return found


# --- rule 1
def test_a_higher_priority_starts_first_and_within_one_the_oldest() -> None:
    world = open_world()
    first, low, high, normal, high_too = submit(world, ("a", 5), ("a", 1), ("a", 10), ("a", 5), ("a", 10))
    assert order(world) == [first, high, high_too, normal, low]


def test_a_task_that_is_raised_moves_at_once() -> None:
    world = open_world()
    first, normal, low = submit(world, ("a", 5), ("a", 5), ("a", 1))
    world.reprioritize(low, 15)
    assert order(world) == [first, low, normal]


def test_a_task_that_is_lowered_and_raised_again_keeps_its_old_place() -> None:
    world = open_world()
    first, second, third = submit(world, ("a", 5), ("a", 5), ("a", 5))
    world.reprioritize(second, 1)
    world.reprioritize(second, 5)
    assert order(world) == [first, second, third]


def test_tasks_moved_to_and_fro_many_times_keep_their_order() -> None:
    """Each move leaves something out of date in the heaps, which are made anew now and then."""
    world = open_world()
    world.check = lambda: None  # type: ignore[method-assign]  # a thousand moves of a hundred tasks
    first, *keys = submit(world, *[(model, 5) for model in "abcde" * 20])
    for _ in range(5):
        for key in keys:
            world.reprioritize(key, 9)
            world.reprioritize(key, 5)
    world.cancel(*keys[50:])
    found = order(world)
    assert sorted(found) == [first, *keys[:50]]
    for model in range(5):
        mine = [key for key in found if key in [first, *keys][model::5]]
        assert mine == sorted(mine), "first in first out within one model"


# --- rule 2
def test_a_warm_task_overtakes_its_equals() -> None:
    world = open_world()
    first, cold, warm = submit(world, ("a", 5), ("b", 5), ("a", 5))
    assert order(world) == [first, warm, cold]


def test_a_warm_task_does_not_overtake_a_higher_priority() -> None:
    world = open_world()
    first, cold, warm = submit(world, ("a", 5), ("b", 10), ("a", 5))
    assert order(world) == [first, cold, warm]


def test_a_task_is_overtaken_no_more_often_than_the_limit() -> None:
    world = open_world(rules=Rules(affinity_limit=2))
    first, cold, *warm = submit(world, ("a", 5), ("b", 5), ("a", 5), ("a", 5), ("a", 5))
    assert order(world) == [first, warm[0], warm[1], cold, warm[2]]


def test_a_task_is_overtaken_no_longer_than_the_wait() -> None:
    world = open_world(rules=Rules(affinity_limit=100, affinity_wait=3.0))
    first, cold, *warm = submit(world, ("a", 5), ("b", 5), *[("a", 5)] * 5)
    # The first look at the overtaken one is after 1 s; then at 2, 3 and 4 s.
    assert order(world, 1.0) == [first, *warm[:3], cold, *warm[3:]]


def test_an_affinity_limit_of_0_means_first_in_first_out() -> None:
    world = open_world(rules=Rules(affinity_limit=0))
    keys = submit(world, ("a", 5), ("b", 5), ("a", 5), ("b", 5))
    assert order(world) == keys


def test_each_priority_remembers_who_was_overtaken() -> None:
    """Else tasks of a higher priority, each cold, would let the equals overtake without end."""
    world = open_world((("h1", 1, 3),), Rules(affinity_limit=2, affinity_wait=1000.0))
    (first, cold, *warm) = submit(world, ("a", 5), ("x", 5), ("a", 5), ("a", 5), ("a", 5))
    starts = []
    for number in range(4):
        (now,) = running(world)
        starts.append(now)
        higher = submit(world, (f"cold{number}", 10))
        finish(world, now)
        assert running(world) == higher
        finish(world, higher[0])
    assert starts == [first, warm[0], warm[1], cold]


def test_warm_are_the_models_lately_used_as_many_as_the_host_keeps_loaded() -> None:
    world = open_world((("h1", 1, 2),))
    first, second, cold, warm = submit(world, ("a", 5), ("b", 5), ("c", 5), ("a", 5))
    assert order(world) == [first, warm, second, cold]
    world = open_world((("h1", 1, 2),))
    first, second, third, cold, warm = submit(world, ("a", 9), ("b", 8), ("c", 7), ("a", 5), ("c", 5))
    assert order(world) == [first, second, third, warm, cold]


# --- rule 3
def starving(share: int, after: float = 100.0) -> tuple[World, int]:
    """A world with one low task that has waited *after* seconds, and high ones without end."""
    world = open_world(rules=Rules(starvation_after=after, starvation_share=share))
    _, low = submit(world, ("a", 10), ("a", 1))
    submit(world, *[("a", 10)] * 8)
    return world, low


@pytest.mark.parametrize("share", [1, 2, 3, 5])
def test_who_waited_too_long_gets_one_start_in_so_many(share: int) -> None:
    world, low = starving(share)
    world.pass_time(100.0)
    assert order(world).index(low) == share


def test_who_has_not_waited_that_long_waits_for_the_higher_ones() -> None:
    world, low = starving(1, after=500.0)
    world.pass_time(480.0)
    assert order(world)[-1] == low


@pytest.mark.parametrize("rules", [Rules(starvation_after=0.0), Rules(starvation_share=0)])
def test_a_0_switches_the_share_off(rules: Rules) -> None:
    world = open_world(rules=rules)
    first, low, *high = submit(world, ("a", 10), ("a", 1), *[("a", 10)] * 12)
    world.pass_time(10_000.0)
    assert order(world) == [first, *high, low]


def test_the_share_goes_to_who_waits_longest_not_to_who_was_submitted_first() -> None:
    world = open_world(rules=Rules(starvation_after=100.0, starvation_share=1))
    (first,) = submit(world, ("a", 10))
    (late,) = world.submit([spec("a", 2, run_at=world.now + 90.0)])
    (long,) = submit(world, ("a", 1))
    submit(world, ("a", 10))
    world.pass_time(95.0)
    world.ring()
    world.pass_time(10.0)  # the late one is older, but waits for 15 s only
    finish(world, first)
    assert running(world) == [long]
    assert late not in world.ended


def test_a_task_retried_by_hand_waits_from_then_on() -> None:
    world = open_world(rules=Rules(starvation_after=100.0, starvation_share=1))
    (old,) = submit(world, ("a", 1))
    world.cancel(old)
    while world.unread:
        world.read()
    world.finish(old, 1, DONE)
    world.pass_time(1000.0)
    first, second = submit(world, ("a", 10), ("a", 10))
    world.retry(old)
    finish(world, first)
    assert running(world) == [second]


def test_the_wait_of_a_retry_counts_from_its_due_time() -> None:
    world = open_world(rules=Rules(starvation_after=100.0, starvation_share=1))
    (first,) = submit(world, ("a", 10))
    (low,) = world.submit([spec("a", 1, run_at=world.now + 500.0)])
    world.pass_time(550.0)
    world.ring()
    (high,) = submit(world, ("a", 10))
    finish(world, first)
    assert running(world) == [high]
    assert low not in running(world)


# --- rule 4
def test_a_host_never_has_more_models_in_flight_than_it_may_load() -> None:
    world = open_world((("h1", 4, 2),))
    a, b, c, other = submit(world, ("a", 5), ("b", 5), ("c", 5), ("a", 5))
    assert running(world) == [a, b, other]
    finish(world, b)
    assert running(world) == [a, c, other]


def test_without_a_limit_any_number_of_models_is_in_flight() -> None:
    world = open_world((("h1", 3, 0),))
    keys = submit(world, ("a", 5), ("b", 5), ("c", 5))
    assert running(world) == keys


def test_a_higher_priority_that_is_held_back_makes_the_least_used_model_run_dry() -> None:
    world = open_world((("h1", 4, 2),))
    a, b, b_too = submit(world, ("a", 5), ("b", 5), ("b", 5))
    high, a_again, b_again = submit(world, ("c", 10), ("a", 5), ("b", 5))
    assert running(world) == [a, b, b_too, b_again], "a is the one that runs dry"
    finish(world, b)
    assert a_again not in running(world)
    finish(world, a)
    assert high in running(world)


def test_an_equal_that_is_held_back_is_overtaken_only_within_the_bounds() -> None:
    world = open_world((("h1", 2, 1),), Rules(affinity_limit=2))
    first, cold, *warm = submit(world, ("a", 5), ("b", 5), *[("a", 5)] * 4)
    assert running(world) == [first, warm[0]]
    finish(world, first)
    assert running(world) == [warm[0], warm[1]]
    finish(world, warm[0])
    assert running(world) == [warm[1]], "twice overtaken: now the model runs dry"
    finish(world, warm[1])
    assert running(world) == [cold]


# --- several hosts
def test_the_freest_host_takes_the_next_task() -> None:
    world = open_world((("h1", 1, 0), ("h2", 3, 0)))
    submit(world, ("a", 5), ("a", 5), ("a", 5))
    assert (len(running(world, "h1")), len(running(world, "h2"))) == (1, 2)


def test_each_host_keeps_to_its_own_models() -> None:
    world = open_world((("h1", 2, 1), ("h2", 2, 1)))
    a, b, a_too, b_too = submit(world, ("a", 5), ("b", 5), ("a", 5), ("b", 5))
    assert running(world, "h1") == [a, a_too]
    assert running(world, "h2") == [b, b_too]


def test_a_start_elsewhere_frees_the_host_that_was_held_back() -> None:
    """The high task cannot start on h1, and while it waits h1's own model runs dry; once h2 takes it, h1 goes on."""
    world = open_world((("h1", 2, 1), ("h2", 1, 1)))
    world.pause()
    world.submit([spec("a", 5)])
    world.resume()
    assert len(running(world, "h1")) == 1
    world.pause()
    (high,) = world.submit([spec("b", 10)])
    (low,) = world.submit([spec("a", 5)])
    world.resume()
    assert running(world, "h2") == [high]
    assert low in running(world, "h1")


# --- rule 8
def gathering(slots: int = 1, **rules: float) -> World:
    """A world where a call with room for more waits ten seconds for them; here no task waits for its retry."""
    bounds = Rules(embed_batch=4, embed_batch_bytes=1000, embed_wait=10.0)
    shape = Shape((("h1", slots, 0),), RetryPolicy(initial_delay=0.0), dataclasses.replace(bounds, **rules))
    return World(shape)


def in_one_call(world: World) -> list[set[int]]:
    """Return the tasks of each call that runs."""
    return [
        {key for key, _ in world.members(leader)} for seat in world.seats.values() for leader in seat.held
    ]


def test_a_call_with_room_waits_for_more_until_its_oldest_has_waited_long_enough() -> None:
    world = gathering(slots=2)
    (first,) = world.submit([embed(text="x")])
    world.pass_time(6.0)
    (second,) = world.submit([embed(text="y")])
    assert not running(world)
    began = world.now
    assert why_waiting(world.schedule, second) == Waiting("gathers", until=began + 4.0)
    world.ring()
    assert in_one_call(world) == [{first, second}], "one call, though there are two slots"
    assert world.now - began == pytest.approx(4.0)


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ([embed(text="y"), embed(text="z"), embed(text="u")], "the call is full"),
        ([embed(text="y" * 1000)], "the call has its bytes"),
        ([spec("a")], "another kind of task waits"),
        ([spec("b", 1)], "a lower priority waits"),
        ([embed("b")], "another model waits"),
        ([embed(text="y", timeout=5.0)], "one with another timeout waits"),
    ],
)
def test_a_call_waits_no_longer_when_it_is_full_or_somebody_else_waits(
    more: list[TaskSpec], why: str
) -> None:
    world = gathering()
    (first,) = world.submit([embed(text="x")])
    assert not running(world)
    world.submit(more)
    assert first in running(world), why


@pytest.mark.parametrize("rules", [{"embed_wait": 0.0}, {"embed_batch": 1}])
def test_a_0_or_calls_of_one_switch_the_gathering_off(rules: dict[str, float]) -> None:
    world = gathering(**rules)
    assert world.submit([embed()]) == tuple(running(world))


def test_one_that_goes_alone_waits_for_nobody() -> None:
    world = gathering()
    (failed,) = world.submit([embed(text="x", max_retries=1)])
    world.ring()
    world.read()
    world.finish(failed, 1, Failed("busy", "busy", retryable=True))
    world.ring()
    assert running(world) == [failed]


def test_what_has_waited_for_a_slot_long_enough_waits_no_more() -> None:
    world = gathering()
    (chat,) = world.submit([spec()])
    (first,) = world.submit([embed(text="x")])
    world.pass_time(10.0)
    finish(world, chat)
    assert running(world) == [first]


def test_a_clock_that_was_set_back_holds_nobody_up() -> None:
    world = gathering()
    world.pass_time(3600.0)
    (chat,) = world.submit([spec()])
    (first,) = world.submit([embed(text="x")])
    world.pass_time(-3600.0)
    finish(world, chat)
    assert running(world) == [first]


def test_nothing_that_gathers_starts_while_the_queue_is_paused() -> None:
    world = gathering()
    (first,) = world.submit([embed(text="x")])
    world.pause()
    world.pass_time(20.0)
    world.submit([embed(text="y")])
    assert not running(world)
    world.resume()
    assert len(in_one_call(world)[0]) == 2
    assert first in running(world)
