"""What a Llama-like model consists of, as the lean forward runs it."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from svc_common.lm.linear import Linear, Split


@dataclass(frozen=True)
class RowVectors:
    """Vectors that depend on a row's group: `first` for group 0, `second` for 1, None if equal."""

    first: Tensor
    second: Tensor | None = None

    def of(self, num_first: Split, num_rows: int) -> Tensor:
        """Return `first`'s shape where all rows have the same, else one entry a row."""
        if self.second is None:
            return self.first
        if isinstance(num_first, Tensor):
            return torch.where(num_first, self.first, self.second)
        if num_first == num_rows:
            return self.first
        if num_first == 0:
            return self.second
        shape = (-1, *self.first.shape)
        firsts = self.first.expand(num_first, *shape[1:])
        return torch.cat([firsts, self.second.expand(num_rows - num_first, *shape[1:])])


@dataclass(frozen=True)
class LeanLayer:
    """One decoder layer; `qkv` gives queries, keys and values side by side, `gate_up` both."""

    attention_norm: RowVectors
    qkv: Linear
    out: Linear
    mlp_norm: RowVectors
    gate_up: Linear
    down: Linear


@dataclass(frozen=True)
class LeanWeights:
    """A Llama-like model without its head.

    Args:
        embedding: `[V, D]` a group.
        embedding_scale: the embedding is multiplied by this.
        layers: in order.
        norm: of the last hidden state, `[D]` a group.
        cos: `[context, 1, head_dim]`, of each position.
        sin: the same, its first half negated, as the halves are swapped by rolling.
        num_heads: of queries.
        num_kv_heads: of keys and of values; divides `num_heads`.
        head_dim: size of a head.
        attention_scale: queries times keys are multiplied by this.
        norm_eps: added to the mean square.
        activation: of the gate.
    """

    embedding: RowVectors
    embedding_scale: float
    layers: tuple[LeanLayer, ...]
    norm: RowVectors
    cos: Tensor
    sin: Tensor
    num_heads: int
    num_kv_heads: int
    head_dim: int
    attention_scale: float
    norm_eps: float
    activation: Callable[[Tensor], Tensor]
