"""From a checked request to an answer: profile, prompt, sequences in the engine, summary."""

import asyncio
import secrets
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field

from generator_svc.admission.admission import Admission, Ticket
from generator_svc.deadline import Deadline
from generator_svc.decoding.strategies import Strategy
from generator_svc.encodings import TIMEOUT_S as ENCODING_TIMEOUT_S
from generator_svc.encodings import PreferenceEncodings
from generator_svc.engine.engine import Engine
from generator_svc.engine.scorer import RewardContext, RewardQueries
from generator_svc.engine.sequence import (
    ChosenToken,
    FinishReason,
    GenerationParams,
    RewardModelUse,
    Sequence,
    Timings,
)
from generator_svc.profile_format import subject_of, subject_of_tenant, user_tag
from generator_svc.profiles import LookupSource, Preference, ProfileStore
from generator_svc.request_parsing import GenerationRequest
from generator_svc.sample_ranking import TIMEOUT_S as RANKING_TIMEOUT_S
from generator_svc.sample_ranking import rank_samples
from svc_common.errors import InvalidRequestError
from svc_common.lm.tokenizer import TextStream, Tokenizer
from svc_common.preference_prompt import Prompt, add_preference, guide_text
from svc_common.preference_text import check_preference_text


@dataclass(frozen=True)
class GenerationDefaults:
    """What the service knows that a request may not say."""

    beta: float
    context_length: int
    vocabulary_size: int
    guidelines: str = ""  # the operator's, before preferences in the base model's prompt


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


@dataclass(frozen=True)
class Origin:
    """Where a request comes from, and until when its caller waits."""

    request_id: str
    tenant: str
    deadline: Deadline
    arrived_at: float = field(default_factory=time.perf_counter)


@dataclass(frozen=True)
class _Plan:
    """A request with everything that had to be looked up for it."""

    origin: Origin
    ticket: Ticket
    prompt_ids: list[int]
    params: GenerationParams
    context: RewardContext | None
    profile_revision: int
    subject: bytes


