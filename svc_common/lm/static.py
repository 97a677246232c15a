"""Decode steps of few fixed shapes, so that a GPU replays each as one CUDA graph.

A step of a large model is some thousand short kernels; started one by one from Python they take
longer than reading the weights does. A graph is started at once, but only for the shapes and the
addresses it was recorded with. So row i of a step is always row i of the arena: no keys or values
are gathered, and rows that do not take part are carried along and write to a scratch place.
"""

from dataclasses import dataclass
from enum import Enum, auto
from functools import partial

import torch
from torch import Tensor

from svc_common.lm.forward import Contents, Step, additive_mask
from svc_common.lm.graphs import Graphs
from svc_common.lm.lean import LeanForward
from svc_common.lm.lean_attention import Attention
from svc_common.lm.lean_layers import LeanWeights
from svc_common.lm.linear import Linear, LowRankLinear, PairedLinear, Split
from svc_common.lm.transfers import to_device, wait_for_stream

MAX_GRAPHS = 96  # recorded at once; the one used longest ago makes room
VIEW_QUANTUM = 256  # least step between attended lengths
ALIGNMENT = 16  # of attended lengths: fused attention on a GPU asks it of a mask's last dimension
_ID, _POSITION, _PLACE, _IS_FIRST = range(4)  # columns of the input buffer


class Groups(Enum):
    """Which rows a step has: of group 0, of group 1, or of both."""

    FIRST = auto()
    SECOND = auto()
    BOTH = auto()


@dataclass(frozen=True)
class Bucket:
    """The shape of a decode step: rows, attended places, and whose weights are read."""

    num_rows: int
    view: int
    groups: Groups


