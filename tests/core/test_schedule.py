"""What one message leads to: the bounds, the switches, and the cases that a random walk seldom meets."""

from __future__ import annotations

import pytest

from oq.core.embedding import entry_of
from oq.core.hosts import ABSENT_KEPT, ABSENT_SECONDS, PROBE_SECONDS
from oq.core.ids import IdSource
from oq.core.messages import Interrupt, Probe, Respond, Retry, Run, Tick
from oq.core.model import ATTEMPTS_KEPT, Failed, Interrupted, Status, Succeeded, TaskState
from oq.core.retention import DELETES_PER_STEP
from oq.core.retry import RetryPolicy
from oq.core.schedule import Limits
from oq.core.table import PROMOTED_PER_STEP
from oq.core.twins import COPIES
from oq.core.waiting import why_waiting
from oq.errors import IdempotencyConflict, QueueClosed, QueueFull, TaskConflict, TaskNotFound

from .promises import Asked, Shape, Stored
from .world import World, embed, spec

DONE = Succeeded(b'{"done": true}')
BUSY = Failed("busy", "busy", retryable=True)
GONE = Failed("no route", "unreachable", retryable=True, unreachable=True)
ABSENT = Failed("no such model.", "model_not_found", elsewhere=True)


def open_world(slots: int = 1, hosts: int = 1, **limits: float) -> World:
    return World(
        Shape(
            tuple((f"h{n}", slots, 0) for n in range(1, hosts + 1)),
            limits=Limits(**limits),  # type: ignore[arg-type]
        )
    )


def submit(world: World, **fields: object) -> int:
    (key,) = world.submit([spec(**fields)])  # type: ignore[arg-type]
    assert isinstance(key, int), key
    return key


def state(world: World, key: int) -> TaskState:
    return world.disk[key].state


def read_all(world: World) -> None:
    while world.unread:
        world.read()


def end(world: World, key: int, outcome: Succeeded | Failed | Interrupted = DONE) -> None:
    read_all(world)
    world.finish(key, state(world, key).attempts[-1].number, outcome)


# --- what workers have not read yet
def test_a_slot_has_three_unread_starts_at_most_and_no_fourth_by_any_order_of_requests() -> None:
    """A late interrupt of the attempt that just ended, the next run, its interrupt."""
    world = open_world()
    first, second = submit(world), submit(world)
    read_all(world)
    world.drain(0.0)
    world.cancel(first)
    world.drain(0.0)
    world.finish(first, 1, DONE)
    world.resume()
    world.cancel(second)
    world.drain(0.0)
    assert world.unread == [
        Interrupt(first, 1),
        Run(second, 1, "h1", "generate", "a", None),
        Interrupt(second, 1),
    ]


def test_a_host_that_is_down_has_one_probe_at_a_time() -> None:
    world = open_world(slots=2)
    keys = [submit(world), submit(world)]
    read_all(world)
    for key in keys:
        end(world, key, GONE)
    for _ in range(5):
        world.pass_time(PROBE_SECONDS)
        world.pause()
        world.resume()
    assert world.unread == [Probe("h1")]


# --- retries
def test_max_retries_0_means_one_attempt() -> None:
    world = open_world()
    key = submit(world, max_retries=0)
    end(world, key, BUSY)
    assert (state(world, key).status, len(state(world, key).attempts)) == (Status.FAILED, 1)


def test_a_failure_that_is_not_worth_it_is_not_retried() -> None:
    world = open_world()
    key = submit(world, max_retries=9)
    end(world, key, Failed("no such model", "model_not_found"))
    found = state(world, key)
    assert (found.status, found.error, found.error_code) == (
        Status.FAILED,
        "no such model",
        "model_not_found",
    )


@pytest.mark.parametrize(("own", "limit", "retries"), [(3, 1, 1), (3, 0, 0), (1, 5, 1), (2, None, 2)])
def test_a_cause_may_allow_fewer_retries_than_the_task(own: int, limit: int | None, retries: int) -> None:
    world = open_world()
    key = submit(world, max_retries=own)
    for _ in range(retries):
        end(world, key, Failed("slow", "timeout", retryable=True, retry_limit=limit))
        assert state(world, key).status is Status.SCHEDULED
        world.ring()
    end(world, key, Failed("slow", "timeout", retryable=True, retry_limit=limit))
    assert state(world, key).status is Status.FAILED
    assert state(world, key).retry_count == retries


