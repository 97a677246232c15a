"""The loss of PersRM stage 1: preference-conditioned DPO with a small likelihood term."""

import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaForCausalLM

from training.pairs import PairBatch


def reply_log_probs(model: LlamaForCausalLM, batch: PairBatch) -> Tensor:
    """Return the summed log-probability of every reply, `[B, 2]`: chosen, rejected.

    The output layer runs on the scored positions only.
    """
    hidden = model.model(
        input_ids=batch.token_ids,
        attention_mask=batch.mask,
        position_ids=batch.positions,
        use_cache=False,
    ).last_hidden_state  # [B, T, D]
    logits = model.lm_head(hidden.flatten(0, 1)[batch.sources])  # [N, V]
    losses = functional.cross_entropy(logits.float(), batch.targets, reduction="none")  # [N]
    num_rows = batch.token_ids.shape[0]
    sums = torch.zeros(2 * num_rows).index_add(0, batch.replies, -losses)  # [2 B]
    return sums.view(num_rows, 2)  # [B, 2]


def dpo_margins(theta: Tensor, reference: Tensor) -> Tensor:
    """Return r(chosen) - r(rejected) with r = log p_theta - log p_ref, `[B]`.

    Args:
        theta: `[B, 2]` log-probabilities given the stated preference.
        reference: `[B, 2]` log-probabilities without it.
    """
    rewards = theta - reference  # [B, 2]
    return rewards[:, 0] - rewards[:, 1]  # [B]


def dpo_loss(
    theta: Tensor, reference: Tensor, chosen_lengths: Tensor, beta: float, nll_weight: float
) -> Tensor:
    """Return the mean DPO loss plus `nll_weight` times the chosen replies' loss per token.

    Args:
        theta: `[B, 2]`, as for `dpo_margins`.
        reference: `[B, 2]`, as for `dpo_margins`.
        chosen_lengths: `[B]` tokens of the chosen replies.
        beta: DPO's KL strength, > 0; not the guidance strength of decoding.

    Source: PAD eq. 9 with w_p = 1 (arXiv:2410.04070); likelihood term: RPO (arXiv:2404.19733).
    """
    preference_loss = -functional.logsigmoid(beta * dpo_margins(theta, reference))  # [B]
    likelihood_loss = -theta[:, 0] / chosen_lengths  # [B]
    return (preference_loss + nll_weight * likelihood_loss).mean()
