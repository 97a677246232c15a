"""The lean forward of Llama-like models: fused projections, one KV arena, masks where needed.

It computes what transformers' forward computes, with a fifth of the operations (figures in
docs/decisions.md). `lean_weights` makes `LeanWeights` from a transformers model.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from svc_common.lm.forward import Contents, Step, additive_mask
from svc_common.lm.linear import Linear, Split
from svc_common.lm.transfers import to_device

CALL_BYTES = 1 << 16  # that are read in the time of one more call


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


class LeanForward:
    """Implements `Forward` over one arena `[layers, slots, 2 * kv_heads, context, head_dim]`."""

    view_quantum = 1

    def __init__(self, weights: LeanWeights) -> None:
        self.weights = weights
        self._device = weights.embedding.first.device
        self._dtype = weights.embedding.first.dtype
        self._arena: Tensor
        self.rows: Tensor  # [slots, 1], 0..num_slots-1
        self.places: Tensor  # [context], 0..context_length-1

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def num_cache_bytes(self) -> int:
        """Bytes of all keys and values."""
        return self._arena.numel() * self._arena.element_size()

    def allocate(self, num_slots: int, context_length: int) -> None:
        w = self.weights
        shape = (len(w.layers), num_slots, 2 * w.num_kv_heads, context_length, w.head_dim)
        # Zeros, as 0 * NaN would be NaN behind the mask.
        self._arena = torch.zeros(shape, dtype=self._dtype, device=self._device)
        self.places = torch.arange(context_length, device=self._device)
        self.rows = torch.arange(num_slots, device=self._device).unsqueeze(1)

    def run(self, step: Step, input_ids: Tensor) -> Tensor:
        step = step.on(self._device)
        num_rows, num_new = input_ids.shape
        rows = step.rows
        rows = self.rows[rows] if isinstance(rows, slice) else rows.unsqueeze(1)  # [B, 1]
        alone = self._alone(step)
        mask = None if alone else self._mask(step)
        attend = Attention(self.weights, step, mask, rows, step.positions, alone)
        token_ids = to_device(input_ids.reshape(-1), self._device)  # [N], N = B * T
        hidden = self.compute(token_ids, attend, step.num_first * num_new)
        return hidden.view(num_rows, num_new, -1)  # [B, T, D]

    def compute(self, token_ids: Tensor, attend: "Attention", num_first: Split) -> Tensor:
        """Run tokens `[N]` through all layers: `[N, D]`."""
        w = self.weights
        hidden = self._embed(token_ids, num_first)  # [N, D]
        for arena, layer in zip(self._arena.unbind(), w.layers, strict=True):
            normed = self._norm(hidden, layer.attention_norm, num_first)
            mixed = attend(layer.qkv(normed, num_first), arena)  # [N, heads * head_dim]
            hidden = layer.out(mixed, num_first).add_(hidden)
            normed = self._norm(hidden, layer.mlp_norm, num_first)
            gate, up = layer.gate_up(normed, num_first).chunk(2, dim=-1)
            hidden = layer.down(w.activation(gate).mul_(up), num_first).add_(hidden)
        return self._norm(hidden, w.norm, num_first)

    def move(self, source: int, target: int, length: int) -> None:
        self._arena[:, target, :, :length] = self._arena[:, source, :, :length]

    def read(self, row: int, length: int, start: int = 0) -> Contents:
        """Return one tensor `[layers, 2 * kv_heads, length - start, head_dim]`."""
        return (self._arena[:, row, :, start:length].clone(),)

    def write(self, row: int, contents: Contents, length: int, start: int = 0) -> None:
        self._arena[:, row, :, start : start + length] = contents[0][:, :, :length]

    def _alone(self, step: Step) -> list[tuple[int, int]]:
        """Return row and length of each sequence if each is to attend alone, else nothing.

        Sequences that attend together read as many places as the longest of them has, and a copy
        if their rows are no neighbours. Few short places are read in the time of a call.
        """
        if self._device.type != "cpu" or step.positions.shape[1] > 1:
            return []
        lengths = [position + 1 for position in step.positions[:, 0].tolist()]
        if not isinstance(step.rows, slice):
            return list(zip(step.rows.tolist(), lengths, strict=True))
        num_masked = step.view * len(lengths) - sum(lengths)
        place_bytes = self._arena[0, 0, :, 0].numel() * self._arena.element_size()
        if num_masked * place_bytes <= len(lengths) * CALL_BYTES:
            return []
        return list(enumerate(lengths, start=step.rows.start))

    def _mask(self, step: Step) -> Tensor | None:
        """Return the mask for queries of a KV head's group: `[B, 1, groups * T, view]`."""
        if step.is_full:
            return None
        mask = additive_mask(step, self.places, self._dtype)  # [B, 1, T, view]
        num_groups = self.weights.num_heads // self.weights.num_kv_heads
        if num_groups == 1 or mask.shape[2] == 1:
            return mask  # one token: the same mask for every query
        return mask.repeat(1, 1, num_groups, 1)

    def _embed(self, token_ids: Tensor, num_first: Split) -> Tensor:
        first, second = self.weights.embedding.first, self.weights.embedding.second
        if second is None:
            hidden = first[token_ids]  # [N, D]
        elif isinstance(num_first, Tensor):
            hidden = torch.where(num_first, first[token_ids], second[token_ids])
        elif num_first == len(token_ids):
            hidden = first[token_ids]
        elif num_first == 0:
            hidden = second[token_ids]
        else:
            hidden = torch.cat([first[token_ids[:num_first]], second[token_ids[num_first:]]])
        scale = self.weights.embedding_scale
        return hidden if scale == 1.0 else hidden * scale

    def _norm(self, hidden: Tensor, weight: RowVectors, num_first: Split) -> Tensor:
        """Return hidden states over their root mean square, times the weight: `[N, D]`."""
        by_row = weight.of(num_first, hidden.shape[0])  # [D] or [N, D]
        shape, eps = hidden.shape[-1:], self.weights.norm_eps
        if by_row.dim() == 1:
            return nn.functional.rms_norm(hidden, shape, by_row, eps)
        return nn.functional.rms_norm(hidden, shape, None, eps).mul_(by_row)


