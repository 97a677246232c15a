"""From the base model's logits to the K candidates of a step."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Candidates:
    """The K tokens a row chooses from, by falling log-probability.

    Args:
        token_ids: `[B, K]` int64.
        logprobs: `[B, K]` float32, ln p_base over the whole vocabulary; -inf where a row has
            fewer than K candidates.
    """

    token_ids: Tensor
    logprobs: Tensor


def top_candidates(logits: Tensor, num_candidates: int) -> Candidates:
    """Return the most likely tokens of each row of `[B, V]` logits, on the CPU.

    Source: arXiv 2410.04070, section 4: over the k tokens that pi_LM ranks highest.
    """
    logprobs = torch.log_softmax(logits.float(), dim=-1)  # [B, V]
    best = logprobs.topk(num_candidates, dim=-1)  # [B, K]
    return Candidates(token_ids=best.indices.cpu(), logprobs=best.values.cpu())


def stack_candidates(rows: list[Candidates]) -> Candidates:
    """Return one batch from single rows `[K_b]` of different K, padded with -inf."""
    widths = [row.token_ids.shape[0] for row in rows]
    if len(set(widths)) == 1:
        return Candidates(
            token_ids=torch.stack([row.token_ids for row in rows]),
            logprobs=torch.stack([row.logprobs for row in rows]),
        )
    shape = (len(rows), max(widths))
    token_ids = torch.zeros(shape, dtype=torch.int64)
    logprobs = torch.full(shape, -torch.inf)
    for i, row in enumerate(rows):
        token_ids[i, : widths[i]] = row.token_ids
        logprobs[i, : widths[i]] = row.logprobs
    return Candidates(token_ids, logprobs)
