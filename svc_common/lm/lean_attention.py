"""The attention of one step of the lean forward: rotation, storing, attending."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from svc_common.lm.forward import Step
from svc_common.lm.lean_arena import FETCH_BYTES, StoredRow, fetch, fetches, stored_rows
from svc_common.lm.lean_layers import LeanWeights


class Attention:
    """Attention of one step, the same for all layers.

    The queries of one KV head stand side by side as if they were tokens, so that keys and values
    are not repeated.

    Args:
        weights: of the model.
        arena: `[layers, slots, 2, kv_heads, context, head_dim]`: new keys and values go in.
        step: which rows of the arena attend to how many of their places.
        mask: see `LeanForward._mask`; None: everything is attended to.
        rows: `[B, 1]`, the rows that new keys and values are written to,
        places: and where: `[B, T]`.
        alone: row and length of each sequence, if each attends by itself; `mask` is None then.
    """

    def __init__(
        self,
        weights: LeanWeights,
        arena: Tensor,
        step: Step,
        mask: Tensor | None,
        rows: Tensor,
        places: Tensor,
        alone: Sequence[tuple[int, int]] = (),
    ) -> None:
        self._w = weights
        self._layers = arena.unbind()
        self._step = step
        self._mask = mask
        self._rows = rows
        self._places = places
        self._cos = weights.cos[step.positions]  # [B, T, 1, head_dim]
        self._sin = weights.sin[step.positions]
        self._fetches = fetches(arena.device, arena.dtype)
        # By layer what each sequence that attends by itself reads,
        self._alone: list[tuple[StoredRow, ...]] = []
        # or the parts of the arena that some read together.
        self._parts: list[tuple[Tensor, ...]] = []
        if alone and self._fetches:
            stored = [stored_rows(arena, row, length) for row, length in alone]
            self._alone = list(zip(*stored, strict=True))
        elif alone:
            parts = [arena[:, row : row + 1, :, :, :length].unbind() for row, length in alone]
            self._parts = list(zip(*parts, strict=True))
        elif isinstance(step.rows, slice):
            self._parts = [(part,) for part in arena[:, step.rows, :, :, : step.view].unbind()]

    @property
    def num_tokens(self) -> int:
        return self._step.positions.numel()

    def __call__(self, qkv: Tensor, layer: int) -> Tensor:
        """Map `[N, (heads + 2 * kv_heads) * head_dim]`, which may be written over.

        Returns:
            `[N, heads * head_dim]`.
        """
        w = self._w
        num_rows, num_new = self._step.positions.shape
        heads = qkv.view(num_rows, num_new, -1, w.head_dim)  # [B, T, heads + 2 * kv_heads, d]
        turned = heads[:, :, : w.num_heads + w.num_kv_heads]
        swapped = turned.roll(w.head_dim // 2, -1)
        torch.addcmul(turned * self._cos, swapped, self._sin, out=turned)
        new = heads[:, :, w.num_heads :]  # [B, T, 2 * kv_heads, d]
        new = new.view(num_rows, num_new, 2, w.num_kv_heads, w.head_dim)
        self._layers[layer][self._rows, :, :, self._places] = new
        num_groups = w.num_heads // w.num_kv_heads
        queries = heads[:, :, : w.num_heads]  # [B, T, heads, d]
        queries = queries.view(num_rows, num_new, w.num_kv_heads, num_groups, w.head_dim)
        queries = queries.permute(0, 2, 3, 1, 4).flatten(2, 3)  # [B, kv_heads, groups * T, d]
        mixed = self._attend(queries, layer)  # [B, kv_heads, groups * T, d]
        mixed = mixed.view(num_rows, w.num_kv_heads, num_groups, num_new, w.head_dim)
        return mixed.permute(0, 3, 1, 2, 4).reshape(num_rows * num_new, -1)  # [N, heads * d]

    def _attend(self, queries: Tensor, layer: int) -> Tensor:
        """Return what queries `[B, kv_heads, groups * T, d]` find, in their shape."""
        if self._alone:
            scaled = (queries * self._w.attention_scale).unbind()
            pairs = zip(scaled, self._alone[layer], strict=True)
            return torch.stack([stored.look_up(its) for its, stored in pairs])
        if not self._parts:  # a copy: the rows are no neighbours
            view = self._step.view
            return self._look_up(queries, self._layers[layer][self._step.rows, :, :, :view])
        parts = self._parts[layer]
        if len(parts) == 1:
            return self._look_up(queries, parts[0])
        by_row = queries.split_with_sizes([1] * len(parts))
        return torch.cat(
            [self._look_up(its, part) for its, part in zip(by_row, parts, strict=True)]
        )

    def _look_up(self, queries: Tensor, stored: Tensor) -> Tensor:
        """Do what `_attend` does, in keys and values `[B, 2, kv_heads, places, d]`."""
        is_decoded = self._step.positions.shape[1] == 1  # else it computes more than it reads
        if self._fetches and (is_decoded or stored.nbytes <= 2 * FETCH_BYTES):
            fetch(stored)
        keys, values = stored.unbind(1)
        return nn.functional.scaled_dot_product_attention(
            queries, keys, values, attn_mask=self._mask, scale=self._w.attention_scale
        )


class JoinedAttention:
    """Attention of tokens of several steps, which stand one step behind the other."""

    def __init__(self, attentions: Sequence[Attention]) -> None:
        self._attentions = attentions
        self._counts = [attention.num_tokens for attention in attentions]

    def __call__(self, qkv: Tensor, layer: int) -> Tensor:
        """Do what `Attention` does."""
        if len(self._attentions) == 1:
            return self._attentions[0](qkv, layer)
        pairs = zip(self._attentions, qkv.split_with_sizes(self._counts), strict=True)
        return torch.cat([attend(its, layer) for attend, its in pairs])