class StaticForward:
    """Implements `Forward`: one token a row by fixed shapes, everything else by `forward` itself.

    On a CUDA device each shape is recorded when it is first met, or before: see `record`. Elsewhere
    the same code runs step by step, from the same buffers.

    Where rows of both groups meet, all rows run both sets of weights and a mask chooses: few rows
    cost what reading the weights costs, and the number of graphs does not depend on how many rows
    belong to which group.

    Args:
        forward: runs prompts, and holds weights and arena.
        max_graphs: graphs that are kept.
    """

    view_quantum = ALIGNMENT

    def __init__(self, forward: LeanForward, max_graphs: int = MAX_GRAPHS) -> None:
        self._forward = forward
        self._depends_on_group = _depends_on_group(forward.weights)
        self._num_slots = 0
        self._scratch = 0
        self._inputs: Tensor
        self._hidden: Tensor
        self._graphs = Graphs(forward.device, max_graphs) if forward.device.type == "cuda" else None

    @property
    def device(self) -> torch.device:
        return self._forward.device

    @property
    def num_cache_bytes(self) -> int:
        """Bytes of all keys and values."""
        return self._forward.num_cache_bytes

    @property
    def num_graphs(self) -> int:
        """Graphs that are recorded at present."""
        return 0 if self._graphs is None else len(self._graphs)

    def allocate(self, num_slots: int, context_length: int) -> None:
        self._num_slots = num_slots
        self._scratch = -(-context_length // ALIGNMENT) * ALIGNMENT  # behind every view
        self._forward.allocate(num_slots, self._scratch + 1)
        weight = self._forward.weights.norm.first
        shape = (num_slots, weight.shape[0])
        self._inputs = torch.tensor(
            [[0, 0, self._scratch, 1]] * num_slots, dtype=torch.int64, device=self.device
        )  # [slots, 4]
        self._hidden = torch.zeros(shape, dtype=weight.dtype, device=self.device)
        self.record()

    @torch.inference_mode()
    def record(self) -> None:
        """Record what a first answer would wait for: short sequences, all numbers of rows."""
        if self._graphs is None:
            return
        groups = Groups.BOTH if self._depends_on_group else Groups.FIRST
        view = view_of(1, self._scratch)
        for num_rows in sorted(
            {rows_of(n, self._num_slots) for n in range(1, self._num_slots + 1)}
        ):
            bucket = Bucket(num_rows, view, groups)
            self._graphs.run(bucket, partial(self.compute, bucket))
        wait_for_stream(self.device)

    def run(self, step: Step, input_ids: Tensor) -> Tensor:
        if input_ids.shape[1] != 1:
            return self._forward.run(step, input_ids)
        bucket = self.fill(step, input_ids)
        if self._graphs is None:
            self.compute(bucket)
        else:
            self._graphs.run(bucket, partial(self.compute, bucket))
        # A copy, for the next step writes over the buffer.
        if isinstance(step.rows, slice):
            hidden = self._hidden[step.rows].clone()
        else:
            hidden = self._hidden[to_device(step.rows, self.device)]
        return hidden.unsqueeze(1)  # [B, 1, D]

    def move(self, source: int, target: int, length: int) -> None:
        self._forward.move(source, target, length)

    def read(self, row: int, length: int, start: int = 0) -> Contents:
        return self._forward.read(row, length, start)

    def write(self, row: int, contents: Contents, length: int, start: int = 0) -> None:
        self._forward.write(row, contents, length, start)

    def fill(self, step: Step, input_ids: Tensor) -> Bucket:
        """Put a step into the input buffer, by one copy that the host does not wait for."""
        rows, num_first = step.rows, step.num_first
        if isinstance(rows, slice):
            last, boundary = rows.stop - 1, rows.start + num_first
        else:
            last = int(rows[-1])
            boundary = int(rows[num_first]) if num_first < len(rows) else last + 1
        num_rows = rows_of(last + 1, self._num_slots)
        host = torch.empty(num_rows, 4, dtype=torch.int64, pin_memory=self._graphs is not None)
        host[:] = torch.tensor([0, 0, self._scratch, 0])  # rows that do not take part
        host[rows, _ID] = input_ids[:, 0].cpu()
        positions = step.positions[:, 0].cpu()
        host[rows, _POSITION] = positions
        host[rows, _PLACE] = positions
        host[:boundary, _IS_FIRST] = 1
        self._inputs[:num_rows].copy_(host, non_blocking=True)
        groups = Groups.FIRST
        if self._depends_on_group and num_first < len(input_ids):
            groups = Groups.BOTH if num_first else Groups.SECOND
        return Bucket(num_rows, view_of(step.view, self._scratch), groups)

    def compute(self, bucket: Bucket) -> None:
        """Run the step in the input buffer. Nothing here depends on, or waits for, a number."""
        forward, num_rows = self._forward, bucket.num_rows
        inputs = self._inputs[:num_rows]  # [B, 4]
        is_first: Split = num_rows if bucket.groups is Groups.FIRST else 0
        if bucket.groups is Groups.BOTH:
            is_first = inputs[:, _IS_FIRST, None] == 1  # [B, 1]
        step = Step(slice(0, num_rows), inputs[:, _POSITION, None], bucket.view, num_first=0)
        mask = additive_mask(step, forward.places, self._hidden.dtype)  # [B, 1, 1, view]
        rows = forward.rows[:num_rows]
        places = inputs[:, _PLACE, None]
        attend = Attention(forward.weights, forward.arena, step, mask, rows, places)
        hidden = forward.compute(inputs[:, _ID], attend, is_first)  # [B, D]
        self._hidden[:num_rows].copy_(hidden)


def rows_of(num_rows: int, num_slots: int) -> int:
    """Return the rows of the smallest shape that holds `num_rows`: 1, 2, 3, 4, 6, 8, 12, 16, ..."""
    return min(_rounded_up(num_rows, quantum=1, parts=2), num_slots)


def view_of(length: int, most: int) -> int:
    """Return the least attended length that shapes are made for: 256, 512, ... 1280, ... 2560."""
    return min(_rounded_up(length, quantum=VIEW_QUANTUM, parts=4), most)


def _rounded_up(number: int, *, quantum: int, parts: int) -> int:
    """Round up to `quantum`, and further up to a part of the power of two below the number."""
    power = 1 << (number - 1).bit_length() >> 1
    step = max(quantum, power // parts)
    return -(-number // step) * step


def _depends_on_group(weights: LeanWeights) -> bool:
    vectors, linears = [weights.embedding, weights.norm], list[Linear]()
    for layer in weights.layers:
        vectors += [layer.attention_norm, layer.mlp_norm]
        linears += [layer.qkv, layer.out, layer.gate_up, layer.down]
    return any(v.second is not None for v in vectors) or any(
        isinstance(linear, PairedLinear | LowRankLinear) for linear in linears
    )
