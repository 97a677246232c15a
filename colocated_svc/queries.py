"""Rewards of whole answers, and what callers are told of where rewards come from."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

from colocated_svc.placement import make_plan
from colocated_svc.scorer import ColocatedScorer
from generator_svc.engine.scorer import RewardContext
from reward_svc.prompts import encode_preference
from reward_svc.sequences import score_answers
from reward_svc.sessions import SessionCache
from svc_common.errors import RewardUnavailableError
from svc_common.lm.tokenizing import Tokenizing

NUM_ROWS = 2  # that scoring whole answers takes: one a row group


@dataclass(frozen=True)
class ColocatedQueries:
    """Implements `engine.scorer.RewardQueries`."""

    cache: SessionCache
    scorer: ColocatedScorer
    tokenizing: Tokenizing

    @property
    def model_versions(self) -> frozenset[str]:
        """None: an encoding spares a remote model work; here it would cost a look-up."""
        return frozenset()

    @property
    def vector_versions(self) -> frozenset[str]:
        """None: here preferences are read as text alone."""
        return frozenset()

    async def score_sequences(
        self, context: RewardContext, answers: list[list[int]], timeout_s: float
    ) -> tuple[str, list[float]]:
        """Return (model version, reward of each whole answer), for best-of-n.

        Raises:
            RewardUnavailableError: it took longer than `timeout_s`.
            OverloadedError: too many wait already.
        """
        model = self.cache.model
        try:
            async with asyncio.timeout(timeout_s):
                plan = await make_plan(context, model, self.tokenizing)
                for i, answer in enumerate(answers):
                    model.check_length(f"sequences[{i}]", plan.longest + len(answer))
                rewards = await self.scorer.work.call(score_answers(self.cache, plan, answers))
        except TimeoutError as error:
            late = f"reward model: did not score the answers within {timeout_s:g} s"
            raise RewardUnavailableError(late) from error
        return model.version, rewards

    async def forget(self, subjects: Sequence[bytes], timeout_s: float) -> bool:
        """Do nothing: the prefix cache is the base model's own, which is cleared there."""
        return True

    async def encode_preference(
        self, text: str, subject: bytes, timeout_s: float, model_version: str = ""
    ) -> tuple[str, bytes]:
        """Return (model version, token ids of the preference's prompt)."""
        model = self.cache.model
        token_ids = encode_preference(text, model.tokenizer)
        return model.version, b"".join(token_id.to_bytes(4, "little") for token_id in token_ids)


@dataclass(frozen=True)
class InProcess:
    """The one replica, which is always there; implements `Replica` and `Replicas`."""

    scorer: ColocatedScorer
    address: str = "in-process"
    is_available: bool = True
    is_suspended: bool = False

    @property
    def num_free_slots(self) -> int:
        return self.scorer.num_free

    @property
    def model_version(self) -> str:
        return self.scorer.model_version

    @property
    def replicas(self) -> list["InProcess"]:
        return [self]
