"""The contender of `gpu` whose reward model has a process of its own, and that process."""

import multiprocessing
from contextlib import AbstractContextManager
from multiprocessing.connection import Connection
from types import TracebackType

import torch
from torch import Tensor

from benchmarks.gpu_contenders import Case, Rewards, Rows, candidates
from benchmarks.random_llama import RandomModel, new_runner
from svc_common.lm.transfers import to_host

_COMMIT, _SCORE, _REWIND = b"c", b"s", b"r"
_STOP_S = 30.0  # until a process that does not end is killed
_PLAIN = 1  # the group of rows without a change


class OwnProcess(AbstractContextManager["OwnProcess"]):
    """Base here, theta and reference in a process of their own; both forwards run at once."""

    def __init__(self, base: RandomModel, case: Case) -> None:
        self._model, self._case = base, case
        runner = new_runner(base, case.batch_size, case.context_length, has_graphs=True)
        self._rows = Rows(runner, case, [_PLAIN])
        self._ids = [1] * case.batch_size
        context = multiprocessing.get_context("spawn")
        self._pipe, self._theirs = context.Pipe()
        self._process = context.Process(
            target=serve_rewards, args=(self._theirs, case), daemon=True
        )

    def __enter__(self) -> "OwnProcess":
        """Start the process and wait until it has its model.

        Raises:
            RuntimeError: it ended, as its error output says.
        """
        self._process.start()
        self._theirs.close()  # so that its end is the end of the pipe
        try:
            self._pipe.recv_bytes()
        except EOFError:
            self.__exit__(None, None, None)
            code = self._process.exitcode
            raise RuntimeError(f"reward process: ended with {code} before it was ready") from None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._pipe.close()  # the end of its work
        self._process.join(_STOP_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def rewind(self) -> None:
        self._pipe.send_bytes(_REWIND)
        self._rows.rewind()
        self._ids = [1] * self._case.batch_size

    @torch.inference_mode()
    def step(self) -> list[int]:
        self.commit(self._ids)
        (hidden,) = self._rows.decode(self._ids)
        best = candidates(self._model, hidden, self._case.top_k)
        token_ids, logprobs = to_host(*best)  # [B, K]
        scores = logprobs + self.score(token_ids)
        columns = scores.argmax(-1, keepdim=True)  # [B, 1]
        self._ids = token_ids.gather(1, columns)[:, 0].tolist()
        return self._ids

    def commit(self, token_ids: list[int]) -> None:
        """Have the other process run a token a sequence, and do not wait for it."""
        self._pipe.send_bytes(_COMMIT + torch.tensor(token_ids).numpy().tobytes())

    def score(self, token_ids: Tensor) -> Tensor:
        """Return the candidates' rewards: `[B, K]` int64 -> `[B, K]` float32, both on the host."""
        self._pipe.send_bytes(_SCORE + token_ids.contiguous().numpy().tobytes())
        answer = bytearray(self._pipe.recv_bytes())
        return torch.frombuffer(answer, dtype=torch.float32).view(token_ids.shape)


def serve_rewards(pipe: Connection, case: Case) -> None:
    """Answer commits and questions until the other end is closed."""
    torch.set_num_threads(1)
    rewards = Rewards(case)
    pipe.send_bytes(b"ready")
    while True:
        try:
            message = bytearray(pipe.recv_bytes())
        except EOFError:
            return
        kind = message[:1]
        if kind == _REWIND:
            rewards.rewind()
            continue
        ids = torch.frombuffer(message, dtype=torch.uint8)[1:].clone().view(torch.int64)
        if kind == _COMMIT:
            rewards.commit(ids.tolist())
        else:
            found = rewards.score(ids.view(case.batch_size, -1))
            pipe.send_bytes(found.contiguous().numpy().tobytes())