def test_pauses_grow_and_the_attempts_are_recorded() -> None:
    world = open_world()
    key = submit(world, max_retries=3)
    begin = world.now
    for _ in range(3):
        end(world, key, BUSY)
        world.ring()
    end(world, key)
    attempts = state(world, key).attempts
    assert [attempt.started_at - begin for attempt in attempts] == [0.0, 1.0, 3.0, 7.0]
    assert [(attempt.number, attempt.outcome, attempt.code) for attempt in attempts] == [
        (1, "failed", "busy"),
        (2, "failed", "busy"),
        (3, "failed", "busy"),
        (4, "succeeded", None),
    ]


def test_a_task_retried_for_ever_keeps_its_newest_attempts_only() -> None:
    world = World(Shape(retry=RetryPolicy(initial_delay=0.0)))
    key = submit(world, max_retries=1000)
    for _ in range(ATTEMPTS_KEPT + 10):
        end(world, key, BUSY)
        world.ring()
    numbers = [attempt.number for attempt in state(world, key).attempts]
    assert numbers == list(range(12, ATTEMPTS_KEPT + 12))


def test_a_tick_before_its_time_by_rounding_still_promotes() -> None:
    world = open_world()
    key = submit(world, run_at=world.now + 1.0)
    due = state(world, key).run_at or 0.0
    world.schedule.handle(Tick(due), due - 0.001)
    assert world.schedule.entries[key].state.status is Status.RUNNING


# --- cancel
@pytest.mark.parametrize("was", [Status.PENDING, Status.SCHEDULED, Status.RUNNING])
def test_a_task_that_is_not_finished_can_be_cancelled(was: Status) -> None:
    world = open_world()
    if was is Status.PENDING:
        submit(world)
    key = submit(world, run_at=world.now + 9 if was is Status.SCHEDULED else None)
    assert state(world, key).status is was
    (answer,) = world.cancel(key)
    assert answer.status is Status.CANCELLED
    assert state(world, key) == answer


@pytest.mark.parametrize("outcome", [DONE, BUSY, Interrupted(), GONE])
def test_a_cancelled_task_stays_cancelled_however_its_attempt_ends(
    outcome: Succeeded | Failed | Interrupted,
) -> None:
    world = open_world()
    key = submit(world)
    read_all(world)
    world.cancel(key)
    before = state(world, key)
    read_all(world)
    world.finish(key, 1, outcome)
    assert state(world, key) == before
    assert before.attempts[-1].outcome == "cancelled"


def test_a_slot_is_free_only_when_the_cancelled_attempt_has_ended() -> None:
    world = open_world()
    first, second = submit(world), submit(world)
    read_all(world)
    world.cancel(first)
    assert state(world, second).status is Status.PENDING
    read_all(world)
    world.finish(first, 1, Interrupted())
    assert state(world, second).status is Status.RUNNING


def test_a_cancelled_task_may_run_again_beside_its_old_attempt() -> None:
    world = open_world(slots=2)
    key = submit(world)
    read_all(world)
    world.cancel(key)
    world.retry(key)
    read_all(world)
    world.finish(key, 1, DONE)
    assert state(world, key).status is Status.RUNNING, "that was the old attempt"
    world.finish(key, 2, DONE)
    assert state(world, key).status is Status.COMPLETED


def test_a_request_about_a_task_that_is_not_there_or_not_in_that_state_says_so() -> None:
    world = open_world()
    key = submit(world)
    absent = key + 1
    answers = [
        world.cancel(absent)[0],
        world.reprioritize(absent, 1),
        world.delete(absent),
        world.reprioritize(key, 1),
        world.delete(key),
        world.retry(key),
    ]
    end(world, key)
    answers += [world.cancel(key)[0], world.reprioritize(key, 1)]
    assert [type(answer) for answer in answers] == [TaskNotFound] * 3 + [TaskConflict] * 5
    assert [str(answer).split(": ")[-1] for answer in answers[3:]] == [
        "it is running",
        "it is not finished; cancel it first",
        "it is not finished yet",
        "it is finished",
        "it is finished",
    ]


