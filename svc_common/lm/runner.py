"""Run a decoder-only transformers model over sequences that join and leave at any step.

All calls must come from one thread (the model thread).
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel

from svc_common.lm.cache import KeysValues, SlotCache, Step
from svc_common.lm.paired import WeightSplit
from svc_common.lm.slots import Row, SlotTable

VIEW_QUANTUM = 32  # attended length is rounded up to this, so that shapes repeat


class SlotRunner:
    """Forwards of the backbone (the model without its head) over rows of a slot cache.

    Args:
        backbone: a transformers base model in eval mode; its output's `last_hidden_state` is used.
        num_slots: most rows at once.
        context_length: most tokens of a row.
        split: set where the backbone carries two sets of weights; group 1 runs the second.
    """

    def __init__(
        self,
        backbone: PreTrainedModel,
        *,
        num_slots: int,
        context_length: int,
        split: WeightSplit | None = None,
    ) -> None:
        self._backbone = backbone
        self._split = split
        parameter = next(backbone.parameters())
        self._device, self._dtype = parameter.device, parameter.dtype
        self._table = SlotTable(num_slots)
        self._cache = SlotCache(backbone.config.num_hidden_layers, num_slots, context_length)
        self._places = torch.arange(context_length, device=self._device)
        self.context_length = context_length
        self.num_forwards = 0  # for tests and metrics: how often the weights were read

    @property
    def num_free(self) -> int:
        return self._table.num_free

    def open(self, group: int = 0) -> Row:
        """Take an empty row.

        Raises:
            NoFreeSlotError: all rows are in use.
        """
        row, moves = self._table.open(group)
        self._move(moves)
        return row

    def close(self, row: Row) -> None:
        """Give a row back."""
        self._move(self._table.close(row))

    @torch.inference_mode()
    def append(self, row: Row, token_ids: Sequence[int], *, all_positions: bool = False) -> Tensor:
        """Run tokens on one row (prefill, or a chunk of it).

        Returns:
            The last hidden state of the last token `[1, D]`, or of all of them `[T, D]`.
        """
        start, end = row.length, row.length + len(token_ids)
        assert start < end <= self.context_length, "prompt was not checked"
        positions = self._places[start:end].unsqueeze(0)  # [1, T]
        ids = torch.tensor([token_ids], device=self._device)  # [1, T]
        hidden = self._forward([row], ids, positions, view=end)[0]  # [T, D]
        row.length = end
        return hidden if all_positions else hidden[-1:]

    @torch.inference_mode()
    def decode(self, rows: Sequence[Row], token_ids: Sequence[int]) -> Tensor:
        """Run one new token on each of several rows, in one forward.

        Returns:
            The last hidden states, in the order of `rows`: `[B, D]`.
        """
        order = sorted(range(len(rows)), key=lambda i: rows[i].index)
        ascending = [rows[i] for i in order]
        longest = max(row.length for row in rows) + 1
        assert longest <= self.context_length, "row is full"
        view = min(self.context_length, -(-longest // VIEW_QUANTUM) * VIEW_QUANTUM)
        device = self._device
        positions = torch.tensor([[row.length] for row in ascending], device=device)  # [B, 1]
        ids = torch.tensor([[token_ids[i]] for i in order], device=device)  # [B, 1]
        hidden = self._forward(ascending, ids, positions, view)[:, 0]  # [B, D]
        for row in rows:
            row.length += 1
        if order == list(range(len(rows))):
            return hidden
        back = torch.empty(len(order), dtype=torch.int64)
        back[torch.tensor(order)] = torch.arange(len(order))
        return hidden[back.to(device)]

    def read(self, row: Row, length: int | None = None) -> list[KeysValues]:
        """Return a copy of the row's first `length` keys and values (all), one pair a layer."""
        return self._cache.read(row.index, row.length if length is None else length)

    def truncate(self, row: Row, length: int) -> None:
        """Forget what stands behind the row's first `length` tokens."""
        assert 0 <= length <= row.length, "row is shorter"
        row.length = length

    @torch.inference_mode()
    def write(self, row: Row, contents: list[KeysValues], length: int) -> None:
        """Fill an empty row with the first `length` positions of what `read` returned."""
        assert row.length == 0, "row is not empty"
        self._cache.write(row.index, [(k[:, :length], v[:, :length]) for k, v in contents])
        row.length = length

    def _forward(self, rows: list[Row], ids: Tensor, positions: Tensor, view: int) -> Tensor:
        """Return the last hidden states `[B, T, D]`; `rows` ascending by index."""
        indexes = [row.index for row in rows]
        is_slice = indexes[-1] - indexes[0] == len(indexes) - 1
        where = slice(indexes[0], indexes[-1] + 1) if is_slice else torch.tensor(indexes)
        self._cache.step = Step(where, positions, view)
        if self._split is not None:
            self._split.num_first = sum(row.group == 0 for row in rows)
        # Additive: a boolean mask would be added as 0/1 by eager attention, silently.
        hidden_places = self._places[:view] > positions.unsqueeze(-1)  # [B, T, view]
        mask = torch.zeros(hidden_places.shape, dtype=self._dtype, device=self._device)
        mask.masked_fill_(hidden_places, torch.finfo(self._dtype).min)
        self.num_forwards += 1
        output = self._backbone(
            input_ids=ids,
            position_ids=positions,
            attention_mask=mask.unsqueeze(1),  # [B, 1, T, view]
            past_key_values=self._cache,
            use_cache=True,
        )
        hidden: Tensor = output.last_hidden_state
        return hidden

    @torch.inference_mode()
    def _move(self, moves: list[tuple[int, int]]) -> None:
        lengths = {row.index: row.length for row in self._table.rows}
        for source, target in moves:
            self._cache.move(source, target, lengths.get(target, 0))
