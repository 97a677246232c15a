"""The paper's rule where the reference is the base model: no row for it, and the same answers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pad_client import GeneratorClient, Message, Token
from pad_client.embedded import EmbeddedStack, StackOptions

ASKED: dict[str, Any] = {
    "messages": [Message("user", "I need a table for two people in San Jose.")],
    "preferences": ["Be brief.", "Sound excited!"],
    "strategy": "pad",
    "max_tokens": 24,
    "ignore_end_of_turn": True,
}


def write(models_dir: Path, *, shares: bool, num_rows: int) -> list[Sequence[Token]]:
    options = StackOptions(
        models_dir=models_dir,
        generator_environment={"GENERATOR_SHARES_REFERENCE": str(shares).lower()},
        reward_environment={"REWARD_NUM_SLOTS": str(num_rows)},
    )
    with EmbeddedStack(options) as stack, GeneratorClient(stack.address) as client:
        greedy, sampled = {}, {"temperature": 0.8, "seed": 3}
        return [client.complete(**ASKED, **more).tokens for more in (greedy, sampled)]


@pytest.mark.slow
def test_two_wishes_need_two_rows_and_get_the_rewards_of_three(models_dir: Path) -> None:
    answers = write(models_dir, shares=True, num_rows=2)
    expected = write(models_dir, shares=False, num_rows=3)
    for tokens, their in zip(answers, expected, strict=True):
        assert [token.token_id for token in tokens] == [token.token_id for token in their]
        rewards = [token.reward for token in their]
        assert [token.reward for token in tokens] == pytest.approx(rewards, abs=1e-4)
        assert any(token.changed for token in tokens)
