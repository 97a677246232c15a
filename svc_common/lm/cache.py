"""A KV cache whose rows grow, join and leave independently (transformers cache interface)."""

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from svc_common.lm.forward import Contents, Step


class SlotLayer(CacheLayerMixin):  # type: ignore[misc]  # transformers is untyped here
    """One layer's keys and values: `[num_slots, kv_heads, context_length, head_dim]`."""

    is_sliding = False

    def __init__(self, cache: "SlotCache") -> None:
        super().__init__()
        self._cache = cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate for the shapes that the model really uses; zeros, as 0 * NaN would be NaN."""
        slots, length = self._cache.num_slots, self._cache.context_length
        for name, states in (("keys", key_states), ("values", value_states)):
            shape = (slots, states.shape[1], length, states.shape[3])
            setattr(self, name, torch.zeros(shape, dtype=states.dtype, device=states.device))
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *_args: object, **_kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Store `[B, kv_heads, T, head_dim]` at the step's places; return what is attended to."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        step = self._cache.step
        rows = step.rows
        places = torch.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
        places = places.to(step.positions.device).unsqueeze(1)  # [B, 1]
        self.keys[places, :, step.positions] = key_states.transpose(1, 2)  # [B, T, heads, dim]
        self.values[places, :, step.positions] = value_states.transpose(1, 2)
        return self.keys[rows, :, : step.view], self.values[rows, :, : step.view]

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Say what a mask would have to cover (ours is handed in, so none is ever built)."""
        return self._cache.step.view, 0

    def get_seq_length(self) -> int:
        """Position of the step's first token (models use it only where we pass no positions)."""
        return int(self._cache.step.positions[0, 0])

    def get_max_length(self) -> int:
        return self._cache.context_length


class SlotCache(Cache):  # type: ignore[misc]  # transformers is untyped here
    """The cache of all layers; `step` says what the next forward works on."""

    def __init__(self, num_layers: int, num_slots: int, context_length: int) -> None:
        self.num_slots = num_slots
        self.context_length = context_length
        self.step = Step(slice(0, 0), torch.zeros(0, 0, dtype=torch.int64), 0, 0)
        super().__init__(layers=[SlotLayer(self) for _ in range(num_layers)])

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of row `source` over row `target`."""
        for layer in self._allocated():
            layer.keys[target, :, :length] = layer.keys[source, :, :length]
            layer.values[target, :, :length] = layer.values[source, :, :length]

    def read(self, row: int, length: int, start: int = 0) -> Contents:
        """Return copies of a row's positions start..length-1, layer by layer keys and values."""
        parts = [(layer.keys, layer.values) for layer in self._allocated()]
        return tuple(part[row, :, start:length].clone() for pair in parts for part in pair)

    def write(self, row: int, contents: Contents, length: int, start: int = 0) -> None:
        """Put the first `length` positions of what `read` returned at `start` of a row."""
        end = start + length
        layers = self._allocated()
        for layer, keys, values in zip(layers, contents[::2], contents[1::2], strict=True):
            layer.keys[row, :, start:end] = keys[:, :length]
            layer.values[row, :, start:end] = values[:, :length]

    def _allocated(self) -> list[SlotLayer]:
        return [layer for layer in self.layers if layer.is_initialized]
