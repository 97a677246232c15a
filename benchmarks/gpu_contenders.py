"""What `gpu` measures: one step of plain and of guided decoding, on random models.

Each contender runs a whole step: forward, candidates, rewards, choice, back to token ids.
"""

import multiprocessing
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType

import torch
from torch import Tensor

from benchmarks.random_llama import RandomModel, Shape, new_runner, random_model, with_adapter
from reward_svc.scoring import candidate_logprobs
from svc_common.lm.runner import SlotRunner
from svc_common.lm.slots import Row
from svc_common.lm.transfers import to_device, to_host

PREFILL_CHUNK = 256
_COMMIT, _SCORE = b"c", b"s"
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


class Rows:
    """Rows of a cache that decode together, `batch_size` a part, all with a prompt read."""

    def __init__(self, runner: SlotRunner, case: Case, groups: list[int]) -> None:
        self._runner = runner
        self._rows: list[Row] = []
        for group in groups:  # ascending, so that results need no reordering
            rows = [runner.open(group) for _ in range(case.batch_size)]
            prompt = [i % case.shape.vocabulary for i in range(case.prompt_length)]
            for start in range(0, len(prompt), PREFILL_CHUNK):
                runner.append(rows[0], prompt[start : start + PREFILL_CHUNK])
            contents = runner.read(rows[0])
            for row in rows[1:]:
                runner.write(row, contents, len(prompt))
            self._rows += rows
        self._num_parts = len(groups)

    def decode(self, token_ids: list[int]) -> tuple[Tensor, ...]:
        """Run a token a row; return each part's hidden states `[B, D]`."""
        hidden = self._runner.decode(self._rows, token_ids * self._num_parts)
        return hidden.chunk(self._num_parts)


class Base:
    """Plain decoding."""

    def __init__(self, model: RandomModel, case: Case, *, has_graphs: bool = True) -> None:
        self._model, self._case = model, case
        runner = new_runner(model, case.batch_size, case.context_length, has_graphs=has_graphs)
        self._rows = Rows(runner, case, [_PLAIN])
        self._ids = [1] * case.batch_size

    def step(self) -> None:
        (hidden,) = self._rows.decode(self._ids)
        token_ids, _ = to_host(*_candidates(self._model, hidden, self._case.top_k))
        self._ids = token_ids[:, 0].tolist()


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
        self._ids = [1] * case.batch_size

    def step(self) -> None:
        theta, base, *reference = self._rows.decode(self._ids)
        token_ids, logprobs = _candidates(self._model, base, self._case.top_k)
        rewards = _logprobs(self._model, theta, token_ids)
        for hidden in reference or [base]:
            rewards = rewards - _logprobs(self._model, hidden, token_ids)
        self._ids = _choose(token_ids, logprobs + rewards)


class InTurn:
    """Base and a theta with all weights of its own, one forward after the other."""

    def __init__(self, base: RandomModel, theta: RandomModel, case: Case) -> None:
        self._base, self._theta, self._case = base, theta, case
        size = (case.batch_size, case.context_length)
        self._base_rows = Rows(new_runner(base, *size, has_graphs=True), case, [_PLAIN])
        self._theta_rows = Rows(new_runner(theta, *size, has_graphs=True), case, [_PLAIN])
        self._ids = [1] * case.batch_size

    def step(self) -> None:
        (theta,) = self._theta_rows.decode(self._ids)
        (base,) = self._base_rows.decode(self._ids)
        token_ids, logprobs = _candidates(self._base, base, self._case.top_k)
        rewards = _logprobs(self._theta, theta, token_ids)
        self._ids = _choose(token_ids, logprobs + rewards)


class OwnProcess(AbstractContextManager["OwnProcess"]):
    """Base here, theta and reference in a process of their own; commit and forward overlap."""

    def __init__(self, base: RandomModel, case: Case) -> None:
        self._model, self._case = base, case
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=serve_rewards, args=(theirs, case), daemon=True)
        self._process.start()
        theirs.close()  # so that its end is the end of the pipe
        runner = new_runner(base, case.batch_size, case.context_length, has_graphs=True)
        self._rows = Rows(runner, case, [_PLAIN])
        self._ids = [1] * case.batch_size

    def __enter__(self) -> "OwnProcess":
        """Wait until it has its model.

        Raises:
            EOFError: it ended, as its error output says.
        """
        self._pipe.recv_bytes()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._pipe.close()
        self._process.join()

    def step(self) -> None:
        self._pipe.send_bytes(_COMMIT + torch.tensor(self._ids).numpy().tobytes())
        (hidden,) = self._rows.decode(self._ids)
        token_ids, logprobs = to_host(*_candidates(self._model, hidden, self._case.top_k))
        self._pipe.send_bytes(_SCORE + token_ids.contiguous().numpy().tobytes())
        answer = bytearray(self._pipe.recv_bytes())
        rewards = torch.frombuffer(answer, dtype=torch.float32).view(logprobs.shape)
        self._ids = _choose(token_ids, logprobs + rewards)


@torch.inference_mode()
def serve_rewards(pipe: Connection, case: Case) -> None:
    """Answer commits and questions until the other end is closed."""
    torch.set_num_threads(1)
    device = torch.device(case.reward_device)
    plain = random_model(case.shape, device, case.dtype, case.context_length, seed=2)
    model = with_adapter(plain, case.shape, case.rank, seed=3)
    runner = new_runner(model, 2 * case.batch_size, case.context_length, has_graphs=True)
    rows = Rows(runner, case, [_THETA, _PLAIN])
    pipe.send_bytes(b"ready")
    theta, reference = rows.decode([1] * case.batch_size)
    while True:
        try:
            message = bytearray(pipe.recv_bytes())
        except EOFError:
            return
        ids = torch.frombuffer(message[1:], dtype=torch.int64)
        if message[:1] == _COMMIT:
            theta, reference = rows.decode(ids.tolist())
            continue
        token_ids = to_device(ids.view(case.batch_size, -1), device)  # [B, K]
        rewards = _logprobs(model, theta, token_ids) - _logprobs(model, reference, token_ids)
        (rewards,) = to_host(rewards)
        pipe.send_bytes(rewards.contiguous().numpy().tobytes())


def _candidates(model: RandomModel, hidden: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Return ids and log-probabilities of the likeliest tokens, on the device: `[B, K]` each."""
    logits = model.head(hidden, len(hidden)).float()  # [B, V]
    best = logits.topk(top_k, dim=-1)  # [B, K]
    return best.indices, best.values - logits.logsumexp(-1, keepdim=True)


def _logprobs(model: RandomModel, hidden: Tensor, token_ids: Tensor) -> Tensor:
    """Return log-probabilities among the candidates: `[B, K]` float32."""
    counts = torch.full(token_ids.shape[:1], token_ids.shape[1], device=token_ids.device)
    return candidate_logprobs(model.candidate_logits(hidden, token_ids), counts)


def _choose(token_ids: Tensor, scores: Tensor) -> list[int]:
    columns = scores.argmax(-1, keepdim=True)  # [B, 1]
    (chosen,) = to_host(token_ids.gather(1, columns))
    return [int(token_id) for token_id in chosen[:, 0].tolist()]


Step = Callable[[], None]
