"""Run a causal language model over sequences that join and leave at any step.

All calls must come from one thread (the model thread).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from svc_common.lm.forward import Contents, Forward, JoiningForward, Step
from svc_common.lm.slots import Row, SlotTable
from svc_common.lm.transfers import to_device


@dataclass(frozen=True)
class Extension:
    """T new tokens for each of several rows."""

    rows: Sequence[Row]
    token_ids: Sequence[Sequence[int]]

    @property
    def num_tokens(self) -> int:
        """Tokens of all rows."""
        return len(self.rows) * len(self.token_ids[0])


class SlotRunner:
    """Which rows a forward works on, and how far each has come.

    Args:
        forward: the model; its cache is made here.
        num_slots: most rows at once.
        context_length: most tokens of a row.
    """

    def __init__(self, forward: Forward, *, num_slots: int, context_length: int) -> None:
        self._run = forward
        self._joining = forward if isinstance(forward, JoiningForward) else None
        self._table = SlotTable(num_slots)
        self.device = forward.device
        self.context_length = context_length
        self.num_forwards = 0  # for tests and metrics: how often the weights were read
        self.num_tokens = 0  # that were run
        forward.allocate(num_slots, context_length)

    @property
    def num_free(self) -> int:
        return self._table.num_free

    @property
    def joins(self) -> bool:
        """Whether `extend_each` takes one forward, not one each."""
        return self._joining is not None

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

    def append(self, row: Row, token_ids: Sequence[int], *, all_positions: bool = False) -> Tensor:
        """Run tokens on one row (prefill, or a chunk of it).

        Returns:
            The last hidden state of the last token `[1, D]`, or of all of them `[T, D]`.
        """
        hidden = self.extend([row], [token_ids])[0]  # [T, D]
        return hidden if all_positions else hidden[-1:]

    def decode(self, rows: Sequence[Row], token_ids: Sequence[int]) -> Tensor:
        """Run one new token on each of several rows, in one forward.

        Returns:
            The last hidden states, in the order of `rows`: `[B, D]`.
        """
        return self.decode_beside(rows, token_ids, [])[0]

    def decode_beside(
        self, rows: Sequence[Row], token_ids: Sequence[int], others: Sequence[Extension]
    ) -> tuple[Tensor, list[Tensor]]:
        """Do what `decode` does for `rows` and what `extend_each` does for others, together."""
        mine = Extension(rows, [[token_id] for token_id in token_ids])
        hidden, *theirs = self.extend_each([mine, *others])
        return hidden[:, 0], theirs

    def extend(self, rows: Sequence[Row], token_ids: Sequence[Sequence[int]]) -> Tensor:
        """Run T new tokens on each of several rows, in one forward.

        Returns:
            The last hidden states, in the order of `rows`: `[B, T, D]`.
        """
        return self.extend_each([Extension(rows, token_ids)])[0]

    @torch.inference_mode()
    def extend_each(self, extensions: Sequence[Extension]) -> list[Tensor]:
        """Do what `extend` does for each, in one forward if the runner `joins`.

        No row is in two of them, and at most one has rows of both groups.

        Returns:
            The last hidden states of each: `[B, T, D]`.
        """
        orders = [_ascending(extension.rows) for extension in extensions]
        pairs = zip(extensions, orders, strict=True)
        steps = [self._step(extension, order) for extension, order in pairs]
        if self._joining is not None:
            hidden = self._joining.run_joined(steps)
            self.num_forwards += 1
        else:
            hidden = [self._run.run(step, input_ids) for step, input_ids in steps]
            self.num_forwards += len(steps)
        for extension in extensions:
            self.num_tokens += extension.num_tokens
            for row, ids in zip(extension.rows, extension.token_ids, strict=True):
                row.length += len(ids)
        return [self._back(its, order) for its, order in zip(hidden, orders, strict=True)]

    def read(self, row: Row, length: int | None = None, start: int = 0) -> Contents:
        """Return a copy of the keys and values at a row's positions start..length-1 (all)."""
        return self._run.read(row.index, row.length if length is None else length, start)

    def truncate(self, row: Row, length: int) -> None:
        """Forget what stands behind the row's first `length` tokens."""
        assert 0 <= length <= row.length, "row is shorter"
        row.length = length

    @torch.inference_mode()
    def write(self, row: Row, contents: Contents, length: int) -> None:
        """Put the first `length` positions of what `read` returned behind what a row holds.

        They must have been read from the same place of a row.
        """
        self._run.write(row.index, contents, length, row.length)
        row.length += length

    @torch.inference_mode()
    def copy(self, source: Row, target: Row, length: int) -> None:
        """Give an empty row the first `length` tokens of another."""
        assert target.length == 0, "row is not empty"
        assert length <= source.length, "row is shorter"
        self._run.move(source.index, target.index, length)
        target.length = length

    def _step(self, extension: Extension, order: list[int]) -> tuple[Step, Tensor]:
        """Return what a forward is told of an extension, and its tokens `[B, T]`, by row index."""
        rows = [extension.rows[i] for i in order]
        ids = torch.tensor([extension.token_ids[i] for i in order], dtype=torch.int64)  # [B, T]
        num_new = ids.shape[1]
        lengths = [row.length for row in rows]
        longest = max(lengths) + num_new
        assert 0 < num_new <= longest <= self.context_length, "row is full"
        quantum = self._run.view_quantum
        view = min(self.context_length, -(-longest // quantum) * quantum)
        first, last = rows[0].index, rows[-1].index
        is_slice = last - first == len(rows) - 1
        positions = torch.tensor(lengths).unsqueeze(1)  # [B, 1]
        if num_new > 1:
            positions = positions + torch.arange(num_new)  # [B, T]
        step = Step(
            rows=slice(first, last + 1) if is_slice else torch.tensor([row.index for row in rows]),
            positions=positions,
            view=view,
            num_first=sum(row.group == 0 for row in rows),
            is_full=num_new == 1 and min(lengths) + 1 == view,
        )
        return step, ids

    def _back(self, hidden: Tensor, order: list[int]) -> Tensor:
        """Return hidden states `[B, T, D]` in the order that was put in `order`."""
        if order == list(range(len(order))):
            return hidden
        back = torch.empty(len(order), dtype=torch.int64)
        back[torch.tensor(order)] = torch.arange(len(order))
        return hidden[to_device(back, self.device)]

    @torch.inference_mode()
    def _move(self, moves: list[tuple[int, int]]) -> None:
        lengths = {row.index: row.length for row in self._table.rows}
        for source, target in moves:
            self._run.move(source, target, lengths.get(target, 0))


def _ascending(rows: Sequence[Row]) -> list[int]:
    """Return which of `rows` comes first in the cache, which second, and so on."""
    return sorted(range(len(rows)), key=lambda i: rows[i].index)
