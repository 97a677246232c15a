"""The base model as the engine uses it: one call a step, on the model thread."""

from collections.abc import Sequence as Many
from typing import Protocol

from torch import Tensor

from generator_svc.decoding.candidates import Candidates, top_candidates
from generator_svc.engine.scheduler import Batch
from svc_common.lm.head import Head
from svc_common.lm.slots import Row


class Rows(Protocol):
    """Rows of a KV cache and the forward over them: a `SlotRunner`, or a part of one."""

    @property
    def num_free(self) -> int: ...

    @property
    def context_length(self) -> int: ...

    def open(self) -> Row: ...

    def close(self, row: Row) -> None: ...

    def append(self, row: Row, token_ids: Many[int]) -> Tensor: ...

    def decode(self, rows: Many[Row], token_ids: Many[int]) -> Tensor: ...


class StepModel:
    """Runs a batch and leaves each sequence's candidates in it."""

    def __init__(self, runner: Rows, head: Head) -> None:
        self._runner = runner
        self._head = head

    @property
    def context_length(self) -> int:
        return self._runner.context_length

    @property
    def num_free(self) -> int:
        """Free rows of the KV cache."""
        return self._runner.num_free

    def run(self, batch: Batch) -> None:
        """Give rows back, run a prompt chunk, run one token of each decoding sequence.

        Afterwards every sequence that can choose its next token has `candidates`.
        """
        for row in batch.closes:
            self._runner.close(row)
        if batch.prefill is not None:
            self._prefill(batch)
        if batch.decodes:
            self._decode(batch)

    def _prefill(self, batch: Batch) -> None:
        sequence = batch.prefill
        assert sequence is not None
        if sequence.row is None:
            sequence.row = self._runner.open()
        hidden = self._runner.append(sequence.row, batch.chunk)  # [1, D]
        sequence.num_prefilled += len(batch.chunk)
        if sequence.num_prefilled == len(sequence.prompt_ids):
            best = top_candidates(self._head.logits(hidden), sequence.params.top_k)
            sequence.candidates = Candidates(best.token_ids[0], best.logprobs[0])

    def _decode(self, batch: Batch) -> None:
        rows = [s.row for s in batch.decodes if s.row is not None]
        hidden = self._runner.decode(rows, [s.token_ids[-1] for s in batch.decodes])  # [B, D]
        widest = max(s.params.top_k for s in batch.decodes)
        best = top_candidates(self._head.logits(hidden), widest)  # [B, K]
        for i, sequence in enumerate(batch.decodes):
            k = sequence.params.top_k
            sequence.candidates = Candidates(best.token_ids[i, :k], best.logprobs[i, :k])
