"""Stage 2: the heads on a frozen backbone, and the loss that trains each of them.

- `value`: logits = lm_head(W h + b), the same for all preferences, which stand in the prompt; the
  head of PAD's released code.
- `vector`: logits = lm_head(w_p * h + b_p) on the plain conversation; w_p and b_p come from the
  preference's embedding.
- `both`: the same on the prompt that states the preference.

Each starts as no change, and weight decay pulls it back there.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from reward_svc.preference_head import PreferenceHead, apply_vectors
from training.backbone import Backbone
from training.dpo import dpo_loss, reply_sums
from training.hidden import HiddenStates
from training.pairs import EncodedPair, PairBatch, make_pair_batch
from training.recipe import PairSettings


class LinearHead(nn.Module):
    """The value head: W = 1 + change, and a bias.

    Args:
        hidden_size: D.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.change = nn.Parameter(torch.zeros(hidden_size, hidden_size))
        self.bias = nn.Parameter(torch.zeros(hidden_size))

    def weight(self) -> Tensor:
        """Return W, `[D, D]`."""
        return self.change + torch.eye(len(self.bias), device=self.bias.device)

    def forward(self, hidden: Tensor, embeddings: Tensor, rows: Tensor) -> Tensor:
        """Return W h + b, `[N, D]`; the other arguments are those of `VectorHead`."""
        hidden = hidden.float()
        return hidden + nn.functional.linear(hidden, self.change, self.bias).float()


class VectorHead(nn.Module):
    """w_p * h + b_p with the vectors of a preference head.

    Args:
        embedding_size: E.
        hidden_size: D.
        width: of the preference head's middle layer.
    """

    def __init__(self, embedding_size: int, hidden_size: int, width: int) -> None:
        super().__init__()
        self.head = PreferenceHead(embedding_size, hidden_size, width)

    def forward(self, hidden: Tensor, embeddings: Tensor, rows: Tensor) -> Tensor:
        """Return the states `[N, D]` under the preferences of their rows.

        Args:
            hidden: `[N, D]`.
            embeddings: `[B, E]`, of each row's preference.
            rows: `[N]`, the row of each state.
        """
        vectors = self.head(embeddings.float()).float()  # [B, 2D]
        return apply_vectors(hidden.float(), vectors[rows])


Head = LinearHead | VectorHead
Heads = Mapping[str, Head]


def new_head(name: str, hidden_size: int, embedding_size: int, width: int) -> Head:
    """Return an untrained head; see the module for the names."""
    if name == "value":
        return LinearHead(hidden_size)
    return VectorHead(embedding_size, hidden_size, width)


def reads_preference(name: str) -> bool:
    """Return whether the backbone reads the stated preference below this head."""
    return name != "vector"


class HeadTask(nn.Module):
    """The loss of a group of pairs under a head; the backbone is frozen and no part of this."""

    def __init__(self, head: Head, backbone: Backbone, settings: PairSettings) -> None:
        super().__init__()
        self.head = head
        self._backbone = (backbone,)  # in a tuple: its weights are neither moved nor saved
        self._settings = settings

    def log_probs(
        self, batch: PairBatch, embeddings: Tensor, hidden: Tensor | None = None
    ) -> Tensor:
        """Return the log-probabilities of the replies, `[B, 2]`.

        Args:
            embeddings: `[B, E]`, of each pair's preference.
            hidden: `[N, D]` last hidden states at the scored positions; None: computed here.
        """
        (backbone,) = self._backbone
        if hidden is None:
            with torch.no_grad():
                hidden = backbone.hidden(batch)
        changed = self.head(hidden, embeddings, batch.replies // 2)
        return reply_sums(backbone.logits(changed), batch)

    def forward(self, reference: Tensor, embeddings: Tensor, **tensors: Tensor) -> Tensor:
        """Return the loss.

        Args:
            reference: `[B, 2]` log p_ref of the replies.
            embeddings: `[B, E]`.
            tensors: those of a `PairBatch`, and `hidden` if it is kept.
        """
        hidden = tensors.pop("hidden", None)
        batch = PairBatch(**tensors)
        theta = self.log_probs(batch, embeddings, hidden)
        settings = self._settings
        return dpo_loss(
            theta, reference, batch.lengths[:, 0], settings.dpo_beta, settings.nll_weight
        )


class HeadCollator:
    """Makes the tensors of a group of pairs; see `HeadTask.forward`.

    Args:
        embeddings: `[P, E]`, one a distinct preference.
        preferences: the number of each pair's preference.
        hidden: the pairs' hidden states, if they are kept.
    """

    def __init__(
        self,
        pairs: Sequence[EncodedPair],
        reference: Tensor,
        embeddings: Tensor,
        preferences: Sequence[int],
        pad_id: int,
        guided: bool,
        hidden: HiddenStates | None,
    ) -> None:
        self._pairs = pairs
        self._reference = reference
        self._embeddings = embeddings
        self._preferences = torch.tensor(preferences)
        self._pad_id = pad_id
        self._guided = guided
        self._hidden = hidden

    def __call__(self, group: Sequence[int]) -> dict[str, Tensor]:
        """Return the tensors of the pairs with these numbers."""
        numbers = list(group)
        batch = make_pair_batch([self._pairs[i] for i in numbers], self._pad_id, self._guided)
        tensors = {
            "reference": self._reference[numbers],
            "embeddings": self._embeddings[self._preferences[numbers]],
            **batch.tensors(),
        }
        if self._hidden is not None:
            tensors["hidden"] = self._hidden.of(numbers)
        return tensors
