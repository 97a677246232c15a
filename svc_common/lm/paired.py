"""Two sets of weights of one architecture in one forward: what a row meets depends on its group.

A reward needs the trained model and its frozen reference for the same tokens; one forward for both
pays attention, cache and dispatch once (figures in docs/decisions.md).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class WeightSplit:
    """How many rows of the batch, from the front, run the first set of weights."""

    num_first: int = 0


class PairedLeaf(nn.Module):
    """A layer that runs its first rows through `first` and the others through `second`."""

    def __init__(self, first: nn.Module, second: nn.Module, split: WeightSplit) -> None:
        super().__init__()
        self.first, self.second, self._split = first, second, split

    def forward(self, rows: Tensor) -> Tensor:
        """Map `[B, ...]` row by row."""
        num_first = self._split.num_first
        if num_first == rows.shape[0]:
            return self.first(rows)  # type: ignore[no-any-return]
        if num_first == 0:
            return self.second(rows)  # type: ignore[no-any-return]
        return torch.cat([self.first(rows[:num_first]), self.second(rows[num_first:])])


def pair_weights(model: nn.Module, other: nn.Module) -> WeightSplit:
    """Make `model` carry the weights of `other` as its second set, in place.

    Layers with equal weights are shared. The layers of both must correspond one to one.

    Raises:
        ValueError: the two differ in architecture.
    """
    split = WeightSplit()
    others = dict(other.named_modules())
    for name, module in list(model.named_modules()):
        if not any(True for _ in module.parameters(recurse=False)):
            continue
        twin = others.get(name)
        if twin is None or type(twin) is not type(module) or any(module.children()):
            raise ValueError(f"layer {name}: must be a plain layer with a twin in the other model")
        if not _same_weights(module, twin):
            parent, _, attribute = name.rpartition(".")
            setattr(model.get_submodule(parent), attribute, PairedLeaf(module, twin, split))
    return split


def _same_weights(one: nn.Module, two: nn.Module) -> bool:
    """Whether two layers of one type have equal parameters.

    Raises:
        ValueError: their shapes differ.
    """
    pairs = zip(one.named_parameters(), two.named_parameters(), strict=True)
    for (name, mine), (_, theirs) in pairs:
        if mine.shape != theirs.shape:
            shapes = f"{tuple(mine.shape)} and {tuple(theirs.shape)}"
            raise ValueError(f"parameter {name}: shapes must be equal, got {shapes}")
        if not torch.equal(mine, theirs):
            return False
    return True