class Attention:
    """Attention of one step, the same for all layers: rotation, storing, attending.

    The queries of one KV head stand side by side as if they were tokens, so that keys and values
    are not repeated.

    Args:
        weights: of the model.
        step: which rows of the arena attend to how many of their places.
        mask: see `LeanForward._mask`; None: everything is attended to.
        rows: `[B, 1]`, the rows that new keys and values are written to,
        places: and where: `[B, T]`.
        alone: row and length of each sequence, if each attends by itself; `mask` is None then.
    """

    def __init__(
        self,
        weights: LeanWeights,
        step: Step,
        mask: Tensor | None,
        rows: Tensor,
        places: Tensor,
        alone: list[tuple[int, int]] | None = None,
    ) -> None:
        self._w = weights
        self._step = step
        self._mask = mask
        self._rows = rows
        self._places = places
        self._alone = alone
        self._cos = weights.cos[step.positions]  # [B, T, 1, head_dim]
        self._sin = weights.sin[step.positions]

    def __call__(self, qkv: Tensor, arena: Tensor) -> Tensor:
        """Map `[N, (heads + 2 * kv_heads) * head_dim]` to `[N, heads * head_dim]`.

        Args:
            qkv: of the new tokens.
            arena: `[slots, 2 * kv_heads, context, head_dim]`, this layer's; the new go in.
        """
        w, step = self._w, self._step
        num_rows, num_new = step.positions.shape
        num_rotated = w.num_heads + w.num_kv_heads
        heads = qkv.view(num_rows, num_new, -1, w.head_dim)  # [B, T, heads + 2 * kv_heads, d]
        turned = heads[:, :, :num_rotated]
        swapped = turned.roll(w.head_dim // 2, -1)
        turned = torch.addcmul(turned * self._cos, swapped, self._sin)
        arena[self._rows, : w.num_kv_heads, self._places] = turned[:, :, w.num_heads :]
        arena[self._rows, w.num_kv_heads :, self._places] = heads[:, :, num_rotated:]
        num_groups = w.num_heads // w.num_kv_heads
        queries = turned[:, :, : w.num_heads]  # [B, T, heads, d]
        queries = queries.view(num_rows, num_new, w.num_kv_heads, num_groups, w.head_dim)
        queries = queries.permute(0, 2, 3, 1, 4).flatten(2, 3)  # [B, kv_heads, groups * T, d]
        mixed = self._attend(queries, arena)  # [B, kv_heads, groups * T, d]
        mixed = mixed.view(num_rows, w.num_kv_heads, num_groups, num_new, w.head_dim)
        return mixed.permute(0, 3, 1, 2, 4).reshape(num_rows * num_new, -1)  # [N, heads * d]

    def _attend(self, queries: Tensor, arena: Tensor) -> Tensor:
        """Return what queries `[B, kv_heads, groups * T, d]` find, in their shape."""
        if not self._alone:
            step = self._step
            return self._look_up(queries, arena[step.rows, :, : step.view])
        mixed = torch.empty_like(queries)
        for i, (row, length) in enumerate(self._alone):
            mixed[i : i + 1] = self._look_up(queries[i : i + 1], arena[row : row + 1, :, :length])
        return mixed

    def _look_up(self, queries: Tensor, stored: Tensor) -> Tensor:
        """Do what `_attend` does, given keys and values `[B, 2 * kv_heads, places, d]`."""
        w = self._w
        keys, values = stored[:, : w.num_kv_heads], stored[:, w.num_kv_heads :]
        return nn.functional.scaled_dot_product_attention(
            queries, keys, values, attn_mask=self._mask, scale=w.attention_scale
        )
