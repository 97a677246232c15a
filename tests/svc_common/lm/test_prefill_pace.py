"""Prompts take as many tokens of a step as fit into its seconds."""

from dataclasses import dataclass

from svc_common.lm.linear import filled_up
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


def test_prompts_and_rows_are_a_number_that_is_run_as_it_is() -> None:
    pace = PrefillPace(1024, 0.05, Clock())
    num_fitted = 0
    for num_rows in range(1, 300):
        for left in (1, 16, 80, 256):
            pace.left = left
            pace.fit_beside(num_rows)
            assert left / 2 <= pace.left <= left
            is_exact = filled_up(pace.left + num_rows) == max(pace.left + num_rows, 4)
            assert is_exact or pace.left == left
            num_fitted += is_exact
    assert num_fitted > 0.7 * 4 * 299


ROW_S, TOKEN_S = 0.004, 0.0005


def run_beside(pace: PrefillPace, clock: Clock, num_rows: int) -> tuple[int, bool]:
    """Run a step with rows, which run by themselves where the pace asks for it.

    Returns:
        How many prompt tokens it took, and whether they ran with the rows.
    """
    pace.begin_step(delays_others=True)
    num_tokens = pace.left
    is_joined = pace.can_tell_apart(num_rows)
    if not is_joined:
        with pace.measure_rows(num_rows):
            clock.now += num_rows * ROW_S
    with pace.measure(num_tokens, num_rows if is_joined else 0):
        clock.now += num_tokens * TOKEN_S + is_joined * num_rows * ROW_S
    pace.spend(num_tokens)
    return num_tokens, is_joined


def test_what_rows_take_by_themselves_is_not_what_prompts_add() -> None:
    clock = Clock()
    pace = PrefillPace(256, 0.05, clock)
    steps = [run_beside(pace, clock, 8) for _ in range(100)]
    assert steps[0] == (MIN_TOKENS, False)  # nothing is known of either
    assert {num_tokens for num_tokens, _ in steps[20:]} == {96}  # 48 ms of the 50
    assert sum(not is_joined for _, is_joined in steps) == 4  # one of 32, as rows grow longer


def test_rows_are_measured_where_their_number_has_doubled_or_halved() -> None:
    clock = Clock()
    pace = PrefillPace(256, 0.05, clock)
    joined = [run_beside(pace, clock, num_rows)[1] for num_rows in (4, 6, 8, 9, 18, 5, 4, 9)]
    assert joined == [False, True, True, False, True, True, False, False]


def test_more_rows_than_were_measured_make_prompts_slower_not_faster() -> None:
    clock = Clock()
    pace = PrefillPace(256, 0.05, clock)
    for _ in range(20):
        run_beside(pace, clock, 8)
    assert MIN_TOKENS <= [run_beside(pace, clock, 16) for _ in range(5)][-1][0] < 96


def test_rows_that_were_slow_once_are_measured_anew() -> None:
    clock = Clock()
    pace = PrefillPace(256, 0.05, clock)
    for _ in range(20):
        run_beside(pace, clock, 8)
    with pace.measure_rows(8):
        clock.now += 10.0
    steps = [run_beside(pace, clock, 8) for _ in range(20)]
    assert [is_joined for _, is_joined in steps[:3]] == [True, False, True]
    assert max(num_tokens for num_tokens, _ in steps) <= 2 * 96
    assert steps[-1][0] == 96


def test_few_tokens_are_measured_as_the_forward_they_cost() -> None:
    clock = Clock()
    pace = PrefillPace(256, 0.05, clock)
    pace.begin_step(delays_others=False)
    with pace.measure(2):
        clock.now += 0.008
    pace.begin_step(delays_others=True)
    assert pace.left == 96  # not 12
