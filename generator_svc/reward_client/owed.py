"""What a replica owes, and what its answers say of the replica."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from generator_svc.engine.scorer import ScoredRows
from generator_svc.reward_client.breaker import Breaker
from generator_svc.reward_client.placement import Placement
from generator_svc.reward_client.wire import add_explanations, unpack_rewards
from pad.v1 import reward_pb2

OnAnswer = Callable[[ScoredRows], None]
"""Told the rewards of a question's rows, and which of them came."""


@dataclass(frozen=True)
class Question:
    """Candidates whose rewards a replica owes."""

    asked: reward_pb2.CandidateRows
    placements: list[Placement]
    counts: list[int]
    on_answer: OnAnswer
    timer: asyncio.TimerHandle
    asked_at: float

    def answer(self, scored: ScoredRows) -> None:
        """Tell who asked."""
        self.timer.cancel()
        self.on_answer(scored)

    def read(self, rows: reward_pb2.RewardRows) -> ScoredRows:
        """Return the rewards of an answer.

        Raises:
            ValueError: it does not fit the question.
        """
        scored = unpack_rewards(self.asked, rows, self.counts)
        if rows.num_preferences:
            contexts = [placement.session.context for placement in self.placements]
            expected = [len(its.preferences) * its.is_explained for its in contexts]
            add_explanations(scored, self.asked, rows, expected)
        return scored


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
