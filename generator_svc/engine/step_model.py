"""The base model as the engine uses it: one call a step, on the model thread."""

from generator_svc.decoding.candidates import CandidateRow, Candidates, top_candidates
from generator_svc.engine.scheduler import Batch
from generator_svc.engine.sequence import Sequence
from svc_common.lm.head import Head
from svc_common.lm.runner import SlotRunner


class StepModel:
    """Runs a batch and leaves each sequence's candidates in it."""

    def __init__(self, runner: SlotRunner, head: Head) -> None:
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
            k = sequence.params.top_k
            sequence.candidates = CandidateRow(top_candidates(self._head.logits(hidden), k), 0, k)

    def _decode(self, batch: Batch) -> None:
        best = self.decode(batch.decodes, [s.token_ids[-1] for s in batch.decodes])
        for i, sequence in enumerate(batch.decodes):
            sequence.candidates = CandidateRow(best, i, sequence.params.top_k)

    def decode(self, sequences: list[Sequence], token_ids: list[int]) -> Candidates:
        """Run one token of each sequence and return the candidates that follow it: `[B, K]`."""
        rows = [s.row for s in sequences if s.row is not None]
        hidden = self._runner.decode(rows, token_ids)  # [B, D]
        widest = max(s.params.top_k for s in sequences)
        return top_candidates(self._head.logits(hidden), widest)  # [B, K]

    def take_back(self, sequences: list[Sequence]) -> None:
        """Forget the last token that each sequence ran."""
        for sequence in sequences:
            if sequence.row is not None:
                self._runner.truncate(sequence.row, sequence.row.length - 1)
