"""The loss of both stages: preference-conditioned DPO with a small likelihood term."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from training.backbone import Backbone
from training.pairs import EncodedPair, PairBatch, make_pair_batch
from training.recipe import PairSettings


def reply_sums(logits: Tensor, batch: PairBatch) -> Tensor:
    """Return the summed log-probability of every reply, `[B, 2]`: chosen, rejected.

    Args:
        logits: `[N, V]` at the batch's scored positions.
    """
    losses = functional.cross_entropy(logits.float(), batch.targets, reduction="none")  # [N]
    num_rows = batch.lengths.shape[0]
    sums = torch.zeros(2 * num_rows, device=logits.device)
    return sums.index_add(0, batch.replies, -losses).view(num_rows, 2)  # [B, 2]


def reply_log_probs(backbone: Backbone, batch: PairBatch) -> Tensor:
    """Return the log-probability of every reply under the backbone alone, `[B, 2]`.

    The output layer runs on the scored positions only.
    """
    return reply_sums(backbone.logits(backbone.hidden(batch)), batch)


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

    Source: PAD eq. 9 (arXiv:2410.04070); likelihood term: RPO (arXiv:2404.19733).
    """
    preference_loss = -functional.logsigmoid(beta * dpo_margins(theta, reference))  # [B]
    likelihood_loss = -theta[:, 0] / chosen_lengths  # [B]
    return (preference_loss + nll_weight * likelihood_loss).mean()


class PairTask(nn.Module):
    """Stage 1: the loss of a group of pairs, w_p = 1."""

    def __init__(self, backbone: Backbone, settings: PairSettings) -> None:
        super().__init__()
        self.model = backbone.model
        self._backbone = backbone
        self._settings = settings

    def forward(self, reference: Tensor, **batch: Tensor) -> Tensor:
        """Return the loss.

        Args:
            reference: `[B, 2]` log p_ref of the replies.
            batch: the tensors of a `PairBatch` with the stated preferences.
        """
        pairs = PairBatch(**batch)
        theta = reply_log_probs(self._backbone, pairs)  # [B, 2]
        settings = self._settings
        return dpo_loss(
            theta, reference, pairs.lengths[:, 0], settings.dpo_beta, settings.nll_weight
        )


class PairCollator:
    """Makes the tensors of a group of pairs; see `PairTask.forward`."""

    def __init__(
        self, pairs: Sequence[EncodedPair], reference: Tensor, pad_id: int, guided: bool = True
    ) -> None:
        self._pairs = pairs
        self._reference = reference
        self._pad_id = pad_id
        self._guided = guided

    def __call__(self, group: Sequence[int]) -> dict[str, Tensor]:
        """Return the tensors of the pairs with these numbers."""
        batch = make_pair_batch([self._pairs[i] for i in group], self._pad_id, self._guided)
        return {"reference": self._reference[list(group)], **batch.tensors()}
