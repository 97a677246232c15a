"""What a request waits for on its way ends in time for its caller, whatever its own time limit."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from generator_svc.admission.admission import Admission
from generator_svc.admission.limiter import TenantLimiter
from generator_svc.admission.limits import LimitTable
from generator_svc.admission.local_limits import LocalLimits
from generator_svc.deadline import Deadline
from generator_svc.encodings import PreferenceEncodings
from generator_svc.engine.scorer import RewardContext
from generator_svc.generation import AnswerSummary, Generator
from generator_svc.metrics import GeneratorMetrics
from generator_svc.planning import GenerationDefaults, Origin, Planner
from generator_svc.request_parsing import GenerationRequest, RequestLimits, parse_request
from pad.v1 import common_pb2, generator_pb2
from svc_common.errors import DeadlineExceededError, RewardUnavailableError
from svc_common.lm.tokenizing import Tokenizing
from tests.generator_svc.store_watch import opened
from tests.generator_svc.test_engine import TOKENIZER, Harness, running_engine


class SilentReplicas:
    """Implements `engine.scorer.RewardQueries` with replicas that never answer."""

    def __init__(self, model_version: str) -> None:
        self.model_versions = frozenset(filter(None, [model_version]))
        self.vector_versions: frozenset[str] = frozenset()

    async def score_sequences(
        self, context: RewardContext, answers: list[list[int]], timeout_s: float
    ) -> tuple[str, list[float]]:
        return await self._wait(timeout_s)

    async def encode_preference(
        self, text: str, subject: bytes, timeout_s: float, model_version: str = ""
    ) -> tuple[str, bytes]:
        return await self._wait(timeout_s)

    async def forget(self, subjects: tuple[bytes, ...], timeout_s: float) -> bool:
        return await self._wait(timeout_s)

    async def _wait(self, timeout_s: float) -> Any:
        await asyncio.sleep(timeout_s)
        raise RewardUnavailableError("reward service: no answer in time")


@asynccontextmanager
async def generator(
    harness: Harness, redis_url: str, model_version: str
) -> AsyncIterator[Generator]:
    calls = SilentReplicas(model_version)
    limiter = TenantLimiter(LimitTable(), LocalLimits(lambda: 1.0), None, lambda: None)
    metrics = GeneratorMetrics(CollectorRegistry())
    async with opened(redis_url) as store:
        defaults = GenerationDefaults(beta=1.0, context_length=256, vocabulary_size=262)
        encodings = PreferenceEncodings(store, calls)
        planner = Planner(TOKENIZER, store, encodings, defaults, lambda _: None, Tokenizing())
        admission = Admission(harness.engine.scheduler, limiter, metrics, max_prompt_tokens=256)
        yield Generator(harness.engine, TOKENIZER, admission, planner, calls)


def request(**fields: Any) -> GenerationRequest:
    message = generator_pb2.GenerateRequest(
        chat=common_pb2.Chat(messages=[common_pb2.ChatMessage(role="user", content="hello")]),
        preferences=[common_pb2.Preference(text="Be brief.")],
        max_tokens=3,
        **fields,
    )
    return parse_request(message, RequestLimits(64, 50, 100))


async def test_samples_are_given_unranked_in_time_where_no_replica_ranks_them(
    redis_url: str,
) -> None:
    """Once the ranking waited for its own 30 s, and the caller got nothing."""
    best = request(
        strategy=generator_pb2.STRATEGY_BEST_OF_N, fallback=generator_pb2.FALLBACK_POLICY_UNGUIDED
    )
    async with (
        running_engine() as harness,
        generator(harness, redis_url, model_version="") as its,
        asyncio.timeout(25),
    ):
        origin = Origin("r", "default", Deadline.after(5.0))
        events = [event async for event in its.answer(best, origin)]
        assert harness.engine.scheduler.num_held == 0
    summary = events[-1]
    assert isinstance(summary, AnswerSummary)
    assert summary.sample_rewards == ()
    assert len(events) == 1 + summary.num_tokens


async def test_samples_that_are_not_ranked_by_the_deadline_end_as_deadline_exceeded(
    redis_url: str,
) -> None:
    """Once as UNAVAILABLE, which asks the caller to try again; the fuzzer found it."""
    best = request(
        strategy=generator_pb2.STRATEGY_BEST_OF_N, fallback=generator_pb2.FALLBACK_POLICY_FAIL
    )
    async with running_engine() as harness, generator(harness, redis_url, model_version="") as its:
        answer = its.answer(best, Origin("r", "default", Deadline.after(1.5)))
        with pytest.raises(DeadlineExceededError, match="samples were ranked"):
            async for _ in answer:
                pass


async def test_a_request_ends_at_its_deadline_where_no_replica_encodes(redis_url: str) -> None:
    """Encoding has 10 s of its own; what is left to the caller ends it, and then the request."""
    async with (
        running_engine() as harness,
        generator(harness, redis_url, model_version="v1") as its,
        asyncio.timeout(9),
    ):
        harness.scorer.open = lambda session: None  # type: ignore[method-assign]
        answer = its.answer(request(), Origin("r", "default", Deadline.after(0.2)))
        with pytest.raises(DeadlineExceededError):
            await anext(answer)
        assert harness.engine.scheduler.num_held == 0
