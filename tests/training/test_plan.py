import pytest

from training.plan import plan_groups, rate_share
from training.recipe import Schedule

LENGTHS = [10 + i % 30 for i in range(100)]
SCHEDULE = Schedule(num_steps=20, tokens_per_group=120, pairs_per_group=4, groups_per_step=3)


def test_a_phase_has_its_groups_within_the_limits() -> None:
    groups = plan_groups(LENGTHS, SCHEDULE, seed=1)
    assert len(groups) == 60
    assert all(len(group) <= 4 for group in groups)
    assert all(max(LENGTHS[i] for i in group) * len(group) <= 120 for group in groups)


def test_every_item_comes_once_before_any_comes_again() -> None:
    groups = plan_groups(LENGTHS, SCHEDULE, seed=1)
    items = [item for group in groups for item in group]
    assert sorted(items[:100]) == list(range(100))


def test_the_seed_decides_the_order() -> None:
    assert plan_groups(LENGTHS, SCHEDULE, seed=1) == plan_groups(LENGTHS, SCHEDULE, seed=1)
    assert plan_groups(LENGTHS, SCHEDULE, seed=1) != plan_groups(LENGTHS, SCHEDULE, seed=2)


def test_the_rate_warms_up_and_falls_to_its_floor() -> None:
    schedule = Schedule(num_steps=100, warmup_steps=4, final_lr_share=0.1)
    shares = [rate_share(step, schedule) for step in range(100)]
    assert shares[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert shares == sorted(shares[:5]) + sorted(shares[5:], reverse=True)
    assert shares[-1] == pytest.approx(0.1, abs=0.001)
