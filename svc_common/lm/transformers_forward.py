"""The forward of any decoder-only transformers model, over our KV cache."""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from svc_common.lm.cache import SlotCache
from svc_common.lm.forward import Contents, Step, additive_mask
from svc_common.lm.paired import WeightSplit
from svc_common.lm.transfers import to_device


class TransformersForward:
    """Implements `Forward`.

    Args:
        backbone: a transformers base model in eval mode; its output's `last_hidden_state` is used.
        split: set where the backbone carries two sets of weights; group 1 runs the second.
    """

    view_quantum = 32

    def __init__(self, backbone: PreTrainedModel, split: WeightSplit | None = None) -> None:
        self._backbone = backbone
        self._split = split
        parameter = next(backbone.parameters())
        self._device: torch.device = parameter.device
        self._dtype: torch.dtype = parameter.dtype
        self._cache: SlotCache
        self._places: Tensor

    @property
    def device(self) -> torch.device:
        return self._device

    def allocate(self, num_slots: int, context_length: int) -> None:
        self._cache = SlotCache(self._backbone.config.num_hidden_layers, num_slots, context_length)
        self._places = torch.arange(context_length, device=self._device)

    def run(self, step: Step, input_ids: Tensor) -> Tensor:
        step = step.on(self._device)
        self._cache.step = step
        if self._split is not None:
            self._split.num_first = step.num_first
        output = self._backbone(
            input_ids=to_device(input_ids, self._device),
            position_ids=step.positions,
            attention_mask=additive_mask(step, self._places, self._dtype),
            past_key_values=self._cache,
            use_cache=True,
        )
        hidden: Tensor = output.last_hidden_state
        return hidden

    def move(self, source: int, target: int, length: int) -> None:
        self._cache.move(source, target, length)

    def read(self, row: int, length: int, start: int = 0) -> Contents:
        return self._cache.read(row, length, start)

    def write(self, row: int, contents: Contents, length: int, start: int = 0) -> None:
        self._cache.write(row, contents, length, start)
