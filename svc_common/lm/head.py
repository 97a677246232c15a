"""From the last hidden state to logits: of the whole vocabulary, or of a few candidates only."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from svc_common.lm.linear import Linear, make_linear

PROBE_TOLERANCE = 1e-3  # largest allowed difference to the model's own logits


@dataclass(frozen=True)
class ValueHead:
    """PAD's linear map on top of the last hidden state: `weight` [D, D], `bias` [D]."""

    weight: Tensor
    bias: Tensor


class Head:
    """The output layer of a causal LM, with PAD's value head folded in before it.

    Args:
        model: a transformers causal LM with a linear output layer.
        value_head: applied to the hidden state first; None leaves it as it is.

    Raises:
        ValueError: the model's logits are no known function of its last hidden state.

    Source: PAD's released code, model/modeling_value_head.py: logits = lm_head(W_v h + b_v).
    So K candidates need K rows of lm_head.
    """

    def __init__(self, model: PreTrainedModel, value_head: ValueHead | None = None) -> None:
        layer = model.get_output_embeddings()
        self._weight: Tensor = layer.weight  # [V, D]
        self._bias: Tensor | None = layer.bias  # [V]
        config = model.config
        self._scale = float(getattr(config, "logit_scale", None) or 1.0)
        self._scale /= float(getattr(config, "logits_scaling", None) or 1.0)
        self._softcap: float | None = getattr(config, "final_logit_softcapping", None)
        self._value_head: ValueHead | None = None
        self._check(model)
        self._value_head = value_head

    @property
    def vocabulary_size(self) -> int:
        return self._weight.shape[0]

    @torch.inference_mode()
    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits of every token: `[B, D]` -> `[B, V]` float32."""
        return self._finish(self._linear(self._valued(hidden), 0))

    @cached_property
    def _linear(self) -> Linear:
        """The layer for whole vocabularies; a reward model that scores K candidates needs none."""
        return make_linear(self._weight, self._bias)

    @torch.inference_mode()
    def candidate_logits(self, hidden: Tensor, candidate_ids: Tensor) -> Tensor:
        """Return the logits of some tokens: `[B, D]`, `[B, K]` int64 -> `[B, K]` float32."""
        rows = self.candidate_rows(candidate_ids)
        return self.row_logits(hidden.unsqueeze(1), candidate_ids, rows).squeeze(1)

    def new_rows(self, count: int) -> Tensor:
        """Return memory for rows of the output layer: `[count, D]`."""
        return self._weight.new_empty(count, self._weight.shape[1])

    def candidate_rows(self, candidate_ids: Tensor, out: Tensor | None = None) -> Tensor:
        """Return the output layer's rows of some tokens: `[B, K]` int64 -> `[B, K, D]`.

        Args:
            candidate_ids: the tokens.
            out: memory `[B * K, D]` to write them to.
        """
        # Indexing with a tensor of two dimensions takes nine times as long.
        rows = torch.index_select(self._weight, 0, candidate_ids.reshape(-1), out=out)
        return rows.view(*candidate_ids.shape, -1)

    def row_logits(self, hidden: Tensor, candidate_ids: Tensor, rows: Tensor) -> Tensor:
        """Return the logits of some tokens, of P states each: `[B, P, D]` -> `[B, P, K]` float32.

        Args:
            hidden: the states.
            candidate_ids: `[B, K]` int64.
            rows: what `candidate_rows` gives for them; another head's, if it `has_weight_of` this.
        """
        # The rows stand right: as the left factor they take nine times as long.
        logits = torch.bmm(self._valued(hidden), rows.transpose(1, 2))  # [B, P, K]
        if self._bias is not None:
            logits = logits + self._bias[candidate_ids].unsqueeze(1)
        return self._finish(logits)

    def has_weight_of(self, other: "Head") -> bool:
        """Tell whether the two have one output layer, so that its rows are read once for both."""
        return (
            self._weight.data_ptr() == other._weight.data_ptr()
            and self._weight.shape == other._weight.shape
        )

    def _valued(self, hidden: Tensor) -> Tensor:
        head = self._value_head
        return hidden if head is None else nn.functional.linear(hidden, head.weight, head.bias)

    def _finish(self, logits: Tensor) -> Tensor:
        logits = logits.float()
        if self._scale != 1.0:  # a pass over the whole vocabulary
            logits = logits * self._scale
        if self._softcap is not None:
            logits = torch.tanh(logits / self._softcap) * self._softcap
        return logits

    @torch.inference_mode()
    def _check(self, model: PreTrainedModel) -> None:
        """Compare with the model's own logits, so that an unknown kind of head is not guessed."""
        ids = torch.arange(4, device=self._weight.device).unsqueeze(0)  # [1, 4]
        hidden = model.base_model(input_ids=ids).last_hidden_state[0]  # [4, D]
        mine = self._finish(nn.functional.linear(hidden, self._weight, self._bias))  # [4, V]
        theirs = model(input_ids=ids).logits[0].float()  # [4, V]
        worst = (mine - theirs).abs().max().item()
        limit = PROBE_TOLERANCE * (1 + theirs.abs().max().item())
        if self._weight.dtype != torch.float32:
            limit *= 30  # 16-bit logits round at this size
        if not worst <= limit:
            kind = type(model).__name__
            raise ValueError(f"output layer of {kind}: must be linear, is off by {worst:.2g}")
