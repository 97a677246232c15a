"""The values callers give and get: plain frozen dataclasses and string enums, no protobuf."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TypedDict


class Strategy(StrEnum):
    """How tokens are chosen."""

    BASE = "base"
    PROMPT = "prompt"
    PAD = "pad"
    PAD_RELEASED = "pad-released"
    BEST_OF_N = "best-of-n"


class ReferenceMode(StrEnum):
    """What the reward of a token is measured against."""

    BACKBONE = "backbone"
    BASE = "base"


class FallbackPolicy(StrEnum):
    """What happens while no reward service answers."""

    FAIL = "fail"
    UNGUIDED = "unguided"


class Detail(StrEnum):
    """How much is told about each token."""

    TOKENS = "tokens"
    CANDIDATES = "candidates"
    EXPLANATION = "explanation"


class Priority(StrEnum):
    """Which requests begin first while some wait."""

    INTERACTIVE = "interactive"
    BATCH = "batch"


class FinishReason(StrEnum):
    """Why an answer ended."""

    END_OF_TURN = "end-of-turn"
    STOP_STRING = "stop-string"
    LENGTH = "length"


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; `role` is "system", "user" or "assistant"."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Preference:
    """A wish about how text should be written, and its weight (> 0 and <= 10)."""

    text: str
    weight: float = 1.0


class GenerateOptions(TypedDict, total=False):
    """The fields of a request: exactly one of `prompt` and `messages`, the rest as wished.

    A message may also be a plain mapping with exactly the keys "role" and "content".

    Ranges and defaults are stated beside `GenerateRequest` in generator.proto; what is left out
    or None takes the server's default.
    """

    prompt: str | None
    messages: Sequence[Message | Mapping[str, str]] | None
    user_id: str
    preferences: Sequence[str | Preference]
    beta: float | None
    top_k: int | None
    temperature: float | None
    top_p: float | None
    seed: int | None
    max_tokens: int | None
    stop: Sequence[str]
    strategy: Strategy | str | None
    reference: ReferenceMode | str | None
    fallback: FallbackPolicy | str | None
    detail: Detail | str | None
    num_samples: int | None
    preference_in_base_prompt: bool
    ignore_end_of_turn: bool
    priority: Priority | str | None


@dataclass(frozen=True, slots=True)
class Candidate:
    """One of the K tokens a step chose from; `score` is `logprob + beta * reward`."""

    token_id: int
    text: str
    logprob: float
    reward: float
    score: float


@dataclass(frozen=True, slots=True)
class TokenExplanation:
    """What each preference said of a token; see `TokenExplanation` in generator.proto.

    `rewards` and `base_rewards` (of the base model's choice) are in the order of
    `Explanation.preferences`; `changed_by` is an index of these, None if nothing was changed.
    """

    rewards: tuple[float, ...]
    base_rewards: tuple[float, ...]
    changed_by: int | None


@dataclass(frozen=True, slots=True)
class PreferenceExplanation:
    """What a preference did to an answer; see `PreferenceExplanation` in generator.proto."""

    text: str
    weight: float
    num_changed_tokens: int
    contribution: float
    reward: float


@dataclass(frozen=True, slots=True)
class Explanation:
    """Which preference did what; `num_unexplained_tokens` count for none of them."""

    preferences: tuple[PreferenceExplanation, ...]
    num_unexplained_tokens: int


@dataclass(frozen=True, slots=True)
class Token:
    """One token of an answer; `changed` says that the base model would have chosen another."""

    index: int
    text: str
    token_id: int
    logprob: float
    reward: float
    guided: bool
    changed: bool
    base_token_id: int
    base_text: str
    candidates: tuple[Candidate, ...] = ()
    explanation: TokenExplanation | None = None


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds an answer spent, by phase; see `Timings` in generator.proto."""

    queue_s: float
    prefill_s: float
    time_to_first_token_s: float
    generator_forward_s: float
    reward_wait_s: float
    select_s: float
    total_s: float


@dataclass(frozen=True, slots=True)
class RewardModelUse:
    """A reward model that guided tokens of an answer, from `first_index` on."""

    version: str
    first_index: int
    num_guided_tokens: int


@dataclass(frozen=True, slots=True)
class Summary:
    """How an answer came about.

    `finish_reason` and `strategy` are None where a newer server sends one this client does not
    know.
    """

    request_id: str
    finish_reason: FinishReason | None
    num_prompt_tokens: int
    num_tokens: int
    num_guided_tokens: int
    num_changed_tokens: int
    num_fallback_tokens: int
    strategy: Strategy | None
    beta: float
    seed: int
    profile_revision: int
    reward_model_version: str
    timings: Timings
    sample_rewards: tuple[float, ...] = ()
    reward_models: tuple[RewardModelUse, ...] = ()
    explanation: Explanation | None = None


@dataclass(frozen=True, slots=True)
class Completion:
    """A whole answer."""

    text: str
    tokens: tuple[Token, ...]
    summary: Summary


@dataclass(frozen=True, slots=True)
class Profile:
    """What is known about one user; `beta` is None where the server's default holds."""

    user_id: str
    preferences: tuple[Preference, ...]
    beta: float | None
    revision: int
    updated_at: datetime | None


@dataclass(frozen=True, slots=True)
class ProfileHistory:
    """The revisions of a profile that are kept, newest first, what is stored now among them.

    `current_revision` is 0 where what is stored now is damaged, and then not among `revisions`;
    `num_damaged` earlier ones cannot be read either.
    """

    revisions: tuple[Profile, ...]
    current_revision: int
    num_damaged: int


@dataclass(frozen=True, slots=True)
class RewardReplica:
    """A reward replica as the generator sees it."""

    address: str
    is_available: bool
    num_free_slots: int
    model_version: str
    is_suspended: bool = False


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What is being served, and its limits."""

    model_id: str
    model_version: str
    tokenizer_fingerprint: str
    vocabulary_size: int
    context_length: int
    max_tokens: int
    max_top_k: int
    default_beta: float
    num_slots: int
    software_version: str
    reward_replicas: tuple[RewardReplica, ...]
