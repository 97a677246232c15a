"""The frozen backbone's hidden states at all scored positions, in one file of the run folder."""

from collections.abc import Sequence
from pathlib import Path

import torch
from accelerate import PartialState
from torch import Tensor
from tqdm import tqdm

from training.backbone import Backbone
from training.inputs import groups_of_like_length, precision
from training.pair_encoding import PairTable
from training.pairs import make_pair_batch
from training.parallel import own_range
from training.recipe import ComputeSettings


class HiddenStates:
    """Last hidden states of a table's pairs, bfloat16, read from the file as they are needed.

    Args:
        path: the file; 2 D bytes a reply token.
        lengths: `[N, 4]`, as in `PairTable`.
        hidden_size: D.
    """

    def __init__(self, path: Path, lengths: Tensor, hidden_size: int) -> None:
        ends = lengths[:, 2:].sum(1).to(torch.int64).cumsum(0)  # [N]
        self._bounds = [0, *ends.tolist()]
        size = self._bounds[-1] * hidden_size
        flat = torch.from_file(str(path), shared=True, size=size, dtype=torch.bfloat16)
        self._states = flat.view(-1, hidden_size)

    def of(self, numbers: Sequence[int]) -> Tensor:
        """Return the states of some pairs, `[tokens, D]`: of each its chosen, then rejected."""
        return torch.cat([self._states[self._bounds[i] : self._bounds[i + 1]] for i in numbers])

    def put(self, numbers: Sequence[int], states: Tensor) -> None:
        """Write the states of some pairs, in the order of `of`."""
        sizes = [self._bounds[i + 1] - self._bounds[i] for i in numbers]
        for i, part in zip(numbers, torch.split(states, sizes), strict=True):
            self._states[self._bounds[i] : self._bounds[i + 1]] = part


@torch.no_grad()
def kept_hidden(
    backbone: Backbone,
    table: PairTable,
    pad_id: int,
    guided: bool,
    compute: ComputeSettings,
    path: Path,
    state: PartialState,
) -> HiddenStates:
    """Return the hidden states of all pairs, from `path` or computed by all processes."""
    size = backbone.hidden_size
    if not path.is_file():
        unfinished = path.with_name(f"{path.name}.unfinished")
        if state.is_main_process:
            with unfinished.open("wb") as file:
                file.truncate(2 * size * int(table.lengths[:, 2:].sum()))
        state.wait_for_everyone()
        states = HiddenStates(unfinished, table.lengths, size)
        own, lengths = own_range(len(table), state), table.row_lengths(guided)
        groups = groups_of_like_length([lengths[i] for i in own])
        for group in tqdm(groups, path.stem, disable=not state.is_main_process, mininterval=5.0):
            numbers = [own[i] for i in group]
            pairs = [table[i] for i in numbers]
            batch = make_pair_batch(pairs, pad_id, guided).to(backbone.device)
            with precision(compute, backbone.device):
                hidden = backbone.hidden(batch)
            states.put(numbers, hidden.to(torch.bfloat16).cpu())
        state.wait_for_everyone()
        if state.is_main_process:
            unfinished.replace(path)
    state.wait_for_everyone()
    return HiddenStates(path, table.lengths, size)
