"""A forward without a model: it stores the tokens themselves, so that content can be read."""

import torch
from torch import Tensor

from svc_common.lm.cache import SlotCache
from svc_common.lm.forward import Contents, Step


class TokenForward:
    """Keeps token ids as keys, and their negatives as values, in the cache that models use."""

    device = torch.device("cpu")
    view_quantum = 4

    def allocate(self, num_slots: int, context_length: int) -> None:
        self._cache = SlotCache(1, num_slots, context_length)

    def run(self, step: Step, input_ids: Tensor) -> Tensor:
        """Store tokens `[B, T]`; the hidden state `[B, T, view]` is what each row attends to."""
        self._cache.step = step
        keys = input_ids.float()[:, None, :, None]  # [B, 1, T, 1]
        attended, _ = self._cache.layers[0].update(keys, -keys)
        return attended[:, 0, :, 0].unsqueeze(1).expand(-1, input_ids.shape[1], -1).clone()

    def move(self, source: int, target: int, length: int) -> None:
        self._cache.move(source, target, length)

    def read(self, row: int, length: int, start: int = 0) -> Contents:
        return self._cache.read(row, length, start)

    def write(self, row: int, contents: Contents, length: int, start: int = 0) -> None:
        self._cache.write(row, contents, length, start)


def tokens_of(contents: Contents) -> list[int]:
    """Return which tokens contents are of; keys and values must be of the same."""
    keys, values = contents
    assert torch.equal(keys, -values)
    return [int(token) for token in keys.flatten()]
