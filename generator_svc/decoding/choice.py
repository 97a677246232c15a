"""One decode step for a batch: candidates and rewards in, one chosen token a row out."""

from collections.abc import Sequence as Rows
from dataclasses import dataclass

import torch
from torch import Tensor

from generator_svc.decoding.candidates import Candidates
from generator_svc.decoding.guidance import guide, subtract_base
from generator_svc.decoding.sampling import gumbel_noise, pick, signed


@dataclass(frozen=True)
class RowParams:
    """How one row chooses.

    `base_weight` is the weight of the base model's part that its rewards still lack
    (Reference.BASE), else 0.
    """

    beta: float
    temperature: float
    top_p: float
    seed: int
    step: int
    base_weight: float = 0.0


@dataclass(frozen=True)
class RowChoice:
    """What one row chose: columns among its K candidates, their rewards and scores."""

    column: int
    base_column: int
    rewards: tuple[float, ...]
    scores: tuple[float, ...]


@dataclass(frozen=True)
class Choices:
    """What a step chose: columns B ints each, rewards and scores [B][K], as plain lists."""

    columns: list[int]
    base_columns: list[int]
    rewards: list[list[float]]
    scores: list[list[float]]

    def of_row(self, row: int, num_candidates: int) -> RowChoice:
        """Return what `row` chose among its own candidates (the padding cut off)."""
        return RowChoice(
            self.columns[row],
            self.base_columns[row],
            tuple(self.rewards[row][:num_candidates]),
            tuple(self.scores[row][:num_candidates]),
        )


def choose(candidates: Candidates, rewards: Tensor, params: Rows[RowParams]) -> Choices:
    """Choose a token for each row, and say what the base model would have chosen.

    Both choices use the same noise, so that they differ only where the reward made them differ.

    Args:
        candidates: `[B, K]`.
        rewards: `[B, K]` float32 as the reward service sent them; 0 for rows without.
        params: B of them.
    """
    beta = torch.tensor([row.beta for row in params], dtype=torch.float32)  # [B]
    base_weight = torch.tensor([row.base_weight for row in params], dtype=torch.float32)  # [B]
    logprobs = candidates.logprobs
    rewards = subtract_base(rewards, logprobs, base_weight)  # [B, K]
    scores = guide(logprobs, rewards, beta)  # [B, K]
    columns, base_columns = _pick_both(scores, candidates, params)
    return Choices(columns.tolist(), base_columns.tolist(), rewards.tolist(), scores.tolist())


def _pick_both(
    scores: Tensor, candidates: Candidates, params: Rows[RowParams]
) -> tuple[Tensor, Tensor]:
    """Return each row's choice by `scores` and by the base model alone, `[B]` each."""
    logprobs = candidates.logprobs
    if all(row.temperature == 0 for row in params):  # a third of the time of what follows
        return scores.argmax(dim=-1), logprobs.argmax(dim=-1)
    temperature = torch.tensor([row.temperature for row in params], dtype=torch.float32)  # [B]
    top_p = torch.tensor([row.top_p for row in params], dtype=torch.float32)  # [B]
    seeds = torch.tensor([signed(row.seed) for row in params], dtype=torch.int64)  # [B]
    steps = torch.tensor([row.step for row in params], dtype=torch.int64)  # [B]
    noise = gumbel_noise(seeds, steps, candidates.token_ids)  # [B, K]
    return (
        pick(scores, noise, temperature, top_p),
        pick(logprobs, noise, temperature, top_p),
    )
