"""From a GenerateRequest to a checked GenerationRequest: every rule of generator.proto."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

from generator_svc.decoding.strategies import STRATEGIES, Reference, Strategy
from generator_svc.engine.fair_line import Priority
from generator_svc.profile_format import Preference
from generator_svc.request_checks import parse_beta, parse_preferences, parse_user_id
from pad.v1 import common_pb2, generator_pb2
from svc_common.errors import InvalidRequestError
from svc_common.preference_prompt import ChatMessage, Prompt

DEFAULT_TOP_K = 10  # the paper's k
DEFAULT_MAX_TOKENS = 128
DEFAULT_NUM_SAMPLES = 4
MAX_SAMPLES = 16
MAX_TEMPERATURE = 5.0
MAX_STOPS = 8
MAX_STOP_CHARACTERS = 100
ROLES = ("system", "user", "assistant")

T = TypeVar("T", int, float)
OptionalField = Literal["max_tokens", "num_samples", "temperature", "top_k", "top_p"]

STRATEGY_NAMES = {
    generator_pb2.STRATEGY_BASE: "base",
    generator_pb2.STRATEGY_PROMPT: "prompt",
    generator_pb2.STRATEGY_PAD: "pad",
    generator_pb2.STRATEGY_PAD_RELEASED: "pad-released",
    generator_pb2.STRATEGY_BEST_OF_N: "best-of-n",
}
REFERENCES = {
    common_pb2.REFERENCE_MODE_BACKBONE: Reference.BACKBONE,
    common_pb2.REFERENCE_MODE_BASE: Reference.BASE,
}
PRIORITIES = {
    generator_pb2.PRIORITY_UNSPECIFIED: Priority.INTERACTIVE,
    generator_pb2.PRIORITY_INTERACTIVE: Priority.INTERACTIVE,
    generator_pb2.PRIORITY_BATCH: Priority.BATCH,
}


@dataclass(frozen=True)
class RequestLimits:
    """What the service allows a request."""

    max_tokens: int
    max_top_k: int
    max_turns: int  # of a conversation: each takes a token at least


@dataclass(frozen=True)
class GenerationRequest:
    """A request whose fields keep the rules of generator.proto; None: the caller named nothing."""

    prompt: Prompt
    user_id: str
    preferences: tuple[Preference, ...]
    strategy: Strategy
    reference: Reference | None
    beta: float | None
    top_k: int
    temperature: float
    top_p: float
    seed: int | None
    max_tokens: int
    stop: tuple[str, ...]
    num_samples: int
    falls_back: bool
    prompts_base: bool
    ignores_end_of_turn: bool
    wants_candidates: bool
    wants_explanation: bool
    priority: Priority


def parse_request(
    request: generator_pb2.GenerateRequest, limits: RequestLimits
) -> GenerationRequest:
    """Check every field and return the request in our own words.

    Raises:
        InvalidRequestError: a field breaks its rule; the text names field, rule and value.
    """
    prompt = _parse_prompt(request, limits.max_turns)
    user_id = parse_user_id(request.user_id) if request.user_id else ""
    preferences = parse_preferences(request.preferences) if request.preferences else ()
    strategy = _parse_strategy(request, is_personal=bool(user_id or preferences))
    temperature = _given(request, "temperature", strategy.temperature)
    return GenerationRequest(
        prompt=prompt,
        user_id=user_id,
        preferences=preferences,
        strategy=strategy,
        reference=_parse_reference(request, strategy),
        beta=parse_beta(request.beta) if request.HasField("beta") else None,
        top_k=_whole("top_k", _given(request, "top_k", DEFAULT_TOP_K), limits.max_top_k),
        temperature=_number("temperature", temperature, MAX_TEMPERATURE),
        top_p=_parse_top_p(_given(request, "top_p", 1.0)),
        seed=request.seed if request.HasField("seed") else None,
        max_tokens=_parse_max_tokens(request, limits),
        stop=_parse_stop(request.stop),
        num_samples=_parse_num_samples(request, strategy),
        falls_back=_parse_fallback(request),
        prompts_base=strategy.prompts_base or request.preference_in_base_prompt,
        ignores_end_of_turn=request.ignore_end_of_turn,
        wants_candidates=_parse_detail(request) == generator_pb2.DETAIL_CANDIDATES,
        wants_explanation=_parse_explanation(request, strategy),
        priority=_parse_priority(request),
    )


def _parse_prompt(request: generator_pb2.GenerateRequest, max_turns: int) -> Prompt:
    kind = request.WhichOneof("input")
    if kind is None:
        raise InvalidRequestError("prompt, chat: one must be set, got none")
    if kind == "prompt":
        if not request.prompt:
            raise InvalidRequestError("prompt: must not be empty")
        return request.prompt
    count = len(request.chat.messages)
    if count > max_turns:
        raise InvalidRequestError(f"chat.messages: must hold at most {max_turns}, got {count}")
    messages = tuple(ChatMessage(m.role, m.content) for m in request.chat.messages)
    for i, message in enumerate(messages):
        if message.role not in ROLES:
            rule = f"must be one of {', '.join(ROLES)}"
            raise InvalidRequestError(f"chat.messages[{i}].role: {rule}, got {message.role[:40]!r}")
    if not any(message.role == "user" for message in messages):
        raise InvalidRequestError("chat.messages: must hold one with role user, got none")
    if not any(message.content.strip() for message in messages):
        raise InvalidRequestError("chat.messages: must not all be empty")
    return messages


def _parse_strategy(request: generator_pb2.GenerateRequest, *, is_personal: bool) -> Strategy:
    name = STRATEGY_NAMES.get(request.strategy)
    if request.strategy == generator_pb2.STRATEGY_UNSPECIFIED:
        name = "pad" if is_personal else "base"
    if name is None:
        raise InvalidRequestError(f"strategy: must be a known value, got {request.strategy}")
    strategy = STRATEGIES[name]
    needs_preferences = strategy.needs_preferences or request.preference_in_base_prompt
    if needs_preferences and not is_personal:
        raise InvalidRequestError(
            f"user_id, preferences: strategy {name} needs one of them, got neither"
        )
    return strategy


def _parse_reference(
    request: generator_pb2.GenerateRequest, strategy: Strategy
) -> Reference | None:
    if request.reference == common_pb2.REFERENCE_MODE_UNSPECIFIED:
        return strategy.reference
    reference = REFERENCES.get(request.reference)
    if reference is None:
        raise InvalidRequestError(f"reference: must be a known value, got {request.reference}")
    if strategy.name not in ("pad", "best-of-n") and reference is not strategy.reference:
        raise InvalidRequestError(
            f"reference: strategy {strategy.name} has its own, got {reference.value}"
        )
    return reference


def _parse_top_p(value: float) -> float:
    if not 0 < value <= 1:
        raise InvalidRequestError(f"top_p: must be > 0 and <= 1, got {value}")
    return value


def _parse_max_tokens(request: generator_pb2.GenerateRequest, limits: RequestLimits) -> int:
    default = min(DEFAULT_MAX_TOKENS, limits.max_tokens)
    return _whole("max_tokens", _given(request, "max_tokens", default), limits.max_tokens)


def _parse_stop(texts: Sequence[str]) -> tuple[str, ...]:
    if len(texts) > MAX_STOPS:  # before they are looked at
        raise InvalidRequestError(f"stop: must hold at most {MAX_STOPS}, got {len(texts)}")
    stop = tuple(texts)
    for i, text in enumerate(stop):
        if not 1 <= len(text) <= MAX_STOP_CHARACTERS:
            rule = f"must have 1..{MAX_STOP_CHARACTERS} characters"
            raise InvalidRequestError(f"stop[{i}]: {rule}, got {len(text)}")
    return stop


def _parse_num_samples(request: generator_pb2.GenerateRequest, strategy: Strategy) -> int:
    if not strategy.ranks_samples:
        if request.HasField("num_samples"):
            raise InvalidRequestError(
                f"num_samples: is for strategy best-of-n alone, got {strategy.name}"
            )
        return 1
    return _whole("num_samples", _given(request, "num_samples", DEFAULT_NUM_SAMPLES), MAX_SAMPLES)


def _parse_fallback(request: generator_pb2.GenerateRequest) -> bool:
    if request.fallback not in generator_pb2.FallbackPolicy.values():
        raise InvalidRequestError(f"fallback: must be a known value, got {request.fallback}")
    return request.fallback == generator_pb2.FALLBACK_POLICY_UNGUIDED


def _parse_detail(request: generator_pb2.GenerateRequest) -> generator_pb2.Detail.ValueType:
    if request.detail not in generator_pb2.Detail.values():
        raise InvalidRequestError(f"detail: must be a known value, got {request.detail}")
    return request.detail


def _parse_explanation(request: generator_pb2.GenerateRequest, strategy: Strategy) -> bool:
    wants_explanation = request.detail == generator_pb2.DETAIL_EXPLANATION
    if wants_explanation and not strategy.guides_steps:
        raise InvalidRequestError(
            "detail: explanation is for strategies that guide each token (pad, pad-released),"
            f" got {strategy.name}"
        )
    return wants_explanation


def _parse_priority(request: generator_pb2.GenerateRequest) -> Priority:
    priority = PRIORITIES.get(request.priority)
    if priority is None:
        raise InvalidRequestError(f"priority: must be a known value, got {request.priority}")
    return priority


def _given(request: generator_pb2.GenerateRequest, field: OptionalField, default: T) -> T:
    """Return an optional field's value, or the default stated in generator.proto."""
    if not request.HasField(field):
        return default
    value: T = getattr(request, field)
    return value


def _number(field: str, value: float, most: float) -> float:
    if not (math.isfinite(value) and 0 <= value <= most):
        raise InvalidRequestError(f"{field}: must be 0..{most:g}, got {value}")
    return value


def _whole(field: str, value: int, most: int) -> int:
    if not 1 <= value <= most:
        raise InvalidRequestError(f"{field}: must be 1..{most}, got {value}")
    return value
