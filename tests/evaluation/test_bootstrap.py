import numpy as np
import pytest

from evaluation.bootstrap import Resampler, figure, is_above, is_below, no_figure


def test_draw_zero_is_the_sample_and_every_draw_has_as_many_prompts() -> None:
    resampler = Resampler(["a", "b", "c"], 50)
    assert resampler.weights.shape == (51, 3)
    assert resampler.weights[0].tolist() == [1, 1, 1]
    assert (resampler.weights.sum(1) == 3).all()
    assert resampler.means([1.0, 2.0, 6.0])[0] == 3.0


def test_means_leave_out_what_is_missing_and_weigh_rows_not_prompts() -> None:
    resampler = Resampler(["a", "b"], 10)
    rows = resampler.rows(["a", "a", "a", "b"])
    assert resampler.means([1.0, 1.0, np.nan, 4.0], rows)[0] == 2.0


def test_a_draw_repeats_whole_prompts() -> None:
    resampler = Resampler(["a", "b"], 100, seed=3)
    rows = resampler.rows(["a", "a", "b"])
    means = resampler.means([1.0, 0.0, 4.0], rows)
    expected = {(1, 1): 5 / 3, (2, 0): 0.5, (0, 2): 4.0}
    for weights, mean in zip(resampler.weights, means, strict=True):
        assert mean == pytest.approx(expected[tuple(int(w) for w in weights)])


def test_the_same_seed_gives_the_same_interval_and_another_does_not() -> None:
    values = np.random.default_rng(0).normal(size=30)
    names = [str(i) for i in range(30)]
    one, two, other = (figure(Resampler(names, 200, seed).means(values), 30) for seed in (1, 1, 2))
    assert one == two
    assert one["value"] == other["value"]
    assert one["low"] != other["low"]


def test_95_percent_intervals_hold_the_mean_in_about_95_of_100_samples() -> None:
    rng = np.random.default_rng(5)
    hits = 0
    for seed in range(200):
        cluster = rng.normal(size=(40, 1))
        values = (cluster + 0.1 * rng.normal(size=(40, 5))).ravel()
        resampler = Resampler([str(i) for i in range(40)], 200, seed)
        one = figure(resampler.means(values, np.repeat(np.arange(40), 5)), 200)
        assert one["low"] is not None
        assert one["high"] is not None
        hits += one["low"] <= 0.0 <= one["high"]
    assert 178 <= hits <= 199  # taking the 200 values for independent gives about 120


def test_nothing_measured_has_no_value_and_is_neither_above_nor_below() -> None:
    empty = figure(np.array([np.nan, 1.0]), 0)
    assert empty == no_figure()
    assert not is_above(empty, -9.0)
    assert not is_below(empty, 9.0)


def test_a_single_observation_has_no_interval() -> None:
    assert figure(np.array([2.0, 2.0]), 1) == {"value": 2.0, "low": None, "high": None, "n": 1}


def test_clusters_must_be_distinct_and_some() -> None:
    with pytest.raises(ValueError, match="distinct"):
        Resampler(["a", "a"])
    with pytest.raises(ValueError, match="at least one, got 0"):
        Resampler([])