def test_a_retry_of_what_changed_since_it_was_read_is_refused() -> None:
    world = open_world()
    key = submit(world)
    end(world, key)
    old = state(world, key)
    world.retry(key)
    end(world, key)
    reply = Asked()
    step = world.schedule.handle(Retry((entry_of(key, spec(), old),), reply), world.now)
    ((answer,),) = [effect.answer for effect in step.effects if isinstance(effect, Respond)]
    assert isinstance(answer, TaskConflict)
    assert "it changed just now" in str(answer)
    assert key in world.schedule.finished


# --- submission
def test_a_full_queue_refuses_what_does_not_fit() -> None:
    world = open_world(max_pending=3)
    answers = world.submit([spec()] * 5)
    assert [isinstance(answer, QueueFull) for answer in answers] == [False] * 3 + [True] * 2
    assert "queue.max_pending is 3" in str(answers[3])


def test_a_full_queue_refuses_an_atomic_batch_as_a_whole() -> None:
    world = open_world(max_pending=3)
    assert isinstance(world.submit([spec()] * 4, atomic=True), QueueFull)
    assert len(world.submit([spec()] * 3, atomic=True)) == 3


def test_a_full_queue_refuses_to_run_a_finished_task_again() -> None:
    world = open_world(max_pending=1)
    key = submit(world)
    end(world, key)
    submit(world)
    assert isinstance(world.retry(key), QueueFull)


def test_a_repeat_in_an_atomic_batch_takes_no_room() -> None:
    world = open_world(max_pending=2)
    twin = spec(idempotency_key="k", fingerprint=b"1")
    first, second, third = world.submit([twin, twin, spec()], atomic=True)
    assert first == second != third


def test_the_same_idempotency_key_gives_the_same_task_also_when_it_is_finished_or_the_queue_full() -> None:
    world = open_world(max_pending=1)
    key = submit(world, idempotency_key="k", fingerprint=b"1")
    assert submit(world, idempotency_key="k", fingerprint=b"1") == key
    end(world, key)
    submit(world)
    world.crash()
    assert submit(world, idempotency_key="k", fingerprint=b"1") == key


def test_the_same_idempotency_key_for_another_request_is_a_conflict() -> None:
    world = open_world()
    submit(world, idempotency_key="k", fingerprint=b"1")
    (answer,) = world.submit([spec(idempotency_key="k", fingerprint=b"2")])
    assert isinstance(answer, IdempotencyConflict)
    assert "'k'" in str(answer)


def test_an_atomic_batch_that_uses_one_idempotency_key_for_two_requests_is_refused_as_a_whole() -> None:
    world = open_world()
    batch = [spec(idempotency_key="k", fingerprint=b"1"), spec(idempotency_key="k", fingerprint=b"2")]
    answer = world.submit(batch, atomic=True)
    assert isinstance(answer, IdempotencyConflict)
    assert "'k'" in str(answer)
    assert not world.disk


def test_an_idempotency_key_is_free_again_when_its_task_is_deleted() -> None:
    world = open_world()
    key = submit(world, idempotency_key="k", fingerprint=b"1")
    end(world, key)
    world.delete(key)
    assert submit(world, idempotency_key="k", fingerprint=b"2") != key


# --- pause and drain
def test_a_pause_survives_a_crash_and_lets_what_runs_go_on() -> None:
    world = open_world()
    first = submit(world)
    read_all(world)
    world.pause()
    second = submit(world)
    world.finish(first, 1, DONE)
    world.crash()
    assert state(world, second).status is Status.PENDING
    world.resume()
    assert state(world, second).status is Status.RUNNING


def test_a_drain_takes_nothing_starts_nothing_and_is_answered_when_nothing_runs() -> None:
    world = open_world()
    first, second = submit(world), submit(world)
    read_all(world)
    world.drain(30.0)
    (drained,) = world.drains
    assert isinstance(world.submit([spec()]), QueueClosed)
    world.finish(first, 1, DONE)
    assert drained.answers == [None]
    assert state(world, second).status is Status.PENDING


