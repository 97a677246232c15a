"""From logits to rewards; pure functions on tensors."""

import torch
from torch import Tensor


def candidate_logprobs(logits: Tensor, num_candidates: Tensor | None = None) -> Tensor:
    """Return log-probabilities normalised over each row's own candidates.

    Args:
        logits: `[..., K]` float32; what stands behind a row's candidates is ignored.
        num_candidates: int64, 1..K, in the shape of the rows or one that is broadcast to it; None
            if all rows have K.

    Returns:
        `[..., K]` float32; 0 behind a row's candidates.

    Source: PAD's released code, inference/PAD.py: log_softmax over the base's top K.
    """
    if num_candidates is None:
        return logits.float().log_softmax(-1)
    places = torch.arange(logits.shape[-1], device=logits.device)
    is_padding = places >= num_candidates.unsqueeze(-1)  # [..., K]
    logprobs = logits.float().masked_fill(is_padding, -torch.inf).log_softmax(-1)
    return logprobs.masked_fill(is_padding, 0.0)


def weighted_sum(logprobs: Tensor, weights: Tensor, owners: Tensor, places: Tensor) -> Tensor:
    """Return each session's reward: the weighted sum over its rows.

    With weight w_j for the row of preference j and -sum_j w_j for the reference's row this is
    sum_j w_j * (log p_theta_j - log p_ref).

    Args:
        logprobs: `[R, K]` float32, rows of all sessions.
        weights: `[R]` float32.
        owners: `[R]` int64, the session of each row: 0..B-1.
        places: `[R]` int64, which of its session's rows it is, from 0.

    Returns:
        `[B, K]` float32.

    Source: arXiv 2410.04070, equation 13.
    """
    num_sessions, num_places = int(owners.max()) + 1, int(places.max()) + 1
    # One place a row, then a sum in a fixed order: index_add_ adds in any order on a GPU.
    terms = logprobs.new_zeros(num_sessions, num_places, logprobs.shape[1])  # [B, P, K]
    terms[owners, places] = logprobs * weights.unsqueeze(1)
    return terms.sum(1)  # [B, K]


def sum_terms(logprobs: Tensor, weights: Tensor) -> Tensor:
    """Return what `weighted_sum` does, of sessions that have the same number of terms.

    Args:
        logprobs: `[B, S, K]` float32, of the S terms of B sessions.
        weights: `[B, S]` float32.

    Returns:
        `[B, K]` float32.
    """
    if logprobs.shape[1] == 1:
        return logprobs[:, 0] * weights  # [B, K] * [B, 1]
    return (logprobs * weights.unsqueeze(-1)).sum(1)  # [B, K]


def preference_rewards(logprobs: Tensor, num_preferences: int) -> Tensor:
    """Return what each preference alone gives: log p_theta_j - log p_ref, without its weight.

    Args:
        logprobs: `[B, S, K]` float32, as `sum_terms` takes them: the preferences' terms first, then
            the reference's, if there is one.
        num_preferences: P <= S.

    Returns:
        `[B, P, K]` float32.
    """
    theta, reference = logprobs[:, :num_preferences], logprobs[:, num_preferences:]
    return theta - reference if reference.shape[1] else theta  # [B, P, K] - [B, 1, K]


def sequence_logprob(logits: Tensor, token_ids: Tensor) -> float:
    """Return the sum of the tokens' log-probabilities over the whole vocabulary.

    Args:
        logits: `[T, V]` float32, at the position before each token.
        token_ids: `[T]` int64.

    Source: arXiv 2410.04070, equation 8: the reward of an answer is the sum of its tokens'.
    """
    chosen = logits.gather(1, token_ids.unsqueeze(1)).squeeze(1)  # [T]
    return float((chosen - logits.logsumexp(-1)).double().sum())
