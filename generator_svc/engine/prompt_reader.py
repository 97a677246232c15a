"""How prompts get into the KV cache: copied as far as they are known, run where they are not."""

from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from generator_svc.engine.scheduler import Batch, PromptRead
from generator_svc.engine.sequence import Sequence
from generator_svc.engine.step_rows import StepRows
from svc_common.lm.partitions import partition_of
from svc_common.lm.prefill_pace import PrefillPace
from svc_common.lm.prefix_cache import PrefixCache
from svc_common.lm.prefix_tree import common_length
from svc_common.lm.runner import Extension, SlotRunner
from svc_common.lm.slots import Row
from svc_common.lm.transfers import wait_for_stream

COPIES_PER_TOKEN = 128  # tokens that are copied while one is run; measured 200 on a CPU core
WORTH_A_FORWARD = 8  # tokens that take as long as one more reading of the weights


class PromptObserver(Protocol):
    """Receives measurements on the model thread; must not raise and must be quick."""

    def prompt_tokens(self, source: str, num_tokens: int) -> None:
        """Say where keys and values of prompt tokens came from: cache, row or forward."""

    def prefix_cache(self, num_tokens: int, num_bytes: int) -> None:
        """Say what the prefix cache holds now."""


@dataclass(frozen=True)
class Chunk:
    """The next `num_tokens` of the prompt of each of some sequences."""

    sequences: list[Sequence]
    num_tokens: int

    def extension(self) -> Extension:
        """Return what the runner is asked to run."""
        rows = [s.row for s in self.sequences if s.row is not None]
        starts = [(s, s.num_prefilled) for s in self.sequences]
        return Extension(rows, [s.prompt_ids[n : n + self.num_tokens] for s, n in starts])


@dataclass(frozen=True)
class FinishedPrompt:
    """A prompt that is read to its end, with its last hidden state `[1, D]`."""

    sequence: Sequence
    hidden: Tensor


@dataclass
class _Run:
    """A step's chunks that are to be run, beside its `rows`, and the prompts that were finished."""

    rows: StepRows
    chunks: list[Chunk] = field(default_factory=list)
    finished: list[FinishedPrompt] = field(default_factory=list)

    def ends(self) -> list[tuple[Sequence, int]]:
        """Return the sequences that chunks belong to, and how far those will have read."""
        pairs = [(s, chunk.num_tokens) for chunk in self.chunks for s in chunk.sequences]
        return [(sequence, sequence.num_prefilled + n) for sequence, n in pairs]


class PromptReader:
    """Reads a step's prompts in order; samples of one prompt run it once. For the model thread.

    Args:
        runner: whose rows the prompts get.
        pace: bounds the tokens of a step.
        prefixes: what is known from earlier requests.
        observer: told what was saved.
        group: of the rows.
    """

    def __init__(
        self,
        runner: SlotRunner,
        pace: PrefillPace,
        prefixes: PrefixCache,
        observer: PromptObserver,
        group: int = 0,
    ) -> None:
        self._runner = runner
        self.pace = pace
        self._prefixes = prefixes
        self._observer = observer
        self._group = group
        self._live: dict[Row, Sequence] = {}

    def close(self, row: Row) -> None:
        """Give a sequence's row back."""
        del self._live[row]
        self._runner.close(row)

    def read(self, batch: Batch, rows: StepRows) -> list[FinishedPrompt]:
        """Run as much of the batch's prompts as the pace allows, and note it in `batch.reads`.

        Args:
            batch: the step.
            rows: what it decodes, which is run beside the prompts where that is one forward.
        """
        self.pace.begin_step(delays_others=batch.delays_others)
        if rows.num_beside and not self.pace.can_tell_apart(rows.num_beside):
            rows.run(self.pace)
        if rows.num_beside:
            self.pace.fit_beside(rows.num_beside)
        run = _Run(rows)
        nearly: list[Sequence] = []  # one token is left; it is run for all of them at once
        for sequence in batch.prefills:
            if self.pace.left <= 0:
                break
            batch.reads.append(PromptRead(sequence, is_first=sequence.row is None))
            if sequence.row is None:
                self._open(sequence, run)
            num_left = len(sequence.prompt_ids) - sequence.num_prefilled
            if num_left == 1:
                self.pace.spend(1)
                nearly.append(sequence)
                continue
            num_new = min(num_left, self.pace.left)
            self.pace.spend(num_new)
            run.chunks.append(Chunk([sequence], num_new))
        if nearly:
            run.chunks.append(Chunk(nearly, 1))
        self._run(run)
        for prompt in run.finished:
            self._keep(prompt.sequence)
        return run.finished

    def _open(self, sequence: Sequence, run: "_Run") -> None:
        """Take a row and copy into it what another row or the cache holds of the tenant's prompt.

        All but the prompt's last token, whose hidden state is needed. What `run` is about to run
        is run first, if much of it can be copied.
        """
        wanted, partition = sequence.prompt_ids[:-1], partition_of(sequence.subject)
        common = {
            other: common_length(wanted, other.prompt_ids)
            for other in self._live.values()
            if partition_of(other.subject) == partition
        }
        held = max((min(n, other.num_prefilled) for other, n in common.items()), default=0)
        coming = [min(common.get(s, 0), end) for s, end in run.ends()]
        if max(coming, default=0) >= held + WORTH_A_FORWARD:
            self._run(run)
        row = self._runner.open(self._group)
        shared = [(min(n, other.num_prefilled), other.row) for other, n in common.items()]
        length, source = max(shared, key=lambda pair: pair[0], default=(0, None))
        if source is not None and length > self._prefixes.count(
            row.group, wanted, sequence.subject
        ):
            self._runner.copy(source, row, length)
            self._observer.prompt_tokens("row", length)
        else:
            length = self._prefixes.fill(self._runner, row, wanted, sequence.subject)
            self._observer.prompt_tokens("cache", length)
        self.pace.spend(length // COPIES_PER_TOKEN)
        sequence.row, sequence.num_prefilled = row, length
        self._live[row] = sequence

    def _run(self, run: "_Run") -> None:
        """Run the chunks that wait, in one forward where the runner joins them."""
        chunks, run.chunks = run.chunks, []
        if not chunks:
            return
        num_tokens = sum(chunk.num_tokens * len(chunk.sequences) for chunk in chunks)
        with self.pace.measure(num_tokens, run.rows.num_beside):
            hidden = run.rows.run_beside([chunk.extension() for chunk in chunks])
            wait_for_stream(self._runner.device)  # let the clock see it, not only its start
        for chunk, its in zip(chunks, hidden, strict=True):
            for sequence, states in zip(chunk.sequences, its, strict=True):  # [T, D]
                sequence.num_prefilled += chunk.num_tokens
                if sequence.num_prefilled == len(sequence.prompt_ids):
                    # A copy: it is kept while the answer is written, and must not keep the others.
                    run.finished.append(FinishedPrompt(sequence, states[-1:].clone()))
        self._observer.prompt_tokens("forward", num_tokens)

    def _keep(self, sequence: Sequence) -> None:
        assert sequence.row is not None
        self._prefixes.keep(self._runner, sequence.row, sequence.prompt_ids, owner=sequence.subject)
        self._observer.prefix_cache(self._prefixes.num_tokens, self._prefixes.num_bytes)