def test_at_the_end_of_grace_what_runs_goes_back_to_pending_and_its_attempt_is_not_counted() -> None:
    world = open_world()
    key = submit(world, max_retries=0)
    read_all(world)
    world.drain(5.0)
    assert world.unread == []
    assert world.alarm == world.now + 5.0
    world.ring()
    read_all(world)
    world.finish(key, 1, Interrupted())
    found = state(world, key)
    assert (found.status, found.retry_count, found.attempts[-1].outcome) == (
        Status.PENDING,
        0,
        "interrupted",
    )


def test_a_second_drain_may_shorten_the_grace_but_not_lengthen_it() -> None:
    world = open_world()
    submit(world)
    read_all(world)
    world.drain(50.0)
    world.drain(5.0)
    world.drain(500.0)
    assert world.alarm == world.now + 5.0
    world.ring()
    assert [type(start) for start in world.unread] == [Interrupt]


def test_a_resume_ends_a_drain_and_answers_who_waits_for_it() -> None:
    world = open_world()
    first = submit(world)
    read_all(world)
    world.drain(30.0)
    (drained,) = world.drains
    world.resume()
    assert drained.answers == [None]
    second = submit(world)
    world.finish(first, 1, DONE)
    assert state(world, second).status is Status.RUNNING


def test_a_draining_queue_runs_nothing_again() -> None:
    world = open_world()
    key = submit(world)
    end(world, key)
    world.drain(0.0)
    assert isinstance(world.retry(key), QueueClosed)


# --- a model server that cannot be reached
def test_an_outage_costs_a_task_no_retry_and_its_tasks_wait_until_a_probe_succeeds() -> None:
    world = open_world()
    key = submit(world, max_retries=0)
    end(world, key, GONE)
    for up in (False, False, True):
        assert state(world, key).status is Status.PENDING
        world.ring()
        read_all(world)
        world.answer_probe("h1", up)
    assert state(world, key).status is Status.RUNNING
    assert state(world, key).retry_count == 0
    assert world.now - state(world, key).attempts[0].started_at == 3 * PROBE_SECONDS


def test_other_hosts_take_over_from_one_that_is_down() -> None:
    world = open_world(hosts=2)
    first, second = submit(world), submit(world)
    down = state(world, first).host
    end(world, first, GONE)
    end(world, second)
    assert state(world, first).status is Status.RUNNING
    assert state(world, first).host != down


# --- retention
def test_finished_tasks_beyond_the_limit_go_the_oldest_first() -> None:
    world = open_world(max_finished=3)
    keys = []
    for _ in range(5):
        keys.append(submit(world))
        world.pass_time(1.0)
        end(world, keys[-1])
    assert sorted(world.ended) == keys[2:]


def test_finished_tasks_beyond_the_age_go_at_the_next_cleaning() -> None:
    world = open_world(max_finished_age=10.0, cleanup_interval=4.0)
    key = submit(world)
    end(world, key)
    world.pass_time(9.0)
    world.ring()
    assert key in world.ended
    world.pass_time(1.0)
    world.ring()
    assert key not in world.disk


def test_a_limit_of_0_keeps_all() -> None:
    world = open_world(max_finished=0, cleanup_interval=1.0)
    for _ in range(4):
        end(world, submit(world))
    world.pass_time(1e6)
    world.ring()
    assert len(world.ended) == 4


def test_retention_works_in_slices_until_all_is_done() -> None:
    many = 2 * DELETES_PER_STEP + 100
    world = open_world(max_finished=0)
    keys = IdSource(1).take(many, world.now)
    done = TaskState(Status.CANCELLED, 5, finished_at=world.now)
    world.disk = {key: Stored(spec(), done) for key in keys}
    world.ended = set(keys)
    world.shape = Shape(world.shape.hosts, limits=Limits(max_finished=10))
    world.limits_hold = lambda: None  # type: ignore[method-assign]  # not before the last slice
    sizes = []
    world.crash()
    while len(world.ended) > 10:
        sizes.append(len(world.ended))
        world.ring()
    assert sizes == [many - DELETES_PER_STEP, many - 2 * DELETES_PER_STEP]
    assert sorted(world.ended) == list(keys)[-10:]


