"""The lean forward of Llama-like models: fused projections, one KV arena, masks where needed.

It computes what transformers' forward computes, with a fifth of the operations (figures in
docs/decisions.md). `lean_weights` makes `LeanWeights` from a transformers model.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from svc_common.lm.forward import Contents, Step, additive_mask
from svc_common.lm.lean_arena import ArenaShape, fetches, new_arena
from svc_common.lm.lean_attention import Attention, JoinedAttention
from svc_common.lm.lean_layers import LeanWeights, RowVectors
from svc_common.lm.linear import Split
from svc_common.lm.transfers import to_device

CALL_BYTES = 3 << 15  # that are read in the time that it takes more to attend alone
TOGETHER_BYTES = 5 << 20  # of keys and values that stay in caches until they are attended to


class LeanForward:
    """Implements `JoiningForward`.

    Its arena is `[layers, slots, 2, kv_heads, context, head_dim]`; see `new_arena`.
    """

    view_quantum = 1

    def __init__(self, weights: LeanWeights) -> None:
        self.weights = weights
        self._device = weights.embedding.first.device
        self._dtype = weights.embedding.first.dtype
        self.arena: Tensor
        self.rows: Tensor  # [slots, 1], 0..num_slots-1
        self.places: Tensor  # [context], 0..context_length-1

    @property
    def device(self) -> torch.device:
        return self._device

    @property
    def num_cache_bytes(self) -> int:
        """Bytes of all keys and values."""
        return self.arena.numel() * self.arena.element_size()

    def allocate(self, num_slots: int, context_length: int) -> None:
        w = self.weights
        shape = ArenaShape(len(w.layers), num_slots, w.num_kv_heads, context_length, w.head_dim)
        self.arena = new_arena(shape, self._dtype, self._device)
        self.places = torch.arange(context_length, device=self._device)
        self.rows = torch.arange(num_slots, device=self._device).unsqueeze(1)

    def run(self, step: Step, input_ids: Tensor) -> Tensor:
        return self.run_joined([(step, input_ids)])[0]

    def run_joined(self, steps: Sequence[tuple[Step, Tensor]]) -> list[Tensor]:
        # Tokens of group 0 must stand before those of group 1.
        order = sorted(range(len(steps)), key=lambda i: _groups(steps[i][0]))
        parts = [steps[i] for i in order]
        num_first = sum(step.num_first * input_ids.shape[1] for step, input_ids in parts)
        flat = [input_ids.reshape(-1) for _, input_ids in parts]
        token_ids = to_device(flat[0] if len(flat) == 1 else torch.cat(flat), self._device)  # [N]
        attend = JoinedAttention([self._attention(step.on(self._device)) for step, _ in parts])
        hidden = self.compute(token_ids, attend, num_first)  # [N, D]
        found: list[Tensor] = [hidden] * len(steps)
        for i, its in zip(order, hidden.split_with_sizes([len(ids) for ids in flat]), strict=True):
            found[i] = its.view(*steps[i][1].shape, -1)  # [B, T, D]
        return found

    def _attention(self, step: Step) -> Attention:
        rows = step.rows
        rows = self.rows[rows] if isinstance(rows, slice) else rows.unsqueeze(1)  # [B, 1]
        alone = self._alone(step)
        mask = None if alone else self._mask(step)
        return Attention(self.weights, self.arena, step, mask, rows, step.positions, alone)

    def compute(
        self, token_ids: Tensor, attend: Callable[[Tensor, int], Tensor], num_first: Split
    ) -> Tensor:
        """Run tokens `[N]` through all layers: `[N, D]`."""
        w = self.weights
        hidden = self._embed(token_ids, num_first)  # [N, D]
        for index, layer in enumerate(w.layers):
            normed = self._norm(hidden, layer.attention_norm, num_first)
            mixed = attend(layer.qkv(normed, num_first), index)  # [N, heads * head_dim]
            hidden = layer.out(mixed, num_first).add_(hidden)
            normed = self._norm(hidden, layer.mlp_norm, num_first)
            gate, up = layer.gate_up(normed, num_first).chunk(2, dim=-1)
            hidden = layer.down(w.activation(gate).mul_(up), num_first).add_(hidden)
        return self._norm(hidden, w.norm, num_first)

    def move(self, source: int, target: int, length: int) -> None:
        self.arena[:, target, :, :, :length] = self.arena[:, source, :, :, :length]

    def read(self, row: int, length: int, start: int = 0) -> Contents:
        """Return one tensor `[layers, 2, kv_heads, length - start, head_dim]`."""
        return (self.arena[:, row, :, :, start:length].clone(),)

    def write(self, row: int, contents: Contents, length: int, start: int = 0) -> None:
        self.arena[:, row, :, :, start : start + length] = contents[0][..., :length, :]

    def _alone(self, step: Step) -> list[tuple[int, int]]:
        """Return row and length of each sequence if each is to attend alone, else nothing.

        Sequences that attend together read as many places as the longest of them has, and a copy
        if their rows are no neighbours. Few of these are read in the time of a call. What is
        fetched must not be more than caches hold.
        """
        if self._device.type != "cpu" or step.positions.shape[1] > 1:
            return []
        lengths = [position + 1 for position in step.positions[:, 0].tolist()]
        if not isinstance(step.rows, slice):
            return list(zip(step.rows.tolist(), lengths, strict=True))
        place_bytes = self.arena[0, 0, :, :, 0].nbytes
        num_read = step.view * len(lengths)  # places
        saves = (num_read - sum(lengths)) * place_bytes > len(lengths) * CALL_BYTES
        is_much = num_read * place_bytes > TOGETHER_BYTES
        if saves or (is_much and fetches(self._device, self._dtype)):
            return list(enumerate(lengths, start=step.rows.start))
        return []

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


def _groups(step: Step) -> int:
    """Return 0, 1 or 2 where a step's rows are of group 0, of both, or of group 1."""
    num_rows = step.positions.shape[0]
    return 0 if step.num_first == num_rows else 2 if step.num_first == 0 else 1
