"""The base model as the engine uses it: one call a step, on the model thread."""

import torch
from torch import Tensor

from generator_svc.decoding.candidates import CandidateRow, Candidates, top_candidates
from generator_svc.engine.prompt_reader import PromptReader
from generator_svc.engine.scheduler import Batch
from generator_svc.engine.sequence import Sequence
from generator_svc.engine.step_rows import Rows, StepRows
from svc_common.lm.head import Head
from svc_common.lm.slots import Row


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
        rows = StepRows(self._runner, batch.decodes)
        finished = self._prompts.read(batch, rows) if batch.prefills else []
        if rows.num_left:
            rows.run(self._prompts.pace)
        for prompt in finished:
            prompt.sequence.prompt_end = prompt.hidden
        hidden = [prompt.hidden for prompt in finished]
        if rows.hidden is not None:
            hidden.insert(0, rows.hidden)
        if hidden:
            self._propose([*batch.decodes, *(prompt.sequence for prompt in finished)], hidden)

    def _propose(self, sequences: list[Sequence], hidden: list[Tensor]) -> None:
        """Give sequences the candidates that follow their last hidden states, in their order."""
        widest = max(sequence.params.top_k for sequence in sequences)
        states = hidden[0] if len(hidden) == 1 else torch.cat(hidden)  # [B, D]
        best = top_candidates(self._head.logits(states), widest)  # [B, K]
        for i, sequence in enumerate(sequences):
            sequence.candidates = CandidateRow(best, i, sequence.params.top_k)

    def decode(self, rows: list[Row], token_ids: list[int], num_candidates: int) -> Candidates:
        """Run one token of each row and return the candidates that follow it: `[B, K]`."""
        hidden, _ = self._runner.decode_beside(rows, token_ids, [])  # [B, D]
        return top_candidates(self._head.logits(hidden), num_candidates)  # [B, K]

    def take_back(self, sequences: list[Sequence]) -> None:
        """Forget the last token that each sequence ran."""
        for sequence in sequences:
            if sequence.row is not None:
                self._runner.truncate(sequence.row, sequence.row.length - 1)
