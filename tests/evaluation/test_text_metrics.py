"""Shifts, gaps and counts on replies whose scores are known."""

import numpy as np
import pytest

from evaluation.bootstrap import is_above
from evaluation.records import Setting
from evaluation.scorers import DIMENSIONS
from evaluation.text_metrics import (
    both_moved,
    cross_talk,
    directions_table,
    mean_gap,
    moved_right,
    own_shift,
    shifts,
    swap_gap,
    untrained_table,
    win_rate,
    wishes_table,
)
from tests.evaluation.made_replies import MAIN, PROMPTS, World, base_score, reply


@pytest.fixture
def world() -> World:
    made = World()
    made.add_users(MAIN, 0.5)
    return made


def test_shift_is_in_deviations_of_the_base_and_turned_to_the_wish(world: World) -> None:
    measured = world.measured()
    assert own_shift(measured, MAIN, "brevity:short", "brevity:short")[0] == pytest.approx(0.5)
    assert shifts(measured, MAIN, "brevity:short")[0].tolist() == pytest.approx([-0.5, *[0.0] * 5])
    assert shifts(measured, MAIN, "brevity:short", plain=True)[0, 0] == pytest.approx(-0.5)


def test_the_unit_is_not_resampled(world: World) -> None:
    """Everybody moves by the same: draws in which the base varies less must not say more."""
    row = directions_table(world.measured(), MAIN)["brevity:long"]["shift"]
    assert (row["low"], row["value"], row["high"]) == (0.5, 0.5, 0.5)


def test_gap_is_the_own_users_score_minus_the_opposite_ones(world: World) -> None:
    measured = world.measured()
    for dimension in DIMENSIONS:
        gap = swap_gap(measured, MAIN, dimension)
        assert gap is not None
        assert gap[0] == pytest.approx(1.0)
    mean = mean_gap(measured, MAIN)
    assert mean is not None
    assert mean[0] == pytest.approx(1.0)


def test_gap_is_unknown_without_both_users() -> None:
    world = World()
    world.add(reply(MAIN, "brevity:short", "e0"), [0.0] * 6)
    assert swap_gap(world.measured(), MAIN, "brevity") is None
    assert mean_gap(world.measured(), MAIN) is None


def test_moves_that_no_wish_asked_for_count_for_nothing() -> None:
    """Everybody gets longer, whoever asks: a shift for one, no gap, no win for the other."""
    world = World()
    for user in ("brevity:short", "brevity:long"):
        for i, prompt in enumerate(PROMPTS):
            world.add(reply(MAIN, user, prompt), [base_score(i) + 1.0] * 6)
    measured = world.measured()
    gap = swap_gap(measured, MAIN, "brevity")
    assert gap is not None
    assert gap[0] == 0.0
    table = directions_table(measured, MAIN)
    assert moved_right(table) == 1
    assert table["brevity:short"]["win_rate"]["value"] == 0.0
    assert table["brevity:long"]["win_rate"]["value"] == 1.0


def test_a_tie_is_half_a_win() -> None:
    world = World()
    for i, prompt in enumerate(PROMPTS):
        world.add(reply(MAIN, "detail:general", prompt), [base_score(i) - float(i < 2)] * 6)
    rate = win_rate(world.measured(), MAIN, "detail:general", "detail:general")
    assert rate[0] == pytest.approx((2 + 0.5 * 6) / 8)


def test_only_prompts_that_both_answered_are_compared() -> None:
    world = World()
    for i, prompt in enumerate(PROMPTS[:2]):
        world.add(reply(MAIN, "warmth:friendly", prompt), [base_score(i) + 3.0] * 6)
    shift = own_shift(world.measured(), MAIN, "warmth:friendly", "warmth:friendly")
    assert shift[0] == pytest.approx(3.0)


def test_a_shift_that_depends_on_the_prompt_has_an_interval_around_zero() -> None:
    world = World()
    for i, prompt in enumerate(PROMPTS):
        change = 4.0 if i in (1, 2) else -1.0
        world.add(reply(MAIN, "register:formal", prompt), [base_score(i) + change] * 6)
    row = directions_table(world.measured(1000), MAIN)["register:formal"]["shift"]
    assert row["value"] == pytest.approx(0.25)
    assert row["low"] is not None
    assert row["low"] < 0.0
    assert not is_above(row, 0.0)


def test_unseen_wordings_are_users_of_their_own(world: World) -> None:
    world.add_users(MAIN, 0.25, prefix="unseen:")
    table = directions_table(world.measured(), MAIN, "unseen:")
    assert len(table) == 12
    assert table["brevity:long"]["shift"]["value"] == pytest.approx(0.25)
    assert directions_table(world.measured(), MAIN)["brevity:long"]["shift"]["value"] == 0.5


def test_cross_talk_has_every_attribute_under_every_wish(world: World) -> None:
    table = cross_talk(world.measured(), MAIN)
    assert len(table) == 12
    for name, row in table.items():
        values = np.array([row[dimension]["value"] for dimension in DIMENSIONS])
        assert np.abs(values).tolist() == pytest.approx(
            [0.5 * (name.split(":")[0] == dimension) for dimension in DIMENSIONS]
        )


def test_both_wishes_of_a_persona_must_move_the_right_way() -> None:
    joined = Setting("pad", "prompt", 1.0, 10, multi="joined")
    world = World()
    wishes = ("brevity:short", "questions:asking")
    for i, prompt in enumerate(PROMPTS):
        right = [base_score(i)] * 6
        right[0] -= 1.0
        right[5] += 1.0
        half = [base_score(i)] * 6
        half[0] -= 1.0
        half[5] -= 0.5
        world.add(reply(joined, "p01", prompt, directions=wishes), right)
        world.add(reply(joined, "p02", prompt, directions=wishes), half)
        world.add(reply(joined, "unseen-persona-1", prompt, directions=wishes), right)
    table = wishes_table(world.measured(), joined)
    assert table["p02"]["questions:asking"]["value"] == pytest.approx(-0.5)
    assert both_moved(table, "p") == (1, 1, 2)
    assert both_moved(table, "unseen-persona") == (1, 1, 1)


def test_untrained_wishes_are_measured_on_the_text() -> None:
    world = World()
    for one in world.replies[:2]:
        object.__setattr__(one, "text", "Yes, fine.")
    for prompt in PROMPTS:
        world.add(reply(MAIN, "untrained-yes", prompt, "Yes."), [0.0] * 6)
    table = untrained_table(world.measured(), MAIN)
    share = 2 / 8
    expected = (1 - share) / (share * (1 - share)) ** 0.5
    assert table["yes"]["value"] == pytest.approx(expected, abs=1e-3)
    assert set(table) == {"yes"}


def test_an_attribute_on_which_the_base_never_varies_has_no_shift() -> None:
    world = World()
    world.scores = [[0.0] * 6 for _ in world.scores]
    world.add_users(MAIN, 1.0)
    world.scores = [[0.0] * 6 if i < len(PROMPTS) else s for i, s in enumerate(world.scores)]
    row = directions_table(world.measured(), MAIN)["brevity:long"]
    assert row["shift"]["value"] is None
    assert row["raw_shift"]["value"] is not None


def test_two_replies_of_one_user_to_one_prompt_are_refused(world: World) -> None:
    world.add(reply(MAIN, "brevity:short", "e0"), [0.0] * 6)
    with pytest.raises(ValueError, match="pad prompt b1 k10, user brevity:short: a prompt has two"):
        world.measured()
