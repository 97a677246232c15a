"""What `gpu` measures: one step of plain and of guided decoding, on random models.

Each contender runs a whole step: forward, candidates, rewards, choice, back to token ids.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from benchmarks.random_llama import RandomModel, Shape, new_runner, random_model, with_adapter
from reward_svc.scoring import candidate_logprobs
from svc_common.lm.runner import SlotRunner
from svc_common.lm.slots import Row
from svc_common.lm.transfers import to_device, to_host

PREFILL_CHUNK = 256
BASE_SEED, REWARD_SEED, ADAPTER_SEED = 1, 2, 3
_THETA, _PLAIN = 0, 1  # groups of rows: with the change of low rank, and without


@dataclass(frozen=True)
class Case:
    """Everything that decides what a step costs."""

    shape: Shape
    device: str
    reward_device: str
    dtype: torch.dtype
    batch_size: int
    prompt_length: int
    context_length: int
    top_k: int
    rank: int


class Contender(Protocol):
    """One way to decode `batch_size` sequences."""

    def rewind(self) -> None:
        """Forget all steps: the next one follows the prompt."""

    def step(self) -> list[int]:
        """Return each sequence's next token, once it is on the host."""


class Rows:
    """Rows of a cache that decode together, `batch_size` a part, all with a prompt read."""

    def __init__(self, runner: SlotRunner, case: Case, groups: list[int]) -> None:
        self._runner = runner
        self._rows: list[Row] = []
        self._prompt = [i % case.shape.vocabulary for i in range(case.prompt_length)]
        for group in groups:  # ascending, so that results need no reordering
            rows = [runner.open(group) for _ in range(case.batch_size)]
            for start in range(0, case.prompt_length, PREFILL_CHUNK):
                runner.append(rows[0], self._prompt[start : start + PREFILL_CHUNK])
            contents = runner.read(rows[0])
            for row in rows[1:]:
                runner.write(row, contents, case.prompt_length)
            self._rows += rows
        self._num_parts = len(groups)

    def decode(self, token_ids: list[int]) -> tuple[Tensor, ...]:
        """Run a token a row; return each part's hidden states `[B, D]`."""
        hidden = self._runner.decode(self._rows, token_ids * self._num_parts)
        return hidden.chunk(self._num_parts)

    def rewind(self) -> None:
        for row in self._rows:
            self._runner.truncate(row, len(self._prompt))


class Base:
    """Plain decoding."""

    def __init__(self, model: RandomModel, case: Case, *, has_graphs: bool = True) -> None:
        self._model, self._case = model, case
        runner = new_runner(model, case.batch_size, case.context_length, has_graphs=has_graphs)
        self._rows = Rows(runner, case, [_PLAIN])
        self.rewind()

    def rewind(self) -> None:
        self._rows.rewind()
        self._ids = [1] * self._case.batch_size

    @torch.inference_mode()
    def step(self) -> list[int]:
        (hidden,) = self._rows.decode(self._ids)
        self._ids = _choose(*candidates(self._model, hidden, self._case.top_k))
        return self._ids


class Shared:
    """Base, theta (the base with a change of low rank) and reference in one forward.

    Without a reference the base stands for it, and needs no rows of its own.
    """

    def __init__(self, adapted: RandomModel, case: Case, *, has_reference: bool) -> None:
        self._model, self._case = adapted, case
        groups = [_THETA, _PLAIN, _PLAIN] if has_reference else [_THETA, _PLAIN]
        num_rows = case.batch_size * len(groups)
        runner = new_runner(adapted, num_rows, case.context_length, has_graphs=True)
        self._rows = Rows(runner, case, groups)
        self.rewind()

    def rewind(self) -> None:
        self._rows.rewind()
        self._ids = [1] * self._case.batch_size

    @torch.inference_mode()
    def step(self) -> list[int]:
        theta, base, *others = self._rows.decode(self._ids)
        token_ids, logprobs = candidates(self._model, base, self._case.top_k)
        (reference,) = others or [base]
        rewards = _logprobs(self._model, theta, token_ids)
        rewards = rewards - _logprobs(self._model, reference, token_ids)
        self._ids = _choose(token_ids, logprobs + rewards)
        return self._ids


class InTurn:
    """Base and a theta with all weights of its own, one forward after the other."""

    def __init__(self, base: RandomModel, theta: RandomModel, case: Case) -> None:
        self._base, self._theta, self._case = base, theta, case
        size = (case.batch_size, case.context_length)
        self._base_rows = Rows(new_runner(base, *size, has_graphs=True), case, [_PLAIN])
        self._theta_rows = Rows(new_runner(theta, *size, has_graphs=True), case, [_PLAIN])
        self.rewind()

    def rewind(self) -> None:
        self._base_rows.rewind()
        self._theta_rows.rewind()
        self._ids = [1] * self._case.batch_size

    @torch.inference_mode()
    def step(self) -> list[int]:
        (theta,) = self._theta_rows.decode(self._ids)
        (base,) = self._base_rows.decode(self._ids)
        token_ids, logprobs = candidates(self._base, base, self._case.top_k)
        rewards = _logprobs(self._theta, theta, token_ids)
        rewards = rewards - _logprobs(self._base, base, token_ids)
        self._ids = _choose(token_ids, logprobs + rewards)
        return self._ids


class Rewards:
    """A reward model by itself: theta (a model with a change of low rank) and its reference."""

    def __init__(self, case: Case) -> None:
        self._device = torch.device(case.reward_device)
        plain = random_model(
            case.shape, self._device, case.dtype, case.context_length, seed=REWARD_SEED
        )
        self._model = with_adapter(plain, case.shape, case.rank, seed=ADAPTER_SEED)
        runner = new_runner(self._model, 2 * case.batch_size, case.context_length, has_graphs=True)
        self._rows = Rows(runner, case, [_THETA, _PLAIN])
        self._hidden: tuple[Tensor, ...] = ()

    def rewind(self) -> None:
        self._rows.rewind()
        self._hidden = ()

    @torch.inference_mode()
    def commit(self, token_ids: list[int]) -> None:
        """Run a token a sequence; nobody waits for it."""
        self._hidden = self._rows.decode(token_ids)

    @torch.inference_mode()
    def score(self, token_ids: Tensor) -> Tensor:
        """Return what the candidates `[B, K]` are worth after what was committed, on the host."""
        assert self._hidden, "nothing is committed"
        theta, reference = self._hidden
        token_ids = to_device(token_ids, self._device)
        rewards = _logprobs(self._model, theta, token_ids)
        (rewards,) = to_host(rewards - _logprobs(self._model, reference, token_ids))
        return rewards


@torch.inference_mode()
def candidates(model: RandomModel, hidden: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Return ids and log-probabilities of the likeliest tokens, on the device: `[B, K]` each."""
    logits = model.head(hidden, len(hidden)).float()  # [B, V]
    best = logits.topk(top_k, dim=-1)  # [B, K]
    return best.indices, best.values - logits.logsumexp(-1, keepdim=True)


def _logprobs(model: RandomModel, hidden: Tensor, token_ids: Tensor) -> Tensor:
    """Return log-probabilities among the candidates: `[B, K]` float32."""
    return candidate_logprobs(model.candidate_logits(hidden, token_ids))


def _choose(token_ids: Tensor, scores: Tensor) -> list[int]:
    columns = scores.argmax(-1, keepdim=True)  # [B, 1]
    (chosen,) = to_host(token_ids.gather(1, columns))
    return [int(token_id) for token_id in chosen[:, 0].tolist()]
