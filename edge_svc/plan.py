"""From a checked body to the answers that it asks the generator for."""

import secrets
from dataclasses import dataclass
from typing import Any

from edge_svc.errors import invalid
from edge_svc.schema import ChatBody, CompletionBody, GenerationBody, Wish
from edge_svc.settings import EdgeSettings
from pad_client import Detail, GenerateOptions, Preference, Strategy

# best-of-n takes the seeds from its own on, one a sample, at most 16: choices must not share any.
SEED_STRIDE = 16
_SEEDS = 1 << 64
_SEED_BITS = 53  # a seed that is drawn here is exact in JavaScript, too
DEFAULT_TEMPERATURE = 1.0  # the OpenAI API's; the generator's own is 0
DEFAULT_COMPLETION_TOKENS = 16  # the OpenAI API's
DEFAULT_TOP_K = 10  # the generator's


@dataclass(frozen=True)
class Plan:
    """What to ask, and what to tell.

    Attributes:
        choices: One request to the generator for each choice of the answer.
        num_per_prompt: Choices that share a prompt.
        is_streamed: Whether tokens are sent as they are written.
        tells_usage: Whether a stream ends with its usage.
        num_top_logprobs: Candidates told for each token; None for no log-probabilities.
        tells_details: Whether each token's reward is told.
        takes_base: Whether a user without a profile gets the base model's answer.
        timeout_s: How long it may take.
    """

    choices: tuple[GenerateOptions, ...]
    num_per_prompt: int
    is_streamed: bool
    tells_usage: bool
    num_top_logprobs: int | None
    tells_details: bool
    takes_base: bool
    timeout_s: float


def plan_chat(body: ChatBody, settings: EdgeSettings, max_tokens: int) -> Plan:
    """Return the plan of a chat completion; `max_tokens` holds where the caller names none."""
    messages = [
        {"role": "system" if turn.role == "developer" else turn.role, "content": turn.text}
        for turn in body.messages
    ]
    given = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    options = _options(body, max_tokens if given is None else given)
    num_top = (body.top_logprobs or 0) if body.logprobs else None
    return _plan(body, [{**options, "messages": messages}], num_top, settings)


def plan_completion(body: CompletionBody, settings: EdgeSettings) -> Plan:
    """Return the plan of a raw completion."""
    options = _options(body, body.max_tokens or DEFAULT_COMPLETION_TOKENS)
    prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
    return _plan(body, [{**options, "prompt": text} for text in prompts], body.logprobs, settings)


def without_profile(options: GenerateOptions) -> GenerateOptions:
    """Return the same request to the base model alone."""
    plain: GenerateOptions = {**options, "user_id": "", "strategy": Strategy.BASE}
    for name in ("reference", "num_samples"):
        plain.pop(name, None)  # type: ignore[misc]
    plain["preference_in_base_prompt"] = False
    if plain.get("detail") is Detail.EXPLANATION:  # there is nothing to explain
        plain["detail"] = None
    return plain


def _plan(
    body: GenerationBody,
    prompts: list[GenerateOptions],
    num_top_logprobs: int | None,
    settings: EdgeSettings,
) -> Plan:
    n = body.n or 1
    if len(prompts) * n > settings.max_choices:
        field = "n" if len(prompts) == 1 else "prompt"
        most = settings.max_choices
        raise invalid(field, f"prompts times n must be 1..{most}, got {len(prompts) * n}")
    pad = body.pad
    top_k = pad.top_k or DEFAULT_TOP_K
    if num_top_logprobs is not None:
        if num_top_logprobs > top_k:
            field = "top_logprobs" if isinstance(body, ChatBody) else "logprobs"
            raise invalid(
                field, f"must be at most pad.top_k, which is {top_k}, got {num_top_logprobs}"
            )
        prompts = [{**each, "detail": Detail.CANDIDATES} for each in prompts]
    if pad.explain:
        if num_top_logprobs is not None:
            raise invalid("pad.explain", "must not be given with logprobs")
        prompts = [{**each, "detail": Detail.EXPLANATION} for each in prompts]
    first = secrets.randbits(_SEED_BITS) if body.seed is None else body.seed
    seeds = [(first + SEED_STRIDE * index) % _SEEDS for index in range(n)]
    rule = pad.if_no_profile or settings.if_no_profile
    return Plan(
        choices=tuple({**each, "seed": seed} for each in prompts for seed in seeds),
        num_per_prompt=n,
        is_streamed=bool(body.stream),
        tells_usage=body.stream_options is not None and body.stream_options.include_usage,
        num_top_logprobs=num_top_logprobs,
        tells_details=pad.details or pad.explain,
        takes_base=rule == "base" and bool(body.user) and not pad.preferences,
        timeout_s=min(pad.timeout_s or settings.request_timeout_s, settings.request_timeout_s),
    )


def _options(body: GenerationBody, max_tokens: int) -> GenerateOptions:
    """Return what all choices of a request share; what the caller left out stays out."""
    pad = body.pad
    temperature = body.temperature
    if temperature is None and pad.strategy != "best-of-n":  # which has its own default
        temperature = DEFAULT_TEMPERATURE
    wanted: dict[str, Any] = {
        "max_tokens": max_tokens,
        "temperature": temperature,
        "top_p": body.top_p,
        "stop": body.stops,
        "user_id": body.user or None,
        "preferences": [_preference(each) for each in pad.preferences],
        **pad.model_dump(
            include={
                *("beta", "strategy", "top_k", "reference", "fallback", "num_samples"),
                *("preference_in_base_prompt", "ignore_end_of_turn"),
            }
        ),
    }
    options: GenerateOptions = {}
    options.update({name: value for name, value in wanted.items() if value is not None})  # type: ignore[typeddict-item]
    return options


def _preference(wish: str | Wish) -> str | Preference:
    return wish if isinstance(wish, str) else Preference(wish.text, wish.weight)
