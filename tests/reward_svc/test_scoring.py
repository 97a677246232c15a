"""Rewards are what the formula says, and a row's are its own affair."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from reward_svc import scoring

EXACT_ENOUGH = {"rtol": 1e-5, "atol": 1e-5}


def naive_reward(theta: list[Tensor], weights: list[float], reference: Tensor | None) -> Tensor:
    """sum_j w_j * (log p_theta_j - log p_ref), one row, in float64."""
    total = torch.zeros(len(theta[0]), dtype=torch.float64)
    for logits, weight in zip(theta, weights, strict=True):
        term = logits.double() - logits.double().exp().sum().log()
        if reference is not None:
            term = term - (reference.double() - reference.double().exp().sum().log())
        total += weight * term
    return total.float()


@given(st.integers(0, 2**32 - 1))
def test_rewards_of_ragged_sessions_equal_the_formula(seed: int) -> None:
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed % 2**31)
    logits, weights, owners, places, counts, expected = [], [], [], [], [], []
    num_sessions = int(rng.integers(1, 6))
    longest = 12
    for owner in range(num_sessions):
        count, num_preferences = int(rng.integers(1, longest)), int(rng.integers(1, 9))
        theta = [5 * torch.randn(count) for _ in range(num_preferences)]
        reference = 5 * torch.randn(count) if rng.random() < 0.5 else None
        w = rng.uniform(0.01, 10, num_preferences).tolist()
        expected.append(naive_reward(theta, w, reference))
        rows = [*theta, *([reference] if reference is not None else [])]
        weights += [*w, *([-sum(w)] if reference is not None else [])]
        for place, row in enumerate(rows):
            padding = torch.full((longest - count,), float(rng.choice([1e30, -1e30, 0.0])))
            logits.append(torch.cat([row, padding]))
            owners.append(owner)
            places.append(place)
            counts.append(count)
    logprobs = scoring.candidate_logprobs(torch.stack(logits), torch.tensor(counts))
    rewards = scoring.weighted_sum(
        logprobs, torch.tensor(weights), torch.tensor(owners), torch.tensor(places)
    )
    assert rewards.dtype == torch.float32
    for owner, row in enumerate(expected):
        mine = rewards[owner, : len(row)]
        torch.testing.assert_close(mine, row, rtol=1e-4, atol=1e-3)  # weights up to 80 in all


def test_a_sessions_reward_is_the_same_to_the_last_bit_whoever_its_neighbours_are() -> None:
    torch.manual_seed(0)
    logits = torch.randn(3, 7)
    counts, weights = torch.tensor([5, 5, 7]), torch.tensor([0.7, -0.7, 3.0])
    alone = scoring.weighted_sum(
        scoring.candidate_logprobs(logits[:2, :5], counts[:2]),
        weights[:2],
        torch.tensor([0, 0]),
        torch.tensor([0, 1]),
    )
    together = scoring.weighted_sum(
        scoring.candidate_logprobs(logits, counts),
        weights,
        torch.tensor([1, 1, 0]),
        torch.tensor([0, 1, 0]),
    )
    assert torch.equal(alone[0], together[1, :5])


def test_one_candidate_has_reward_zero() -> None:
    logprobs = scoring.candidate_logprobs(torch.tensor([[12.5, 3.0]]), torch.tensor([1]))
    assert torch.equal(logprobs, torch.zeros(1, 2))


def test_a_sequences_logprob_is_the_sum_of_its_tokens() -> None:
    torch.manual_seed(1)
    logits, token_ids = 4 * torch.randn(6, 50), torch.tensor([3, 3, 49, 0, 17, 8])
    naive = sum(
        float(row.softmax(0)[token].log()) for row, token in zip(logits, token_ids, strict=True)
    )
    assert abs(scoring.sequence_logprob(logits, token_ids) - naive) < 1e-4
