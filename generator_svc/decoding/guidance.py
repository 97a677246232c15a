"""The rule that every method shares: score = log p_base + beta * reward."""

import torch
from torch import Tensor


def guide(logprobs: Tensor, rewards: Tensor, beta: Tensor) -> Tensor:
    """Return `logprobs + beta * rewards`, row by row.

    Args:
        logprobs: `[B, K]` float32, ln p_base of the candidates.
        rewards: `[B, K]` float32, higher is better.
        beta: `[B]` float32, >= 0. A row with 0 decodes as the base model.

    Source: PAD, arXiv 2410.04070, equation 13.
    """
    return logprobs + beta.unsqueeze(-1) * rewards


def subtract_base(theta_logprobs: Tensor, logprobs: Tensor, weight: Tensor) -> Tensor:
    """Return rewards measured against the base model: `theta_logprobs - weight * log p_base`.

    Args:
        theta_logprobs: `[B, K]` float32, sum_j w_j log p_theta_j over the K candidates.
        logprobs, weight: as `base_part` takes them.

    Source: PAD's released code, inference/PAD.py: both sides normalised over the candidates.
    """
    return theta_logprobs - base_part(logprobs, weight)


def base_part(logprobs: Tensor, weight: Tensor) -> Tensor:
    """Return `weight * log p_base`, normalised over the candidates: `[B, K]` float32.

    Args:
        logprobs: `[B, K]` float32, ln p_base; -inf where a row has fewer candidates.
        weight: `[B]` float32, sum_j w_j of a row; 0 for rows with another reference.
    """
    is_missing = logprobs == -torch.inf
    base = torch.log_softmax(logprobs, dim=-1).masked_fill(is_missing, 0.0)  # [B, K]
    return weight.unsqueeze(-1) * base
