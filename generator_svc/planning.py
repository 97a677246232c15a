"""From a checked request to what the engine needs: profile, prompt ids, encodings, parameters."""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from generator_svc.deadline import Deadline
from generator_svc.encodings import TIMEOUT_S as ENCODING_TIMEOUT_S
from generator_svc.encodings import PreferenceEncodings
from generator_svc.engine.scorer import RewardContext
from generator_svc.engine.sequence import GenerationParams
from generator_svc.generation_trace import NO_TRACE, GenerationTrace
from generator_svc.profile_format import subject_of, subject_of_tenant, user_tag
from generator_svc.profiles import LookupSource, Preference, ProfileStore
from generator_svc.request_parsing import GenerationRequest
from svc_common.errors import InvalidRequestError
from svc_common.lm.tokenizer import Tokenizer
from svc_common.lm.tokenizing import Tokenizing, size_of
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
class Origin:
    """Where a request comes from, and until when its caller waits."""

    request_id: str
    tenant: str
    deadline: Deadline
    arrived_at: float = field(default_factory=time.perf_counter)
    trace: GenerationTrace = NO_TRACE


@dataclass(frozen=True)
class Plan:
    """A request with everything that had to be looked up for it."""

    origin: Origin
    prompt_ids: list[int]
    params: GenerationParams
    context: RewardContext | None
    profile_revision: int
    subject: bytes
    preferences: tuple[Preference, ...] = ()


class Planner:
    """Finds out what a request means for its user."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        store: ProfileStore,
        encodings: PreferenceEncodings,
        defaults: GenerationDefaults,
        on_lookup: Callable[[LookupSource], None],
        tokenizing: Tokenizing,
    ) -> None:
        self._tokenizer = tokenizer
        self._store = store
        self._encodings = encodings
        self._defaults = defaults
        self._on_lookup = on_lookup
        self._tokenizing = tokenizing

    async def plan(
        self, request: GenerationRequest, origin: Origin, on_length: Callable[[int], None]
    ) -> Plan:
        """Look up profile and encodings, once, and build the prompt.

        Args:
            request: checked.
            origin: whose it is, and until when it may take.
            on_length: told the prompt's tokens, before anything is asked of others for it.

        Raises:
            ServiceError: as its subclasses say.
        """
        preferences, profile_beta, revision = await self._preferences(request, origin.tenant)
        chosen_beta = request.beta if request.beta is not None else profile_beta
        beta = self._defaults.beta if chosen_beta is None else chosen_beta
        prompt = request.prompt
        if request.prompts_base:
            prompt = _with_preferences(prompt, preferences, self._defaults.guidelines)
        prompt_ids = await self._tokenizing.run(size_of(prompt), partial(self._encode, prompt))
        on_length(len(prompt_ids))
        subject = subject_of_tenant(origin.tenant)
        if request.user_id:
            subject = subject_of(user_tag(origin.tenant, request.user_id))
        context = None
        if request.reference is not None and (beta > 0 or request.strategy.ranks_samples):
            timeout_s = origin.deadline.limit(ENCODING_TIMEOUT_S)
            encoded = await self._encodings.encode(preferences, origin.tenant, subject, timeout_s)
            context = RewardContext(
                request.prompt,
                encoded,
                request.reference,
                is_base_prompt=not request.prompts_base,
                subject=subject,
                is_explained=request.wants_explanation,
                trace=origin.trace.context,
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
        origin.trace.planned(
            num_prompt_tokens=len(prompt_ids), beta=beta, profile_revision=revision
        )
        return Plan(origin, prompt_ids, params, context, revision, subject, preferences)

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


def _with_preferences(
    prompt: Prompt, preferences: tuple[Preference, ...], guidelines: str
) -> Prompt:
    """Return the prompt with all preferences stated in it (weights cannot be said in words)."""
    text = " ".join(preference.text for preference in preferences)
    if isinstance(prompt, str):
        return guide_text(prompt, text, guidelines)
    return tuple(add_preference(prompt, text, guidelines))
