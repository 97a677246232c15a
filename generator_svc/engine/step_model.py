"""The base model as the engine uses it: one call a step, on the model thread."""

from collections.abc import Sequence as Items
from typing import Protocol

import torch
from torch import Tensor

from generator_svc.decoding.candidates import CandidateRow, Candidates, top_candidates
from generator_svc.engine.prompt_reader import PromptReader
from generator_svc.engine.scheduler import Batch
from generator_svc.engine.sequence import Sequence
from svc_common.lm.head import Head
from svc_common.lm.slots import Row


class Rows(Protocol):
    """Rows that are decoded: a `SlotRunner`, or one that others share."""

    @property
    def num_free(self) -> int: ...

    @property
    def context_length(self) -> int: ...

    def decode(self, rows: Items[Row], token_ids: Items[int]) -> Tensor: ...

    def truncate(self, row: Row, length: int) -> None: ...


class StepModel:
    """Runs a batch and leaves each sequence's candidates in it."""

    def __init__(self, runner: Rows, head: Head, prompts: PromptReader) -> None:
        self._runner = runner
        self._head = head
        self._prompts = prompts

    @property
    def context_length(self) -> int:
        return self._runner.context_length

    @property
    def num_free(self) -> int:
        """Free rows of the KV cache."""
        return self._runner.num_free

    def run(self, batch: Batch) -> None:
        """Give rows back, read on in prompts, run one token of each decoding sequence.

        Afterwards every sequence that can choose its next token has `candidates`.
        """
        for row in batch.closes:
            self._prompts.close(row)
        if batch.prefills:
            self._prefill(batch)
        if batch.decodes:
            self._decode(batch)

    def _prefill(self, batch: Batch) -> None:
        finished = self._prompts.read(batch)
        if not finished:
            return
        hidden = torch.cat([prompt.hidden for prompt in finished])  # [B, D]
        widest = max(prompt.sequence.params.top_k for prompt in finished)
        best = top_candidates(self._head.logits(hidden), widest)  # [B, K]
        for i, prompt in enumerate(finished):
            prompt.sequence.candidates = CandidateRow(best, i, prompt.sequence.params.top_k)
            prompt.sequence.prompt_end = hidden[i : i + 1]

    def _decode(self, batch: Batch) -> None:
        rows = [s.row for s in batch.decodes if s.row is not None]
        widest = max(s.params.top_k for s in batch.decodes)
        best = self.decode(rows, [s.token_ids[-1] for s in batch.decodes], widest)
        for i, sequence in enumerate(batch.decodes):
            sequence.candidates = CandidateRow(best, i, sequence.params.top_k)

    def decode(self, rows: list[Row], token_ids: list[int], num_candidates: int) -> Candidates:
        """Run one token of each row and return the candidates that follow it: `[B, K]`."""
        hidden = self._runner.decode(rows, token_ids)  # [B, D]
        return top_candidates(self._head.logits(hidden), num_candidates)  # [B, K]

    def take_back(self, sequences: list[Sequence]) -> None:
        """Forget the last token that each sequence ran."""
        for sequence in sequences:
            if sequence.row is not None:
                self._runner.truncate(sequence.row, sequence.row.length - 1)
