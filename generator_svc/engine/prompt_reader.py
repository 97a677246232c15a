"""How prompts get into the KV cache: copied as far as they are known, run where they are not."""

from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from generator_svc.engine.scheduler import Batch, PromptRead
from generator_svc.engine.sequence import Sequence
from svc_common.lm.partitions import partition_of
from svc_common.lm.prefill_pace import PrefillPace
from svc_common.lm.prefix_cache import PrefixCache
from svc_common.lm.prefix_tree import common_length
from svc_common.lm.runner import SlotRunner
from svc_common.lm.slots import Row
from svc_common.lm.transfers import wait_for_stream

COPIES_PER_TOKEN = 128  # tokens that are copied while one is run; measured 200 on a CPU core


class PromptObserver(Protocol):
    """Receives measurements on the model thread; must not raise and must be quick."""

    def prompt_tokens(self, source: str, num_tokens: int) -> None:
        """Say where keys and values of prompt tokens came from: cache, row or forward."""

    def prefix_cache(self, num_tokens: int, num_bytes: int) -> None:
        """Say what the prefix cache holds now."""


@dataclass(frozen=True)
class FinishedPrompt:
    """A prompt that is read to its end, with its last hidden state `[1, D]`."""

    sequence: Sequence
    hidden: Tensor


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
        self._pace = pace
        self._prefixes = prefixes
        self._observer = observer
        self._group = group
        self._live: dict[Row, Sequence] = {}

    def close(self, row: Row) -> None:
        """Give a sequence's row back."""
        del self._live[row]
        self._runner.close(row)

    def read(self, batch: Batch) -> list[FinishedPrompt]:
        """Run as much of the batch's prompts as the pace allows, and note it in `batch.reads`."""
        self._pace.begin_step(delays_others=batch.delays_others)
        finished: list[FinishedPrompt] = []
        nearly: list[Sequence] = []  # one token is left; it is run for all of them at once
        for sequence in batch.prefills:
            if self._pace.left <= 0:
                break
            batch.reads.append(PromptRead(sequence, is_first=sequence.row is None))
            if sequence.row is None:
                self._open(sequence)
            num_left = len(sequence.prompt_ids) - sequence.num_prefilled
            if num_left == 1:
                self._pace.spend(1)
                nearly.append(sequence)
                continue
            num_new = min(num_left, self._pace.left)
            self._pace.spend(num_new)
            hidden = self._run([sequence], num_new)  # [1, T, D]
            if sequence.num_prefilled == len(sequence.prompt_ids):
                finished.append(FinishedPrompt(sequence, hidden[0, -1:]))
        if nearly:
            last = self._run(nearly, 1)  # [B, 1, D]
            pairs = zip(nearly, last, strict=True)
            finished += [FinishedPrompt(sequence, hidden) for sequence, hidden in pairs]
        for prompt in finished:
            self._keep(prompt.sequence)
        return finished

    def _open(self, sequence: Sequence) -> None:
        """Take a row and copy into it what another row or the cache holds of the tenant's prompt.

        All but the prompt's last token, whose hidden state is needed.
        """
        row = self._runner.open(self._group)
        wanted, partition = sequence.prompt_ids[:-1], partition_of(sequence.subject)
        shared = [
            (min(common_length(wanted, other.prompt_ids), other.num_prefilled), source)
            for source, other in self._live.items()
            if partition_of(other.subject) == partition
        ]
        length, source = max(shared, key=lambda pair: pair[0], default=(0, row))
        if length > self._prefixes.count(row.group, wanted, sequence.subject):
            self._runner.copy(source, row, length)
            self._observer.prompt_tokens("row", length)
        else:
            length = self._prefixes.fill(self._runner, row, wanted, sequence.subject)
            self._observer.prompt_tokens("cache", length)
        self._pace.spend(length // COPIES_PER_TOKEN)
        sequence.row, sequence.num_prefilled = row, length
        self._live[row] = sequence

    def _run(self, sequences: Items[Sequence], num_tokens: int) -> Tensor:
        """Run the next `num_tokens` of each prompt; return the last hidden states `[B, T, D]`."""
        rows = [s.row for s in sequences if s.row is not None]
        chunks = [s.prompt_ids[s.num_prefilled : s.num_prefilled + num_tokens] for s in sequences]
        with self._pace.measure(len(rows) * num_tokens):
            hidden = self._runner.extend(rows, chunks)
            wait_for_stream(self._runner.device)  # let the clock see it, not only its start
        for sequence in sequences:
            sequence.num_prefilled += num_tokens
        self._observer.prompt_tokens("forward", len(rows) * num_tokens)
        return hidden

    def _keep(self, sequence: Sequence) -> None:
        assert sequence.row is not None
        self._prefixes.keep(self._runner, sequence.row, sequence.prompt_ids, owner=sequence.subject)
        self._observer.prefix_cache(self._prefixes.num_tokens, self._prefixes.num_bytes)
