"""What a draft would have cost, counted on a text whose unchanged tokens are known."""

import pytest

from benchmarks.alternatives import count_rounds
from benchmarks.suites.alternatives import costs


@pytest.mark.parametrize(
    ("is_kept", "drafts", "num_rounds"),
    [
        ([True] * 8, 4, 2),
        ([False] * 8, 4, 8),  # each round ends with the correction of its first token
        ([True, True, False, True, True, True, False, True], 4, 3),  # 3 + 4 + 1
        ([True] * 5, 1, 5),
    ],
)
def test_a_round_ends_with_its_draft_or_with_the_first_correction(
    is_kept: list[bool], drafts: int, num_rounds: int
) -> None:
    assert count_rounds(is_kept, drafts) == num_rounds


def test_costs_are_a_token_s_share_of_a_round() -> None:
    found = costs(
        {
            "base_ms": 10.0,
            "reward_ms": 12.0,
            "draft_ms": 40.0,
            "score_ms": 15.0,
            "tokens_per_round": 3.0,
        }
    )
    assert found["ahead_1_ms"] == 13.0
    assert found["spec_1_ms"] == pytest.approx(56 / 3)
    assert found["ahead_10_ms"] == 22.0
    assert found["spec_10_ms"] == pytest.approx(65 / 3)
