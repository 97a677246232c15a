"""Running ahead is chosen by what a step takes without it and with it."""

import pytest

from generator_svc.engine.run_ahead import MIN_STEPS, RunAhead
from generator_svc.engine.scorer import RewardTimes


def measured(forward_s: float, wait_s: float, kept: int, rows: int) -> RunAhead:
    policy = RunAhead(is_allowed=True)
    for _ in range(200):
        policy.note_forward(forward_s)
        policy.note_step(wait_s, kept, rows)
    return policy


@pytest.mark.parametrize(
    ("wait_s", "kept", "num_rows", "pays"),
    [
        (0.005, 10, 1, True),  # nothing is changed: the wait is hidden
        (0.005, 8, 1, True),  # 10 + 0.2 * 10 < 10 + 5
        (0.001, 8, 1, False),  # 10 + 0.2 * 10 > 10 + 1
        (0.005, 8, 4, False),  # one of four is nearly always changed
        (0.030, 5, 1, True),  # rewards take longer than the forward
    ],
)
def test_it_pays_where_the_expected_step_is_shorter(
    wait_s: float, kept: int, num_rows: int, pays: bool
) -> None:
    assert measured(0.010, wait_s, kept, 10).pays(num_rows) is pays


@pytest.mark.parametrize(
    ("reward_s", "queue_s", "kept", "pays"),
    [
        (0.020, 0.010, 5, False),  # 20 + 0.5 * 20 > 20 + 2: the wait is for its forward
        (0.020, 0.010, 10, True),  # 20 < 20 + 2
        (0.008, 0.0, 5, True),  # 12 + 0.5 * 10 < 10 + 12: the wait is for the network
    ],
)
def test_what_is_waited_for_the_reward_models_forward_cannot_be_hidden(
    reward_s: float, queue_s: float, kept: int, pays: bool
) -> None:
    policy = RunAhead(is_allowed=True)
    for _ in range(200):
        policy.note_forward(0.010)
        policy.note_step(0.012, kept, 10, RewardTimes(reward_s, queue_s))
    assert policy.pays(1) is pays


def test_nothing_is_guessed_before_something_is_known_or_where_it_is_not_allowed() -> None:
    policy = RunAhead(is_allowed=True)
    for _ in range(MIN_STEPS - 1):
        policy.note_forward(0.01)
        policy.note_step(0.01, 1, 1)
    assert not policy.pays(1)
    policy.note_step(0.01, 1, 1)
    assert policy.pays(1)
    policy.is_allowed = False
    assert not policy.pays(1)
