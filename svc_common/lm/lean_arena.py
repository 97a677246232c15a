"""The keys and values of the lean forward: how they lie in memory, and how a row looks them up."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

FETCH_BYTES = 1 << 20  # of keys, or of values, that stay in a core's own cache


class ArenaShape(NamedTuple):
    """How many of what; `num_heads` counts those of keys."""

    num_layers: int
    num_slots: int
    num_heads: int
    context_length: int
    head_dim: int


def fetches(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether keys and values are fetched before they are looked up; see `fetch`.

    In 16 bits they are half as many, and attention has to convert them: it is slower than memory.
    """
    return device.type == "cpu" and dtype == torch.float32


def new_arena(shape: ArenaShape, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return memory `[layers, slots, 2, kv_heads, context, head_dim]`, keys before values.

    Where they are fetched, all heads of a place stand together, so that a row's keys are one piece
    of memory, and so are its values. Elsewhere all places of a head do.
    """
    # Zeros, as 0 * NaN would be NaN behind the mask.
    layers, slots, heads, places, size = shape
    if fetches(device, dtype):
        return torch.zeros(layers, slots, 2, places, heads, size, dtype=dtype).transpose(3, 4)
    return torch.zeros(layers, slots, 2, heads, places, size, dtype=dtype, device=device)


def fetch(stored: Tensor) -> None:
    """Bring keys or values into the core's cache, as fast as the memory gives them.

    Attention that reads from the memory itself gets half of that: it goes by head, and has little
    to do with what it read (figures in docs/decisions.md).
    """
    stored.amax()


class _Piece(NamedTuple):
    """Neighbouring places of a row in a layer.

    Args:
        keys: `[kv_heads, places, d]`.
        turned_keys: `[kv_heads, d, places]`.
        values: `[kv_heads, places, d]`.
    """

    keys: Tensor
    turned_keys: Tensor
    values: Tensor


class StoredRow:
    """What a layer stored of one row, in pieces of at most `FETCH_BYTES`."""

    def __init__(self, pieces: Sequence[_Piece]) -> None:
        self._pieces = pieces

    def look_up(self, queries: Tensor) -> Tensor:
        """Return what scaled queries `[kv_heads, N, d]` find, in their shape.

        Each piece is looked at while it is in the core's cache.
        """
        if len(self._pieces) == 1:  # as most
            (piece,) = self._pieces
            fetch(piece.keys)
            shares = torch.bmm(queries, piece.turned_keys).softmax(-1)  # [kv_heads, N, places]
            fetch(piece.values)
            return torch.bmm(shares, piece.values)
        scores = []
        for piece in self._pieces:
            fetch(piece.keys)
            scores.append(torch.bmm(queries, piece.turned_keys))
        counts = [its.shape[-1] for its in scores]
        parts = torch.cat(scores, dim=-1).softmax(-1).split_with_sizes(counts, -1)
        found = torch.zeros_like(queries)
        for its, piece in zip(parts, self._pieces, strict=True):
            fetch(piece.values)
            found.baddbmm_(its, piece.values)
        return found


def stored_rows(arena: Tensor, row: int, num_places: int) -> list[StoredRow]:
    """Return what each layer stored of a row's first places."""
    num_bytes = arena[0, 0, 0, :, 0].nbytes * num_places
    size = -(-num_places // -(-num_bytes // FETCH_BYTES))  # places of a piece
    pieces = []
    for start in range(0, num_places, size):
        stop = min(start + size, num_places)
        keys, values = arena[:, row, :, :, start:stop].unbind(1)  # [layers, kv_heads, places, d]
        views = (keys.unbind(), keys.transpose(2, 3).unbind(), values.unbind())
        pieces.append([_Piece(*its) for its in zip(*views, strict=True)])
    return [StoredRow(its) for its in zip(*pieces, strict=True)]
