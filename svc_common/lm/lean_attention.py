"""The attention of one step of the lean forward: rotation, storing, attending."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from svc_common.lm.forward import Step
from svc_common.lm.lean_layers import LeanWeights

FETCH_BYTES = 3 << 19  # of keys and values that a core's own cache holds


def fetch_pays(num_bytes: int, dtype: torch.dtype) -> bool:
    """Whether keys and values are to be fetched: see `Stored.fetch`.

    In 16 bits they are half as many, and attention has to convert them: it is slower than memory.
    """
    return dtype == torch.float32 and num_bytes <= FETCH_BYTES


class Stored(NamedTuple):
    """Views of what a layer stored of some rows.

    Args:
        both: keys and values `[B, 2 * kv_heads, places, d]`.
        keys: `[B, kv_heads, places, d]`.
        values: the same.
        is_fetched: `fetch` pays.
    """

    both: Tensor
    keys: Tensor
    values: Tensor
    is_fetched: bool

    def fetch(self) -> None:
        """Bring all into the core's cache, as fast as the memory gives it.

        Attention that reads from the memory itself gets half of that: it goes by head, and has
        little to do with what it read (figures in docs/decisions.md).
        """
        if self.is_fetched:
            self.both.amax()


def _by_layer(stored: Tensor) -> list[Stored]:
    """Return the parts of `[layers, B, 2 * kv_heads, places, d]`."""
    keys, values = stored.chunk(2, dim=2)
    is_fetched = fetch_pays(stored[0].numel() * stored.element_size(), stored.dtype)
    views = zip(stored.unbind(), keys.unbind(), values.unbind(), strict=True)
    return [Stored(*its, is_fetched) for its in views]


class Attention:
    """Attention of one step, the same for all layers.

    The queries of one KV head stand side by side as if they were tokens, so that keys and values
    are not repeated.

    Args:
        weights: of the model.
        arena: `[layers, slots, 2 * kv_heads, context, head_dim]`: new keys and values go in.
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
        stored = [arena[:, row : row + 1, :, :length] for row, length in alone]
        if not stored and isinstance(step.rows, slice):
            stored = [arena[:, step.rows, :, : step.view]]
        self._stored = list(zip(*map(_by_layer, stored), strict=True))
        self._is_alone = bool(alone)

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
        self._layers[layer][self._rows, :, self._places] = heads[:, :, w.num_heads :]
        num_groups = w.num_heads // w.num_kv_heads
        queries = heads[:, :, : w.num_heads]  # [B, T, heads, d]
        queries = queries.view(num_rows, num_new, w.num_kv_heads, num_groups, w.head_dim)
        queries = queries.permute(0, 2, 3, 1, 4).flatten(2, 3)  # [B, kv_heads, groups * T, d]
        mixed = self._attend(queries, layer)  # [B, kv_heads, groups * T, d]
        mixed = mixed.view(num_rows, w.num_kv_heads, num_groups, num_new, w.head_dim)
        return mixed.permute(0, 3, 1, 2, 4).reshape(num_rows * num_new, -1)  # [N, heads * d]

    def _attend(self, queries: Tensor, layer: int) -> Tensor:
        """Return what queries `[B, kv_heads, groups * T, d]` find, in their shape."""
        if not self._stored:  # a copy: the rows are no neighbours
            stored = self._layers[layer][self._step.rows, :, : self._step.view]
            return self._look_up(queries, *stored.chunk(2, dim=1))
        if not self._is_alone:
            (stored,) = self._stored[layer]
            return self._look_up(queries, stored.keys, stored.values)
        mixed = []
        by_row = queries.split_with_sizes([1] * len(self._stored[layer]))
        for its, stored in zip(by_row, self._stored[layer], strict=True):
            stored.fetch()
            mixed.append(self._look_up(its, stored.keys, stored.values))
        return torch.cat(mixed)

    def _look_up(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Do what `_attend` does, given keys and values: `[B, kv_heads, places, d]` each."""
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
