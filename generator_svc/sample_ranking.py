"""Best-of-n: which of several whole answers the reward model prefers."""

import logging
from collections.abc import Sequence as Rows
from dataclasses import dataclass

from generator_svc.decoding.strategies import Reference
from generator_svc.engine.scorer import RewardContext, RewardQueries
from generator_svc.engine.sequence import ChosenToken
from svc_common.errors import OverloadedError, RewardUnavailableError

logger = logging.getLogger(__name__)

TIMEOUT_S = 30.0


@dataclass(frozen=True)
class Ranking:
    """The index of the best answer and the reward of each; no rewards where none came."""

    best: int
    rewards: tuple[float, ...]
    model_version: str


async def rank_samples(
    calls: RewardQueries,
    context: RewardContext,
    answers: Rows[list[ChosenToken]],
    falls_back: bool,
    timeout_s: float = TIMEOUT_S,
) -> Ranking:
    """Score whole answers; with `falls_back` the first one wins while no replica answers.

    Source: arXiv 2410.04070, section 4.3, Best-of-k: keep the one that PersRM scores highest.

    Raises:
        RewardUnavailableError: no replica answered, and the request does not fall back.
    """
    ids = [[token.token_id for token in answer] for answer in answers]
    try:
        version, rewards = await calls.score_sequences(context, ids, timeout_s)
    except (RewardUnavailableError, OverloadedError):
        if not falls_back:
            raise
        logger.warning("samples not ranked: no reward replica")
        return Ranking(best=0, rewards=(), model_version="")
    if context.reference is Reference.BASE:
        weight = context.total_weight
        rewards = [
            reward - weight * sum(token.logprob for token in answer)
            for reward, answer in zip(rewards, answers, strict=True)
        ]
    best = max(range(len(rewards)), key=rewards.__getitem__)
    return Ranking(best, tuple(rewards), version)
