"""The simulated fleet waits for what real services wait for."""

import pytest

from benchmarks.fleet_simulation import Costs, simulate
from benchmarks.options import Options, Scale
from benchmarks.suites.fleet import make_subsets, run

NOTHING = Costs(network_ms=0, score_ms=0, message_ms=0, step_ms=0)


def test_alone_a_generator_waits_for_the_slower_forward() -> None:
    outcome = simulate([[0]], Costs(10, 14, 0, 0, 0, 0), num_steps=5)
    assert outcome.mean_ms == pytest.approx(14)
    outcome = simulate([[0]], Costs(10, 8, 0.2, 0.3, 0.6, 1.0), num_steps=5)
    assert outcome.mean_ms == pytest.approx(10 + 2 * 0.2 + 0.3 + 2 * 0.2 + 1.0)


def test_a_step_ends_with_the_last_of_its_replicas() -> None:
    costs = Costs(10, 10, 0, 0, message_ms=3.0, step_ms=0)
    # The last commit leaves 4 ms after the first, and 4 ms go to the answers.
    assert simulate([[0, 1, 2, 3]], costs, num_steps=5).mean_ms == pytest.approx(10 + 4 + 4)


def test_generators_that_share_a_replica_wait_for_each_others_forwards() -> None:
    assert simulate([[0], [0]], NOTHING, num_steps=10).mean_ms == pytest.approx(20, rel=0.01)


@pytest.mark.parametrize("is_grouped", [True, False])
def test_every_replica_serves_as_many_generators(is_grouped: bool) -> None:
    subsets = make_subsets(12, 4, is_grouped=is_grouped)
    assert len(subsets) == 12
    assert {place for subset in subsets for place in subset} == set(range(12))
    assert all(len(subset) == len(set(subset)) <= 4 for subset in subsets)


def test_the_suite_compares_ways_to_spread() -> None:
    report = run(Options(Scale.TINY))
    assert {result.contender for result in report.results} == {"random replicas", "groups"}
    assert all(result.values("step_ms")[0] > 10 for result in report.results)
