"""What a runner asks of a forward: one pass over rows of its KV cache, and moving rows about."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias, runtime_checkable

import torch
from torch import Tensor

from svc_common.lm.transfers import to_device

Contents: TypeAlias = tuple[Tensor, ...]
"""Keys and values of neighbouring positions, as the forward that read them writes them; the last
dimension but one of each tensor counts the positions."""


@dataclass
class Step:
    """What one forward reads and writes.

    Args:
        rows: row of each sequence, ascending: a slice where they are neighbours, else `[B]` int64.
        positions: `[B, T]` int64, where the new tokens go; ascending within a row.
        view: positions 0..view-1 are attended to.
        num_first: rows of group 0, which stand before those of group 1.
        is_full: every row attends to all of 0..view-1, so no mask is needed.

    Its tensors, and the tokens that are run, may lie on the host: a forward takes them where it
    needs them, so that one that waits for nothing can.
    """

    rows: slice | Tensor
    positions: Tensor
    view: int
    num_first: int
    is_full: bool = False

    def on(self, device: torch.device) -> "Step":
        """Return the same with its tensors on `device`."""
        if self.positions.device == device:
            return self
        rows = self.rows if isinstance(self.rows, slice) else to_device(self.rows, device)
        return replace(self, rows=rows, positions=to_device(self.positions, device))


class Forward(Protocol):
    """A causal language model without its head, over a KV cache of rows. Used by one thread."""

    @property
    def device(self) -> torch.device: ...

    @property
    def view_quantum(self) -> int:
        """The attended length is rounded up to this, so that shapes repeat."""

    def allocate(self, num_slots: int, context_length: int) -> None:
        """Make the cache; called once, before anything else."""

    def run(self, step: Step, input_ids: Tensor) -> Tensor:
        """Run tokens `[B, T]` int64, store their keys and values, return hidden `[B, T, D]`."""

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of row `source` over row `target`."""

    def read(self, row: int, length: int, start: int = 0) -> Contents:
        """Return a copy of the positions start..length-1 of a row."""

    def write(self, row: int, contents: Contents, length: int, start: int = 0) -> None:
        """Put the first `length` positions of what `read` returned at `start` of a row."""


@runtime_checkable
class JoiningForward(Forward, Protocol):
    """A forward that takes several steps in one pass, so that they read the weights once."""

    def run_joined(self, steps: Sequence[tuple[Step, Tensor]]) -> list[Tensor]:
        """Do for each (step, tokens) what `run` does; no row is in two of them.

        At most one of the steps has rows of both groups.
        """


def additive_mask(step: Step, places: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what hides the places behind each token: 0 or the least number, `[B, 1, T, view]`.

    Additive: a boolean mask would be added as 0/1 by eager attention, silently.

    Args:
        places: `[context_length]` int64, 0..context_length-1.
    """
    hidden_places = places[: step.view] > step.positions.unsqueeze(-1)  # [B, T, view]
    mask = torch.zeros(hidden_places.shape, dtype=dtype, device=places.device)
    return mask.masked_fill_(hidden_places, torch.finfo(dtype).min).unsqueeze(1)
