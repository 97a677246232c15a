"""Prompts take as many tokens of a step as fit into its seconds."""

from dataclasses import dataclass

from svc_common.lm.prefill_pace import MIN_TOKENS, PrefillPace


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def run_step(
    pace: PrefillPace, clock: Clock, token_s: float, overhead_s: float = 0.0, *, alone: bool = False
) -> int:
    """Run a step that takes all tokens it may, at a speed; return how many it took."""
    pace.begin_step(delays_others=not alone)
    num_tokens = pace.left
    with pace.measure(num_tokens):
        clock.now += overhead_s + num_tokens * token_s
    pace.spend(num_tokens)
    assert pace.left == 0
    return num_tokens


def test_a_step_that_delays_nobody_takes_all_it_may() -> None:
    clock = Clock()
    pace = PrefillPace(256, 0.05, clock)
    assert [run_step(pace, clock, 10.0, alone=True) for _ in range(3)] == [256] * 3


def test_a_step_that_others_wait_for_takes_what_fits_into_its_seconds() -> None:
    for token_s, expected in ((1e-6, 256), (0.0005, 96), (0.001, 48), (0.01, MIN_TOKENS)):
        clock = Clock()
        pace = PrefillPace(256, 0.05, clock)
        run_step(pace, clock, token_s, alone=True)
        assert run_step(pace, clock, token_s) == expected
        assert run_step(pace, clock, token_s, alone=True) == 256


def test_nothing_is_known_at_first_so_the_least_is_taken() -> None:
    pace = PrefillPace(256, 0.05, Clock())
    pace.begin_step(delays_others=True)
    assert pace.left == MIN_TOKENS
    small = PrefillPace(4, 0.05, Clock())
    small.begin_step(delays_others=True)
    assert small.left == 4


def test_the_bound_holds_where_every_forward_costs_something_by_itself() -> None:
    clock = Clock()
    pace = PrefillPace(256, 0.05, clock)
    run_step(pace, clock, 0.0004, 0.02, alone=True)
    taken = [run_step(pace, clock, 0.0004, 0.02) for _ in range(30)]
    assert 0.03 < 0.02 + taken[-1] * 0.0004 <= 0.05


def test_a_slow_step_is_forgotten() -> None:
    clock = Clock()
    pace = PrefillPace(256, 0.05, clock)
    run_step(pace, clock, 0.0005, alone=True)
    run_step(pace, clock, 0.05)
    assert run_step(pace, clock, 0.0005) == MIN_TOKENS
    assert [run_step(pace, clock, 0.0005) for _ in range(20)][-1] > 80


def test_few_tokens_are_measured_as_the_forward_they_cost() -> None:
    clock = Clock()
    pace = PrefillPace(256, 0.05, clock)
    pace.begin_step(delays_others=False)
    with pace.measure(2):
        clock.now += 0.008
    pace.begin_step(delays_others=True)
    assert pace.left == 96  # not 12
