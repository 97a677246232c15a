"""What a replica owes, and what its answers say of the replica."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from generator_svc.reward_client.breaker import Breaker
from pad.v1 import reward_pb2

OnAnswer = Callable[[Tensor, list[bool]], None]
"""Told the rewards `[B, K]` of a question's rows, and which of them came."""


@dataclass(frozen=True)
class Question:
    """Candidates whose rewards a replica owes."""

    asked: reward_pb2.CandidateRows
    counts: list[int]
    on_answer: OnAnswer
    timer: asyncio.TimerHandle
    asked_at: float

    def answer(self, rewards: Tensor, came: list[bool]) -> None:
        """Tell who asked."""
        self.timer.cancel()
        self.on_answer(rewards, came)


def judge(response: reward_pb2.ScoreResponse, came: list[bool], breaker: Breaker) -> None:
    """Count an answer for or against its replica.

    Errors of rows are told by a sound replica too, and a request that no replica can bear must
    not have all of them suspended: they count where no row of the answer was scored.
    """
    internal = reward_pb2.ROW_ERROR_REASON_INTERNAL
    is_broken = any(error.reason == internal for error in response.row_errors)
    num_missing = came.count(False)
    if num_missing > len(response.row_errors) or (is_broken and num_missing == len(came)):
        breaker.note_failure()
    elif not num_missing:
        breaker.note_success()
