"""The rows that a step decodes: by themselves, or in one forward with what is read of prompts."""

from collections.abc import Sequence as Items
from typing import Protocol

from torch import Tensor

from generator_svc.engine.sequence import Sequence
from svc_common.lm.prefill_pace import PrefillPace
from svc_common.lm.runner import Extension
from svc_common.lm.slots import Row
from svc_common.lm.transfers import wait_for_stream


class Rows(Protocol):
    """Rows that are decoded: a `SlotRunner`, or one that others share."""

    @property
    def num_free(self) -> int: ...

    @property
    def context_length(self) -> int: ...

    @property
    def joins(self) -> bool: ...

    def extend_each(self, extensions: Items[Extension]) -> list[Tensor]: ...

    def decode_beside(
        self, rows: Items[Row], token_ids: Items[int], others: Items[Extension]
    ) -> tuple[Tensor, list[Tensor]]: ...

    def truncate(self, row: Row, length: int) -> None: ...


class StepRows:
    """Runs the last token of each of a step's sequences, once.

    Args:
        runner: of the rows.
        sequences: may be none.
    """

    def __init__(self, runner: Rows, sequences: Items[Sequence]) -> None:
        self._runner = runner
        self._rows = [s.row for s in sequences if s.row is not None]
        self._token_ids = [s.token_ids[-1] for s in sequences]
        self.hidden: Tensor | None = None  # last hidden states `[B, D]`, once they were run

    @property
    def num_left(self) -> int:
        """Rows that are still to be run."""
        return 0 if self.hidden is not None else len(self._rows)

    @property
    def num_beside(self) -> int:
        """Rows that the next `run_beside` runs too."""
        return self.num_left if self._runner.joins else 0

    def run(self, pace: PrefillPace) -> None:
        """Run the rows by themselves, while the pace looks at its clock."""
        with pace.measure_rows(len(self._rows)):
            self.hidden, _ = self._runner.decode_beside(self._rows, self._token_ids, [])
            if self._runner.joins:
                wait_for_stream(self.hidden.device)

    def run_beside(self, extensions: Items[Extension]) -> list[Tensor]:
        """Run parts of prompts, and the rows with them where that is one forward."""
        if not self.num_beside:
            return self._runner.extend_each(extensions)
        self.hidden, others = self._runner.decode_beside(self._rows, self._token_ids, extensions)
        return others
