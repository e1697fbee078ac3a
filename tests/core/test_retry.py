from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from oq.core.retry import RetryPolicy

policies = st.builds(
    RetryPolicy,
    initial_delay=st.floats(0, 1e6),
    max_delay=st.floats(0, 1e6),
    backoff_factor=st.floats(1, 100),
    jitter=st.floats(0, 1),
)


def test_each_pause_is_the_factor_times_the_one_before_up_to_the_ceiling() -> None:
    policy = RetryPolicy(initial_delay=1.5, max_delay=20.0, backoff_factor=3.0)
    assert [policy.delay(attempt) for attempt in range(1, 6)] == [1.5, 4.5, 13.5, 20.0, 20.0]


def test_jitter_moves_a_pause_by_its_fraction_at_most_and_not_at_all_in_the_middle() -> None:
    policy = RetryPolicy(initial_delay=10.0, jitter=0.2)
    assert [policy.delay(1, luck) for luck in (0.0, 0.5, 1.0)] == [8.0, 10.0, 12.0]


@given(policies, st.integers(1, 100_000), st.floats(0, 1))
def test_a_pause_is_a_time_between_0_and_the_ceiling(policy: RetryPolicy, attempt: int, luck: float) -> None:
    pause = policy.delay(attempt, luck)
    assert 0.0 <= pause <= policy.max_delay
    assert math.isfinite(pause)


def test_a_longer_pause_that_was_asked_for_is_kept_up_to_the_ceiling() -> None:
    policy = RetryPolicy(initial_delay=2.0, max_delay=60.0)
    assert [policy.delay(1, 0.5, asked) for asked in (0.0, 1.0, 20.0, 3600.0)] == [2.0, 2.0, 20.0, 60.0]


def test_jitter_also_keeps_those_apart_that_have_reached_the_ceiling() -> None:
    policy = RetryPolicy(max_delay=10.0, jitter=0.2)
    assert [policy.delay(50, luck) for luck in (0.0, 0.5, 1.0)] == [8.0, 10.0, 10.0]


def test_a_thousand_retries_with_the_largest_factor_do_not_overflow() -> None:
    assert RetryPolicy(max_delay=60.0, backoff_factor=100.0).delay(1000) == 60.0


@given(policies, st.integers(1, 300))
def test_pauses_never_get_shorter(policy: RetryPolicy, attempt: int) -> None:
    assert policy.delay(attempt) <= policy.delay(attempt + 1)