# --- a model that is not everywhere
def test_a_model_missing_on_one_host_is_looked_for_on_another_and_costs_no_retry() -> None:
    world = open_world(hosts=2)
    key = submit(world, max_retries=0)
    end(world, key, ABSENT)
    was = state(world, key)
    assert (was.status, was.host, was.retry_count) == (Status.RUNNING, "h2", 0)
    assert [(a.host, a.outcome, a.code) for a in was.attempts] == [
        ("h1", "not_here", "model_not_found"),
        ("h2", "", None),
    ]
    end(world, key)
    assert state(world, key).status is Status.COMPLETED


def test_a_model_missing_everywhere_fails_once_every_host_said_so() -> None:
    world = open_world(hosts=3)
    key = submit(world, max_retries=3)
    for _ in range(3):
        end(world, key, ABSENT)
    was = state(world, key)
    assert (was.status, was.error_code) == (Status.FAILED, "model_not_found")
    assert [a.host for a in was.attempts] == ["h1", "h2", "h3"]
    assert [a.outcome for a in was.attempts] == ["not_here", "not_here", "failed"]
    assert was.error is not None
    assert was.error.endswith("(no other model server has it either)")


def test_with_one_host_a_missing_model_fails_at_once_in_its_own_words() -> None:
    world = open_world()
    key = submit(world)
    end(world, key, ABSENT)
    assert (state(world, key).status, state(world, key).error) == (Status.FAILED, ABSENT.error)


def test_later_tasks_go_past_the_host_that_lacks_their_model() -> None:
    world = open_world(hosts=2)
    first = submit(world)
    end(world, first, ABSENT)
    end(world, first)
    second, third = submit(world), submit(world)
    assert (state(world, second).host, state(world, third).status) == ("h2", Status.PENDING)
    other = submit(world, model="b")
    assert state(world, other).host == "h1", "other models still go there"


def test_a_host_is_asked_again_after_a_while() -> None:
    world = open_world(hosts=2)
    first = submit(world)
    end(world, first, ABSENT)
    waits = submit(world)
    assert state(world, waits).status is Status.PENDING
    world.pass_time(ABSENT_SECONDS)
    world.ring()
    assert state(world, waits).host == "h1"


def test_a_missing_model_waits_for_a_host_that_is_down_since_that_may_have_it() -> None:
    world = open_world(hosts=2)
    key = submit(world)
    end(world, key, GONE)
    assert state(world, key).host == "h2"
    end(world, key, ABSENT)
    assert state(world, key).status is Status.PENDING
    waiting = why_waiting(world.schedule, key)
    assert waiting is not None
    assert (waiting.reason, waiting.hosts, waiting.error) == ("model_missing", ("h1",), "no route")
    world.pass_time(PROBE_SECONDS)
    world.ring()
    read_all(world)
    world.answer_probe("h1", True)
    assert state(world, key).host == "h1"


def test_what_a_host_said_before_a_task_began_to_look_does_not_fail_it() -> None:
    """The model may have been pulled in between."""
    world = open_world(hosts=2)
    first = submit(world)
    end(world, first, ABSENT)
    end(world, first, ABSENT)
    assert state(world, first).status is Status.FAILED
    world.pass_time(1.0)
    world.retry(first)
    tried = state(world, first).host
    end(world, first, ABSENT)
    assert state(world, first).status is Status.RUNNING
    assert state(world, first).host != tried
    end(world, first)
    assert state(world, first).status is Status.COMPLETED


def test_of_many_tasks_for_a_missing_model_each_is_asked_for_once_at_most_after_the_first() -> None:
    world = open_world(hosts=2)
    world.pause()
    keys = [submit(world) for _ in range(6)]
    world.resume()
    asked = 0
    while running := [key for key in keys if state(world, key).status is Status.RUNNING]:
        end(world, running[0], ABSENT)
        asked += 1
    assert {state(world, key).status for key in keys} == {Status.FAILED}
    assert asked <= len(keys) + 2


