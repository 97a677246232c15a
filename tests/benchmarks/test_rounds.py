"""Contenders are measured in turn, and what they gave is reduced rightly."""

import pytest

from benchmarks.rounds import (
    Cell,
    Result,
    interleave,
    quantile,
    ratios,
    spread,
    trapezoid_mean,
)

CELL = Cell("m", 1, 64)


def test_a_spread_is_median_and_extremes() -> None:
    found = spread([3.0, 1.0, 10.0, 2.0])
    assert (found.median, found.least, found.most) == (2.5, 1.0, 10.0)
    assert found.text(1) == "2.5 (1.0 .. 10.0)"


def test_ratios_are_within_a_round() -> None:
    assert ratios([2.0, 9.0], [1.0, 3.0]) == [2.0, 3.0]
    with pytest.raises(ValueError, match="shorter"):
        ratios([1.0, 2.0], [1.0])


def test_quantiles_are_values_that_were_measured() -> None:
    values = [float(n) for n in range(100, 0, -1)]
    assert quantile(values, 0.5) == 51.0
    assert quantile(values, 0.99) == 100.0
    assert quantile([7.0], 0.99) == 7.0


@pytest.mark.parametrize("places", [[0.0, 10.0], [0.0, 3.0, 4.0, 10.0]])
def test_the_mean_of_a_straight_line_is_exact_wherever_it_is_known(places: list[float]) -> None:
    assert trapezoid_mean(places, [2 * x + 1 for x in places]) == pytest.approx(11.0)


def test_the_mean_of_one_place_is_its_value() -> None:
    assert trapezoid_mean([5.0], [3.0]) == 3.0


def test_every_contender_is_measured_once_a_round_and_warm_up_is_left_out() -> None:
    calls: list[str] = []

    def contender(name: str) -> object:
        def measure() -> dict[str, float]:
            calls.append(name)
            return {"step_ms": float(len(calls))}

        return measure

    names = ["a", "b", "c"]
    made = {name: contender(name) for name in names}
    results = interleave(CELL, made, 4, num_warm_up=2)  # type: ignore[arg-type]
    rounds = [calls[i : i + 3] for i in range(0, len(calls), 3)]
    assert [sorted(one) for one in rounds] == [names] * 6
    assert len({tuple(one) for one in rounds}) > 1  # not always in one order
    assert [result.contender for result in results] == names
    for result in results:
        assert len(result.values("step_ms")) == 4
        assert min(result.values("step_ms")) > 6


def test_a_result_gives_the_quantities_it_has() -> None:
    result = Result(CELL, "a", [{"x": 1.0}, {"x": 2.0, "y": 3.0}])
    assert result.quantities == ["x", "y"]
    assert result.values("y") == [3.0]
