"""One decode step for a batch: candidates and rewards in, one chosen token a row out."""

from collections.abc import Sequence as Rows
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from generator_svc.decoding.candidates import Candidates
from generator_svc.decoding.guidance import base_part, guide
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
    """What a step chose: a column of each row of the candidates, and what the base would have.

    What stands in the columns is given as plain lists, B numbers each; that of the tokens is made
    at once, the rest when it is asked for: the next forward need not wait for it. `rewards` and
    `scores` are `[B, K]`.
    """

    candidates: Candidates
    columns: list[int]
    base_columns: list[int]
    token_ids: list[int]
    rewards: Tensor
    scores: Tensor

    @cached_property
    def base_token_ids(self) -> list[int]:
        return _column(self.candidates.token_ids, self.base_columns)

    @cached_property
    def logprobs(self) -> list[float]:
        """Of the tokens, by the base model."""
        return _column(self.candidates.logprobs, self.columns)

    @cached_property
    def chosen_rewards(self) -> list[float]:
        """Of the tokens."""
        return _column(self.rewards, self.columns)


@dataclass(frozen=True)
class PreparedChoice:
    """All of a step's choice that does not need rewards.

    `token_ids` are those of the candidates, a list a row; `base_part` `[B, K]` is the base model's
    part that rewards still lack, None where none does; `sampled` is None where all rows are greedy.
    """

    candidates: Candidates
    token_ids: list[list[int]]
    beta: Tensor  # [B]
    base_part: Tensor | None
    sampled: "_Sampling | None"
    base_columns: list[int]

    def choose(self, rewards: Tensor) -> Choices:
        """Choose a token for each row, and say what the base model would have chosen.

        Args:
            rewards: `[B, K]` float32 as the reward service sent them; 0 for rows without.
        """
        candidates, logprobs = self.candidates, self.candidates.logprobs
        if self.base_part is not None:
            rewards = rewards - self.base_part  # [B, K]
        scores = guide(logprobs, rewards, self.beta)  # [B, K]
        columns = _pick(scores, self.sampled)
        return Choices(
            candidates=candidates,
            columns=columns,
            base_columns=self.base_columns,
            token_ids=[ids[column] for ids, column in zip(self.token_ids, columns, strict=True)],
            rewards=rewards,
            scores=scores,
        )


@dataclass(frozen=True)
class _Sampling:
    """How rows are sampled: noise `[B, K]`, temperature and top p `[B]`."""

    noise: Tensor
    temperature: Tensor
    top_p: Tensor


def prepare(candidates: Candidates, params: Rows[RowParams]) -> PreparedChoice:
    """Return what can be known of a choice before its rewards are.

    Both choices use the same noise, so that they differ only where the reward made them differ.

    Args:
        candidates: `[B, K]`.
        params: B of them.
    """
    logprobs = candidates.logprobs
    weights = [row.base_weight for row in params]
    sampled = _sampling(candidates, params)
    return PreparedChoice(
        candidates,
        token_ids=candidates.token_ids.tolist(),
        beta=torch.tensor([row.beta for row in params], dtype=torch.float32),
        base_part=base_part(logprobs, torch.tensor(weights)) if any(weights) else None,
        sampled=sampled,
        base_columns=_pick(logprobs, sampled),
    )


def choose(candidates: Candidates, rewards: Tensor, params: Rows[RowParams]) -> Choices:
    """Prepare and choose at once; see `prepare` and `PreparedChoice.choose`."""
    return prepare(candidates, params).choose(rewards)


def choose_base(candidates: Candidates, params: Rows[RowParams]) -> list[int]:
    """Return the token that the base model alone would choose for each row."""
    base_columns = _pick(candidates.logprobs, _sampling(candidates, params))
    return _column(candidates.token_ids, base_columns)


def _column(values: Tensor, columns: list[int]) -> list[Any]:
    """Return the number that stands in each row's column of `[B, K]`."""
    numbers: list[Any] = values.gather(1, torch.tensor(columns).unsqueeze(1)).squeeze(1).tolist()
    return numbers


def _sampling(candidates: Candidates, params: Rows[RowParams]) -> _Sampling | None:
    if all(row.temperature == 0 for row in params):  # a third of the time of what follows
        return None
    seeds = torch.tensor([signed(row.seed) for row in params], dtype=torch.int64)  # [B]
    steps = torch.tensor([row.step for row in params], dtype=torch.int64)  # [B]
    return _Sampling(
        noise=gumbel_noise(seeds, steps, candidates.token_ids),
        temperature=torch.tensor([row.temperature for row in params], dtype=torch.float32),
        top_p=torch.tensor([row.top_p for row in params], dtype=torch.float32),
    )


def _pick(scores: Tensor, sampled: _Sampling | None) -> list[int]:
    """Return each row's choice by `scores` `[B, K]`: B columns."""
    if sampled is None:
        columns = scores.argmax(dim=-1)
    else:
        columns = pick(scores, sampled.noise, sampled.temperature, sampled.top_p)
    picked: list[int] = columns.tolist()
    return picked