def test_what_hosts_lack_is_bounded() -> None:
    world = open_world(hosts=2)
    for number in range(ABSENT_KEPT + 5):
        key = submit(world, model=f"m{number}")
        end(world, key, ABSENT)
        end(world, key, ABSENT)
    assert {len(host.absent) for host in world.schedule.hosts.values()} == {ABSENT_KEPT}


# --- embed tasks that ask for the same (rule 7)
def embeds(world: World, count: int, **fields: object) -> list[int]:
    found = world.submit([embed(**fields)] * count)  # type: ignore[arg-type]
    return list(found)


def states(world: World, keys: list[int]) -> list[str]:
    return [str(state(world, key).status) for key in keys]


def test_so_many_go_along_with_one_call_and_those_after_them_with_the_next() -> None:
    world = open_world()
    keys = embeds(world, COPIES + 2) + embeds(world, 1)
    assert states(world, keys) == ["running"] * (1 + COPIES) + ["pending"] * 2
    end(world, keys[0])
    assert states(world, keys) == ["completed"] * (1 + COPIES) + ["running"] * 2


def test_what_came_while_the_queue_was_paused_joins_when_it_goes_on() -> None:
    world = open_world()
    (first,) = embeds(world, 1)
    world.pause()
    (second,) = embeds(world, 1)
    assert states(world, [second]) == ["pending"]
    world.resume()
    assert states(world, [first, second]) == ["running"] * 2


def test_what_comes_while_a_call_is_being_stopped_is_computed_anew_and_then_joined() -> None:
    world = open_world(slots=2)
    (first,) = embeds(world, 1)
    read_all(world)
    world.cancel(first)
    (second,) = embeds(world, 1)
    assert sum(len(seat.held) for seat in world.seats.values()) == 2
    read_all(world)
    world.finish(first, 1, Interrupted())
    (third,) = embeds(world, 1)
    assert states(world, [second, third]) == ["running"] * 2
    assert sum(len(seat.held) for seat in world.seats.values()) == 1


def test_a_task_joins_from_wherever_it_waits_in_the_queue() -> None:
    world = open_world()
    blocker = submit(world, priority=20)
    first, between, last = embeds(world, 1, priority=9), submit(world), embeds(world, 1, priority=1)
    end(world, blocker)
    assert states(world, [*first, between, *last]) == ["running", "pending", "running"]


def test_a_task_that_is_run_again_while_its_first_attempt_is_computed_gets_that_answer() -> None:
    world = open_world()
    first, second = embeds(world, 2)
    read_all(world)
    world.cancel(first)
    world.retry(first)
    assert states(world, [first, second]) == ["running"] * 2
    world.finish(first, 1, DONE)
    assert states(world, [first, second]) == ["completed"] * 2
    assert state(world, first).attempts[-1].number == 2


def test_tasks_with_the_same_time_become_pending_in_slices_one_right_after_the_other() -> None:
    world = open_world()
    world.pause()
    due = world.now + 60
    keys = [key for _ in range(5) for key in world.submit([spec(run_at=due)] * (PROMOTED_PER_STEP // 2))]
    world.pass_time(60)
    waiting = []
    for _ in range(3):
        world.ring()
        waiting.append(sum(state(world, key).status is Status.PENDING for key in keys))
    assert waiting == [PROMOTED_PER_STEP, 2 * PROMOTED_PER_STEP, len(keys)]


def test_a_retry_does_not_wait_for_a_clock_that_was_wrong_before_the_restart() -> None:
    world = open_world()
    retried, later = submit(world), submit(world, run_at=world.now + 7200)
    end(world, retried, BUSY)
    due = state(world, later).run_at
    world.now -= 365 * 86400
    world.crash()
    assert state(world, later).run_at == due  # asked for
    assert state(world, retried).status is Status.SCHEDULED
    world.pass_time(RetryPolicy().max_delay)
    world.ring()
    assert state(world, retried).status is Status.RUNNING
