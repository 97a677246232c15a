"""From a checked request to an answer: let in, planned, written by the engine, summed up."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from functools import partial

from generator_svc.admission.admission import Admission, Ticket
from generator_svc.decoding.strategies import Strategy
from generator_svc.engine.engine import Engine
from generator_svc.engine.scorer import RewardQueries
from generator_svc.engine.sequence import (
    ChosenToken,
    FinishReason,
    GenerationParams,
    RewardModelUse,
    Sequence,
    Timings,
)
from generator_svc.explaining import Explanation
from generator_svc.planning import Origin, Plan, Planner
from generator_svc.request_parsing import GenerationRequest
from generator_svc.sample_ranking import TIMEOUT_S as RANKING_TIMEOUT_S
from generator_svc.sample_ranking import rank_samples
from svc_common.errors import DeadlineExceededError, RewardUnavailableError
from svc_common.lm.tokenizer import TextStream, Tokenizer


@dataclass(frozen=True)
class AnswerSummary:
    """How an answer came about; see Summary in generator.proto."""

    request_id: str
    finish_reason: FinishReason
    num_prompt_tokens: int
    num_tokens: int
    num_guided_tokens: int
    num_changed_tokens: int
    num_fallback_tokens: int
    strategy: Strategy
    beta: float
    seed: int
    profile_revision: int
    reward_model_version: str
    reward_models: tuple[RewardModelUse, ...]
    timings: Timings
    sample_rewards: tuple[float, ...]
    explanation: Explanation | None = None


class Generator:
    """Answers requests."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        admission: Admission,
        planner: Planner,
        calls: RewardQueries,
    ) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._admission = admission
        self._planner = planner
        self._calls = calls

    async def answer(
        self, request: GenerationRequest, origin: Origin
    ) -> AsyncGenerator[ChosenToken | AnswerSummary, None]:
        """Yield the tokens of the answer to a tenant's request and, last, its summary.

        Raises:
            ServiceError: as its subclasses say.
        """
        async with self._admission.admitted(request, origin.tenant, origin.deadline) as ticket:
            async with origin.deadline.enforced():
                resize = partial(self._admission.resize, ticket, request)
                plan = await self._planner.plan(request, origin, resize)
            async with aclosing(self._write(request, plan, ticket)) as events:
                async for event in events:
                    yield event

    async def _write(
        self, request: GenerationRequest, plan: Plan, ticket: Ticket
    ) -> AsyncGenerator[ChosenToken | AnswerSummary, None]:
        """Yield tokens and summary of a request that was let in."""
        if request.strategy.ranks_samples:
            async for event in self._answer_best(request, plan, ticket):
                yield event
            return
        sequence = self._sequence(request, plan, plan.params)
        count = _TokenCount()
        explanation = Explanation.of(plan) if request.wants_explanation else None
        with self._running([sequence], plan, ticket):
            async for token in sequence.tokens():
                count.add(token)
                if explanation is not None:
                    explanation.add(token)
                yield token
        num_fallback = count.num_tokens - count.num_guided if plan.params.is_guided else 0
        yield self._summary(request, plan, sequence, count, num_fallback, explanation=explanation)

    async def _answer_best(
        self, request: GenerationRequest, plan: Plan, ticket: Ticket
    ) -> AsyncGenerator[ChosenToken | AnswerSummary, None]:
        """Sample several answers of the base model and yield the one the reward model prefers."""
        assert plan.context is not None
        samples = [
            self._sequence(request, plan, plan.params.with_seed(plan.params.seed + i))
            for i in range(request.num_samples)
        ]
        with self._running(samples, plan, ticket):
            answers = await _collect_all(samples)
        deadline = plan.origin.deadline
        timeout_s = deadline.limit(RANKING_TIMEOUT_S)
        try:
            ranking = await rank_samples(
                self._calls, plan.context, answers, request.falls_back, timeout_s
            )
        except RewardUnavailableError as error:
            if not deadline.is_near:
                raise
            late = "deadline: passed before the samples were ranked"
            raise DeadlineExceededError(late) from error
        count = _TokenCount()
        for token in answers[ranking.best]:
            count.add(token)
            yield token
        yield self._summary(
            request,
            plan,
            samples[ranking.best],
            count,
            0 if ranking.rewards else count.num_tokens,
            sample_rewards=ranking.rewards,
            model_version=ranking.model_version,
        )

    def _sequence(
        self, request: GenerationRequest, plan: Plan, params: GenerationParams
    ) -> Sequence:
        return Sequence(
            request_id=plan.origin.request_id,
            prompt_ids=plan.prompt_ids,
            params=params,
            text=TextStream(self._tokenizer, request.stop),
            end_of_turn_ids=self._tokenizer.end_of_turn_ids,
            tenant=plan.origin.tenant,
            priority=request.priority,
            deadline=plan.origin.deadline.at,
            subject=plan.subject,
            arrived_at=plan.origin.arrived_at,
        )

    @contextmanager
    def _running(self, sequences: list[Sequence], plan: Plan, ticket: Ticket) -> Iterator[None]:
        """Have the engine write the sequences for as long as someone reads them."""
        with plan.origin.trace.following(sequences):
            try:
                for sequence in sequences:
                    self._engine.submit(sequence, ticket.place)
                yield
            finally:
                for sequence in sequences:
                    self._engine.cancel(sequence)
                ticket.num_used = sum(sequence.num_used_tokens for sequence in sequences)

    def _summary(
        self,
        request: GenerationRequest,
        plan: Plan,
        sequence: Sequence,
        count: "_TokenCount",
        num_fallback: int,
        *,
        sample_rewards: tuple[float, ...] = (),
        model_version: str = "",
        explanation: Explanation | None = None,
    ) -> AnswerSummary:
        assert count.finish_reason is not None
        if sequence.reward_models:
            model_version = sequence.reward_models[-1].version
        plan.origin.trace.finished(
            count.finish_reason,
            num_tokens=count.num_tokens,
            num_fallback=num_fallback,
            model_version=model_version,
        )
        return AnswerSummary(
            request_id=plan.origin.request_id,
            finish_reason=count.finish_reason,
            num_prompt_tokens=len(plan.prompt_ids),
            num_tokens=count.num_tokens,
            num_guided_tokens=count.num_guided,
            num_changed_tokens=count.num_changed,
            num_fallback_tokens=num_fallback,
            strategy=request.strategy,
            beta=plan.params.beta,
            seed=plan.params.seed,
            profile_revision=plan.profile_revision,
            reward_model_version=model_version,
            reward_models=tuple(sequence.reward_models),
            timings=sequence.timings,
            sample_rewards=sample_rewards,
            explanation=explanation,
        )


@dataclass
class _TokenCount:
    num_tokens: int = 0
    num_guided: int = 0
    num_changed: int = 0
    finish_reason: FinishReason | None = None

    def add(self, token: ChosenToken) -> None:
        self.num_tokens += 1
        self.num_guided += token.is_guided
        self.num_changed += token.is_guided and token.is_changed
        self.finish_reason = token.finish_reason


async def _collect_all(sequences: list[Sequence]) -> list[list[ChosenToken]]:
    tasks = [asyncio.create_task(_collect(sequence)) for sequence in sequences]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:  # the others of one that failed would wait for ever
            task.cancel()


async def _collect(sequence: Sequence) -> list[ChosenToken]:
    return [token async for token in sequence.tokens()]
