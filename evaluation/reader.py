"""Models reading prompts and, a token at a time, the replies behind them."""

import time
from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor

from evaluation.models import LanguageModel
from svc_common.lm.forward import Contents
from svc_common.lm.runner import SlotRunner
from svc_common.lm.slots import Row
from svc_common.lm.transformers_forward import TransformersForward

NUM_KEPT = 160  # prompts a model: those of one user, or the plain ones
NUM_MODELS = 3  # base, theta, and a base of another size


@dataclass(frozen=True)
class Read:
    """A model and the prompt that it reads for a reply; equal ones are run once."""

    model: LanguageModel
    token_ids: tuple[int, ...]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Read) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[str, tuple[int, ...]]:
        return self.model.weights, self.token_ids


@dataclass(frozen=True)
class _Prompt:
    contents: Contents
    state: Tensor  # [D]
    seconds: float  # that reading it took


class PromptStore:
    """The prompts read last, so that settings that share a prompt read it once."""

    def __init__(self, num_kept: int = NUM_KEPT) -> None:
        self._num_kept = num_kept
        self._prompts: OrderedDict[str, OrderedDict[Read, _Prompt]] = OrderedDict()

    def get(self, read: Read) -> _Prompt | None:
        """Return what `put` kept."""
        kept = self._prompts.get(read.model.weights)
        if kept is None or read not in kept:
            return None
        self._prompts.move_to_end(read.model.weights)
        kept.move_to_end(read)
        return kept[read]

    def put(self, read: Read, prompt: _Prompt) -> None:
        """Keep a prompt, and forget the one not asked for longest."""
        kept = self._prompts.setdefault(read.model.weights, OrderedDict())
        self._prompts.move_to_end(read.model.weights)
        kept[read] = prompt
        if len(kept) > self._num_kept:
            kept.popitem(last=False)
        if len(self._prompts) > NUM_MODELS:
            self._prompts.popitem(last=False)


class Reader:
    """One model over many rows.

    Args:
        num_rows: most rows at once.
        context_length: most tokens of a row.
        store: where prompts are kept.
    """

    def __init__(
        self, model: LanguageModel, num_rows: int, context_length: int, store: PromptStore
    ) -> None:
        self._model = model
        self._store = store
        self._runner = SlotRunner(
            TransformersForward(model.model.base_model),
            num_slots=num_rows,
            context_length=context_length,
        )

    @torch.inference_mode()
    def open(self, read: Read, *, keep: bool) -> tuple[Row, Tensor, float]:
        """Read a prompt into a new row.

        Args:
            keep: other replies will ask for it.

        Returns:
            The row, the last hidden state `[D]`, and the seconds that reading takes, also where
            the prompt is known from before.
        """
        row = self._runner.open()
        kept = self._store.get(read)
        if kept is not None and self._runner.num_forwards:  # the first forward allocates the cache
            self._runner.write(row, kept.contents, len(read.token_ids))
            return row, kept.state, kept.seconds
        started = time.process_time()
        state = self._runner.append(row, read.token_ids)[0]  # [D]
        seconds = time.process_time() - started
        if keep:
            self._store.put(read, _Prompt(self._runner.read(row), state, seconds))
        return row, state, seconds

    def decode(self, rows: list[Row], token_ids: list[int]) -> tuple[Tensor, float]:
        """Add a token to each of some rows; return states `[B, D]` and seconds a row."""
        started = time.process_time()
        states = self._runner.decode(rows, token_ids)  # [B, D]
        return states, (time.process_time() - started) / len(rows)

    def close(self, row: Row) -> None:
        """Forget a row."""
        self._runner.close(row)
