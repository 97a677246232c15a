"""Which preference changed a token: the parts of its reward, one by one."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from generator_svc.decoding.guidance import subtract_base


@dataclass(frozen=True)
class TokenExplanation:
    """Weight times reward of each preference, w_j * r_j: of a token and of the base's own choice.

    `changed_by` is the preference that did most to change the token; None if it was not changed.
    """

    rewards: tuple[float, ...]
    base_rewards: tuple[float, ...]
    changed_by: int | None


def explain(
    rewards: Tensor, weights: Sequence[float], column: int, base_column: int
) -> TokenExplanation:
    """Return what preferences said of a choice.

    The scores of two candidates differ by log p_base and by beta * sum_j w_j * r_j; so what
    preference j did to prefer one to the other is the difference of its own w_j * r_j, and these
    sum up to the difference of the rewards.

    Args:
        rewards: `[P, K]` float32, r_j of the candidates.
        weights: w_j, P of them.
        column: of the token that was chosen.
        base_column: of the token that the base model would have chosen.
    """
    weighted = rewards.double() * torch.tensor(weights, dtype=torch.float64).unsqueeze(1)  # [P, K]
    chosen, base = weighted[:, column], weighted[:, base_column]  # [P]
    changed_by = int((chosen - base).argmax()) if column != base_column else None
    return TokenExplanation(tuple(chosen.tolist()), tuple(base.tolist()), changed_by)


def against_base(theta_logprobs: Tensor, logprobs: Tensor) -> Tensor:
    """Return rewards of each preference measured against the base model.

    Args:
        theta_logprobs: `[P, K]` float32, log p_theta_j over the K candidates.
        logprobs: `[K]` float32, ln p_base.
    """
    num_preferences = len(theta_logprobs)
    base = logprobs.expand(num_preferences, -1)  # [P, K]
    return subtract_base(theta_logprobs, base, torch.ones(num_preferences))
