"""One decode step for a batch: candidates and rewards in, one chosen token a row out."""

from collections.abc import Sequence as Rows
from dataclasses import dataclass
from typing import Any

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
class Choices:
    """What a step chose.

    Columns and what stands in them are plain lists, B numbers each; rewards and scores `[B, K]`.
    """

    candidates: Candidates
    columns: list[int]
    base_columns: list[int]
    token_ids: list[int]
    base_token_ids: list[int]
    logprobs: list[float]
    chosen_rewards: list[float]
    rewards: Tensor
    scores: Tensor


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
    picked = columns.unsqueeze(1)  # [B, 1]
    return Choices(
        candidates=candidates,
        columns=columns.tolist(),
        base_columns=base_columns.tolist(),
        token_ids=_column(candidates.token_ids, picked),
        base_token_ids=_column(candidates.token_ids, base_columns.unsqueeze(1)),
        logprobs=_column(logprobs, picked),
        chosen_rewards=_column(rewards, picked),
        rewards=rewards,
        scores=scores,
    )


def choose_base(candidates: Candidates, params: Rows[RowParams]) -> list[int]:
    """Return the token that the base model alone would choose for each row."""
    _, base_columns = _pick_both(candidates.logprobs, candidates, params)
    return _column(candidates.token_ids, base_columns.unsqueeze(1))


def _column(values: Tensor, columns: Tensor) -> list[Any]:
    """Return the number that stands in each row's column: `[B, K]`, `[B, 1]` -> B numbers."""
    numbers: list[Any] = values.gather(1, columns).squeeze(1).tolist()
    return numbers


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
