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
        logprobs: `[B, K]` float32, ln p_base; -inf where a row has fewer candidates.
        weight: `[B]` float32, sum_j w_j of a row; 0 for rows with another reference.

    Source: PAD's released code, inference/PAD.py: both sides normalised over the candidates.
    """
    valid = logprobs > -torch.inf
    base = torch.log_softmax(logprobs, dim=-1).masked_fill(~valid, 0.0)  # [B, K]
    return theta_logprobs - weight.unsqueeze(-1) * base
