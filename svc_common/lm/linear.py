"""Linear layers of the lean forward: packed for the CPU, and with weights that depend on the row.

`num_first` is how many rows, from the front, belong to group 0 (see `slots`).
"""

from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor, nn

Split: TypeAlias = int | Tensor
"""How many rows, from the front, belong to group 0; or `[N, 1]` bool, true for those that do.

The second costs the work of both groups for all rows, but shapes do not depend on it.
"""

PACK_FOR_ROWS = 4  # packed for few rows: 1 to 6 rows then cost about the same
MAX_EXACT_ROWS = 16
PACKED_DTYPES = (torch.float32, torch.bfloat16)


class Linear(Protocol):
    """Maps rows `[N, in]` to `[N, out]`."""

    def __call__(self, rows: Tensor, num_first: Split) -> Tensor: ...


@dataclass(frozen=True)
class DenseLinear:
    """An ordinary layer: `weight` `[out, in]`, `bias` `[out]` or None."""

    weight: Tensor
    bias: Tensor | None

    def __call__(self, rows: Tensor, num_first: Split) -> Tensor:
        return nn.functional.linear(rows, self.weight, self.bias)


def filled_up(num_rows: int) -> int:
    """Return how many rows are run for `num_rows`: eight numbers an octave, 4 % more on average."""
    if num_rows <= MAX_EXACT_ROWS:
        return max(num_rows, PACK_FOR_ROWS)
    step = _step_at(num_rows)
    return (num_rows + step - 1) // step * step


def filled_down(num_rows: int) -> int:
    """Return the largest number, up to `num_rows`, that is not filled up; few as they are."""
    return num_rows if num_rows <= MAX_EXACT_ROWS else num_rows - num_rows % _step_at(num_rows)


def _step_at(num_rows: int) -> int:
    return 1 << (num_rows.bit_length() - 4)


@dataclass(frozen=True)
class PackedLinear:
    """A layer whose weight lies in oneDNN's blocked order.

    One to six rows take a third to a half of the time of an ordinary layer, and a row's numbers do
    not depend on how many rows there are (figures in docs/decisions.md).

    oneDNN makes code for each number of rows, 0.5 to 2 MiB of it, and keeps that of 1024: prompts
    of all lengths took a gigabyte. So many rows are filled up to a few numbers of them.
    """

    weight: Tensor  # opaque
    bias: Tensor | None

    def __call__(self, rows: Tensor, num_first: Split) -> Tensor:
        num_rows = rows.shape[0]
        num_missing = filled_up(num_rows) - num_rows
        if num_missing:
            rows = nn.functional.pad(rows, (0, 0, 0, num_missing))
        result: Tensor = torch.ops.mkldnn._linear_pointwise(
            rows, self.weight, self.bias, "none", [], ""
        )
        return result[:num_rows]


@dataclass(frozen=True)
class PairedLinear:
    """Rows of group 0 run `first`, those of group 1 `second`."""

    first: Linear
    second: Linear

    def __call__(self, rows: Tensor, num_first: Split) -> Tensor:
        if isinstance(num_first, Tensor):  # few rows: the time is that of reading both weights
            first, second = self.first(rows, num_first), self.second(rows, num_first)
            return torch.where(num_first, first, second)
        if num_first == rows.shape[0]:
            return self.first(rows, num_first)
        if num_first == 0:
            return self.second(rows, 0)
        first, second = self.first(rows[:num_first], num_first), self.second(rows[num_first:], 0)
        return torch.cat([first, second])


@dataclass(frozen=True)
class LowRankLinear:
    """All rows run `base`; those of group 0 add a change of low rank: `(row @ down) @ up`.

    Source: LoRA, arXiv 2106.09685: W x + B A x. The base's weight is read once for both groups.

    Args:
        base: the layer that both groups share.
        down: `[in, r]`.
        up: `[r, out]`, times LoRA's scale.
    """

    base: Linear
    down: Tensor
    up: Tensor

    def __call__(self, rows: Tensor, num_first: Split) -> Tensor:
        result = self.base(rows, num_first)
        if isinstance(num_first, Tensor):
            return result.addmm_((rows @ self.down).mul_(num_first), self.up)
        if num_first:
            result[:num_first].addmm_(rows[:num_first] @ self.down, self.up)
        return result


def make_linear(weight: Tensor, bias: Tensor | None) -> Linear:
    """Return the fastest layer for a weight `[out, in]` where it lies."""
    if weight.device.type == "cpu" and weight.dtype in PACKED_DTYPES and _can_pack(weight.dtype):
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), PACK_FOR_ROWS)
        return PackedLinear(packed, bias)
    return DenseLinear(weight, bias)


def _can_pack(dtype: torch.dtype) -> bool:
    """Whether this build of torch packs, and this CPU computes in the number format."""
    if not hasattr(torch.ops.mkldnn, "_reorder_linear_weight"):
        return False
    return dtype == torch.float32 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