class Generator:
    """Answers requests."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        store: ProfileStore,
        encodings: PreferenceEncodings,
        calls: RewardQueries,
        defaults: GenerationDefaults,
        on_lookup: Callable[[LookupSource], None],
        admission: Admission,
    ) -> None:
        self._admission = admission
        self._engine = engine
        self._tokenizer = tokenizer
        self._store = store
        self._encodings = encodings
        self._calls = calls
        self._defaults = defaults
        self._on_lookup = on_lookup

    async def answer(
        self, request: GenerationRequest, origin: Origin
    ) -> AsyncGenerator[ChosenToken | AnswerSummary, None]:
        """Yield the tokens of the answer to a tenant's request and, last, its summary.

        Raises:
            ServiceError: as its subclasses say.
        """
        async with self._admission.admitted(request, origin.tenant, origin.deadline) as ticket:
            async with origin.deadline.enforced():
                plan = await self._plan(request, origin, ticket)
            async with aclosing(self._write(request, plan)) as events:
                async for event in events:
                    yield event

    async def _write(
        self, request: GenerationRequest, plan: _Plan
    ) -> AsyncGenerator[ChosenToken | AnswerSummary, None]:
        """Yield tokens and summary of a request that was let in."""
        if request.strategy.ranks_samples:
            async for event in self._answer_best(request, plan):
                yield event
            return
        sequence = self._sequence(request, plan, plan.params)
        count = _TokenCount()
        with self._running([sequence], plan.ticket):
            async for token in sequence.tokens():
                count.add(token)
                yield token
        num_fallback = count.num_tokens - count.num_guided if plan.params.is_guided else 0
        yield self._summary(request, plan, sequence, count, num_fallback)

    async def _answer_best(
        self, request: GenerationRequest, plan: _Plan
    ) -> AsyncGenerator[ChosenToken | AnswerSummary, None]:
        """Sample several answers of the base model and yield the one the reward model prefers."""
        assert plan.context is not None
        samples = [
            self._sequence(request, plan, plan.params.with_seed(plan.params.seed + i))
            for i in range(request.num_samples)
        ]
        with self._running(samples, plan.ticket):
            answers = await _collect_all(samples)
        timeout_s = plan.origin.deadline.limit(RANKING_TIMEOUT_S)
        ranking = await rank_samples(
            self._calls, plan.context, answers, request.falls_back, timeout_s
        )
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

    async def _plan(self, request: GenerationRequest, origin: Origin, ticket: Ticket) -> _Plan:
        """Look up profile and encodings, once, and build the prompt."""
        preferences, profile_beta, revision = await self._preferences(request, origin.tenant)
        chosen_beta = request.beta if request.beta is not None else profile_beta
        beta = self._defaults.beta if chosen_beta is None else chosen_beta
        prompt = request.prompt
        if request.prompts_base:
            prompt = _with_preferences(prompt, preferences, self._defaults.guidelines)
        prompt_ids = self._encode(prompt)
        self._admission.resize(ticket, request, len(prompt_ids))
        subject = subject_of_tenant(origin.tenant)
        if request.user_id:
            subject = subject_of(user_tag(origin.tenant, request.user_id))
        context = None
        if request.reference is not None and (beta > 0 or request.strategy.ranks_samples):
            timeout_s = origin.deadline.limit(ENCODING_TIMEOUT_S)
            encoded = await self._encodings.encode(preferences, subject, timeout_s)
            context = RewardContext(
                request.prompt,
                encoded,
                request.reference,
                is_base_prompt=not request.prompts_base,
                subject=subject,
            )
        seed = secrets.randbits(63) if request.seed is None else request.seed
        params = GenerationParams(
            beta=beta,
            top_k=self._check_top_k(request.top_k),
            temperature=request.temperature,
            top_p=request.top_p,
            seed=seed,
            max_tokens=request.max_tokens,
            ignores_end_of_turn=request.ignores_end_of_turn,
            reward_context=context if request.strategy.guides_steps else None,
            falls_back=request.falls_back,
        )
        return _Plan(origin, ticket, prompt_ids, params, context, revision, subject)

    async def _preferences(
        self, request: GenerationRequest, tenant: str
    ) -> tuple[tuple[Preference, ...], float | None, int]:
        """Return preferences, beta and revision: the request's own, else the profile's."""
        needs_them = request.strategy.needs_preferences or request.prompts_base
        if request.preferences:
            self._on_lookup("inline")
            self._check_texts("preferences", request.preferences)
        if request.preferences or not needs_them:
            return request.preferences, None, 0
        profile = await self._store.load(tenant, request.user_id)
        self._check_texts("profile.preferences", profile.preferences)
        return profile.preferences, profile.beta, profile.revision

    def _check_texts(self, field: str, preferences: tuple[Preference, ...]) -> None:
        """Refuse what would be more than a preference in a prompt, whoever stored it."""
        for i, preference in enumerate(preferences):
            check_preference_text(f"{field}[{i}].text", preference.text)
            self._tokenizer.check_text(f"{field}[{i}].text", preference.text)

    def _encode(self, prompt: Prompt) -> list[int]:
        texts = [prompt] if isinstance(prompt, str) else [turn.content for turn in prompt]
        field = "prompt" if isinstance(prompt, str) else "chat.messages"
        # Tokenising holds the event loop.
        self._tokenizer.check_length(field, "".join(texts), self._defaults.context_length)
        prompt_ids = self._tokenizer.encode_prompt(prompt)
        most = self._defaults.context_length - 1
        if len(prompt_ids) > most:
            raise InvalidRequestError(
                f"{field}: must have at most {most} tokens, so that one can be written in the"
                f" context of {self._defaults.context_length}, has {len(prompt_ids)}"
            )
        return prompt_ids

    def _check_top_k(self, top_k: int) -> int:
        if top_k > self._defaults.vocabulary_size:
            rule = f"must be 1..{self._defaults.vocabulary_size} (the vocabulary)"
            raise InvalidRequestError(f"top_k: {rule}, got {top_k}")
        return top_k

    def _sequence(
        self, request: GenerationRequest, plan: _Plan, params: GenerationParams
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
    def _running(self, sequences: list[Sequence], ticket: Ticket) -> Iterator[None]:
        """Have the engine write the sequences for as long as someone reads them."""
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
        plan: _Plan,
        sequence: Sequence,
        count: "_TokenCount",
        num_fallback: int,
        *,
        sample_rewards: tuple[float, ...] = (),
        model_version: str = "",
    ) -> AnswerSummary:
        assert count.finish_reason is not None
        if sequence.reward_models:
            model_version = sequence.reward_models[-1].version
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


def _with_preferences(
    prompt: Prompt, preferences: tuple[Preference, ...], guidelines: str
) -> Prompt:
    """Return the prompt with all preferences stated in it (weights cannot be said in words)."""
    text = " ".join(preference.text for preference in preferences)
    if isinstance(prompt, str):
        return guide_text(prompt, text, guidelines)
    return tuple(add_preference(prompt, text, guidelines))
