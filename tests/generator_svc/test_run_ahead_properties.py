"""Whether to run ahead is what the written-out expectation says, for any measurements."""

import math

from hypothesis import assume, given
from hypothesis import strategies as st

from generator_svc.engine.run_ahead import MIN_STEPS, SMOOTHING, RunAhead
from generator_svc.engine.scorer import RewardTimes

SECONDS = st.floats(1e-6, 10.0)
SHARE = st.floats(0.0, 1.0)
Step = tuple[float, float, int, float, float, float]
"""(forward, wait, rows, share kept, the reward model's forward, share of the wait for it)."""
STEP = st.tuples(SECONDS, SECONDS, st.integers(1, 64), SHARE, SECONDS, SHARE)
STEPS = st.lists(STEP, min_size=1, max_size=60)


def measured(steps: list[Step], scale: float = 1.0) -> RunAhead:
    policy = RunAhead(is_allowed=True)
    for forward_s, wait_s, num_rows, share, reward_s, queue_share in steps:
        policy.note_forward(scale * forward_s)
        times = RewardTimes(scale * reward_s, scale * wait_s * queue_share)
        policy.note_step(scale * wait_s, round(share * num_rows), num_rows, times)
    return policy


def naive_margin(steps: list[Step], num_rows: int) -> float:
    """Return by how much a step with a guess is shorter, as a share of one without."""
    forward_s = reward_s = wait_s = kept = 0.0
    for i, (its_forward_s, its_wait_s, its_rows, share, its_reward_s, queued) in enumerate(steps):
        before = max(SMOOTHING, 1 / max(1, i))
        after = max(SMOOTHING, 1 / (i + 1))
        forward_s = (1 - before) * forward_s + before * its_forward_s
        reward_s = (1 - after) * reward_s + after * its_reward_s
        wait_s = (1 - after) * wait_s + after * (its_wait_s - its_wait_s * queued)
        kept = (1 - after) * kept + after * round(share * its_rows) / its_rows
    longest_s = max(forward_s, reward_s)
    without = longest_s + wait_s
    with_guess = max(longest_s, wait_s) + (1 - kept**num_rows) * longest_s
    return (without - with_guess) / without


@given(STEPS, st.integers(1, 64))
def test_it_pays_exactly_where_the_expected_step_is_shorter(
    steps: list[Step], num_rows: int
) -> None:
    policy = measured(steps)
    if len(steps) < MIN_STEPS:
        assert not policy.pays(num_rows)
        return
    margin = naive_margin(steps, num_rows)
    assume(not math.isclose(margin, 0.0, abs_tol=1e-9))
    assert policy.pays(num_rows) is (margin > 0)


@given(STEPS, st.integers(1, 63))
def test_what_pays_for_many_rows_pays_for_fewer(steps: list[Step], num_rows: int) -> None:
    policy = measured(steps)
    assert policy.pays(num_rows) or not policy.pays(num_rows + 1)


@given(STEPS, st.integers(1, 64), st.sampled_from([0.25, 0.5, 2.0, 1024.0]))
def test_the_unit_of_time_does_not_matter(steps: list[Step], num_rows: int, scale: float) -> None:
    assert measured(steps).pays(num_rows) is measured(steps, scale).pays(num_rows)


@given(STEPS, st.integers(1, 64))
def test_it_never_pays_where_it_is_not_allowed(steps: list[Step], num_rows: int) -> None:
    policy = measured(steps)
    policy.is_allowed = False
    assert not policy.pays(num_rows)
