"""Prices of a gain, and gains at equal prices."""

from dataclasses import replace

import numpy as np
import pytest

from evaluation.records import Setting
from evaluation.summary import pad_curve, sweep_table, text_table
from evaluation.trade import (
    fluency_table,
    kl_per_token,
    match_cost,
    match_kl,
    pareto,
    price_table,
    relative_cost,
)
from tests.evaluation.made_replies import MAIN, PROMPTS, World

STRONG = replace(MAIN, beta=2.0)
PROMPT, BEST = Setting("prompt"), Setting("best-of-n", "prompt", n=4)


def test_kl_is_weighted_by_the_length_of_the_replies() -> None:
    world = World()
    world.add_users(MAIN, 0.5, PROMPTS[:1], num_tokens=30, kl_per_token=0.1)
    world.add_users(MAIN, 0.5, PROMPTS[1:2], num_tokens=10, kl_per_token=0.5)
    assert kl_per_token(world.measured(), MAIN)[0] == pytest.approx(0.2)


def test_cost_is_relative_to_the_base_on_the_same_prompts() -> None:
    world = World()
    world.replies[7] = replace(world.replies[7], model_tokens=9_000)
    world.add_users(MAIN, 0.5, PROMPTS[:2], model_tokens=60, num_tokens=20)
    assert relative_cost(world.measured(), MAIN)[0] == pytest.approx(1.5)


def test_perplexity_ratio_and_share_of_proper_ends() -> None:
    world = World()
    world.add_users(MAIN, 0.5, PROMPTS[:4], loss=20.0)
    world.replies[-1] = replace(world.replies[-1], ended=False)
    world.replies[-2] = replace(world.replies[-2], text="The")
    table = fluency_table(world.measured(), MAIN)
    assert table["perplexity"]["value"] == pytest.approx(np.exp(2.0), abs=1e-3)
    assert table["perplexity_ratio"]["value"] == pytest.approx(np.e, abs=1e-3)
    assert table["ends_properly"]["value"] == pytest.approx(1 - 2 / 48, abs=1e-4)
    assert table["tokens"]["value"] == 10


def test_replies_that_nobody_judged_have_no_perplexity() -> None:
    world = World()
    world.add_users(MAIN, 0.5)
    world.losses = [(np.nan, np.nan)] * len(world.losses)
    assert fluency_table(world.measured(), MAIN)["perplexity_ratio"]["value"] is None


def matched_world() -> World:
    world = World()
    world.add_users(MAIN, 0.5, kl_per_token=0.1, model_tokens=60)
    world.add_users(STRONG, 1.0, kl_per_token=0.3, model_tokens=60)
    world.add_users(PROMPT, 0.5, kl_per_token=0.2)
    world.add_users(BEST, 0.3, kl_per_token=0.9, model_tokens=100)
    return world


def test_gain_at_equal_kl_is_interpolated_over_beta() -> None:
    match = match_kl(matched_world().measured(), [MAIN, STRONG], PROMPT)
    assert match is not None
    assert match["price"] == 0.2
    assert match["other_gain"]["value"] == 1.0
    assert match["pad_gain"]["value"] == 1.5
    assert match["difference"]["value"] == 0.5
    assert match["within"]


def test_a_curve_begins_at_no_kl_and_no_gain() -> None:
    match = match_kl(matched_world().measured(), [STRONG], PROMPT)
    assert match is not None
    assert match["pad_gain"]["value"] == pytest.approx(2.0 * 0.2 / 0.3, abs=1e-3)


def test_beyond_the_largest_beta_nothing_is_extrapolated() -> None:
    match = match_kl(matched_world().measured(), [MAIN, STRONG], BEST)
    assert match is not None
    assert match["pad_gain"]["value"] == 2.0
    assert not match["within"]
    assert "less KL" in match["note"]


def test_gain_at_equal_cost_is_interpolated_over_n() -> None:
    match = match_cost(matched_world().measured(), MAIN, [BEST])
    assert match is not None
    assert match["price"] == 3.0  # the base costs 1, best-of-4 costs 5 and gains 0.6
    assert match["other_gain"]["value"] == pytest.approx(0.3)
    assert match["difference"]["value"] == pytest.approx(0.7)


def test_settings_are_matched_on_the_prompts_they_share() -> None:
    """The base's replies to those prompts are all alike: its deviation is that over all prompts."""
    world = World()
    world.add_users(MAIN, 0.5, PROMPTS[::2], kl_per_token=0.2)
    world.add_users(PROMPT, 0.5, PROMPTS[::2], kl_per_token=0.2)
    world.add_users(PROMPT, 9.0, PROMPTS[1::2], kl_per_token=0.2)
    match = match_kl(world.measured(), [MAIN], PROMPT)
    assert match is not None
    assert match["other_gain"]["value"] == match["pad_gain"]["value"] == 1.0


def test_no_match_without_a_gain() -> None:
    assert match_kl(World().measured(), [], PROMPT) is None


def test_the_front_holds_what_nothing_beats() -> None:
    points = [(0.1, 1.0), (0.2, 0.9), (0.2, 2.0), (0.3, 2.0)]
    assert pareto(points) == [True, False, True, False]
    assert pareto([(0.1, 1.0), (0.1, 1.0)]) == [True, True]


def test_the_sweep_holds_the_main_variant_at_every_beta_and_k() -> None:
    world = matched_world()
    world.add_users(replace(MAIN, k=5), 0.1, kl_per_token=0.2)
    world.add_users(replace(MAIN, variant="vector"), 0.1)
    measured = world.measured()
    assert pad_curve(measured, MAIN) == [MAIN, STRONG]
    rows = sweep_table(measured, MAIN, text_table(measured))
    assert {(row["beta"], row["k"]): row["on_front_kl"] for row in rows} == {
        (1.0, 5): False,
        (1.0, 10): True,
        (2.0, 10): True,
    }


def test_prices_stand_in_a_table() -> None:
    table = price_table(matched_world().measured(), MAIN)
    assert table["kl_per_token"]["value"] == 0.1
    assert table["relative_tokens"]["value"] == 3.0
    assert table["relative_seconds"]["value"] == 1.0
