"""The bound of each request field: what is accepted at it, what is refused beyond it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from google.protobuf.message import Message

from pad.v1 import common_pb2, generator_pb2, profile_pb2, reward_pb2

CONTEXT = 1024  # of the demo models
Change: TypeAlias = Callable[[Any, int], object]


@dataclass(frozen=True)
class Bound:
    """A field's rule.

    Attributes:
        field: Its full name in the protos, without the package.
        change: Sets the field of a valid request by a number.
        fits: A number that is accepted; None where the rule has no edge.
        breaks: A number that is refused.
        message: What the refusal begins with, and where it is another number what it ends with.
    """

    field: str
    change: Change
    fits: int | None
    breaks: int
    message: str


def put(name: str, value: Callable[[int], object] = lambda n: n) -> Change:
    """Return a change that sets the field `name`."""
    return lambda request, n: setattr(request, name, value(n))


def number(value: float) -> Callable[[int], float]:
    return lambda _: value


def ids(count: int) -> bytes:
    return np.full(count, 9, "<u4").tobytes()


def wish(text: str = "Be brief.", weight: float | None = None) -> common_pb2.Preference:
    return common_pb2.Preference(text=text, weight=weight)


def wishes(request: Any, n: int) -> None:
    del request.preferences[:]
    request.preferences.extend([wish()] * n)


def stops(request: Any, n: int) -> None:
    request.stop.extend(["zq"] * n)


def turns(request: Any, n: int) -> None:
    request.chat.messages.extend([common_pb2.ChatMessage(role="user", content="")] * (n - 1))


def text_of(request: Any, n: int) -> None:
    request.preferences[0].text = "x" * n


def weight_of(request: Any, n: int) -> None:
    request.preferences[0].weight = n


def content_of(request: Any, n: int) -> None:
    request.chat.messages[0].content = "word " * n


def role_of(request: Any, n: int) -> None:
    request.chat.messages[0].role = "user" if n == 1 else "x" * n


def generation() -> generator_pb2.GenerateRequest:
    chat = common_pb2.Chat(messages=[common_pb2.ChatMessage(role="user", content="Hello.")])
    return generator_pb2.GenerateRequest(chat=chat, preferences=[wish()], max_tokens=1)


def best(request: Any, n: int) -> None:
    request.strategy = generator_pb2.STRATEGY_BEST_OF_N
    request.num_samples = n


GENERATE = [
    Bound(
        "GenerateRequest.prompt", put("prompt", lambda n: "word " * n), 600, 3000, "prompt: must"
    ),
    Bound("GenerateRequest.prompt", put("prompt", lambda n: "x" * n), None, 0, "prompt: must not"),
    Bound("Chat.messages", turns, 200, CONTEXT + 1, "chat.messages: must hold at most 1024"),
    Bound("ChatMessage.content", content_of, 600, 3000, "chat.messages: must have at most 1023"),
    Bound("ChatMessage.content", content_of, None, 90_000, "chat.messages: must fit in 1024"),
    Bound("ChatMessage.role", role_of, 1, 99, "chat.messages[0].role: must be one of"),
    Bound("GenerateRequest.user_id", put("user_id", lambda n: "u" * n), 128, 129, "user_id: must"),
    Bound("GenerateRequest.preferences", wishes, 8, 9, "preferences: must have 1..8"),
    Bound("Preference.text", text_of, 500, 2001, "preferences[0].text: must be 1..2000"),
    Bound("Preference.text", text_of, None, 0, "preferences[0].text: must be 1..2000"),
    Bound("Preference.weight", weight_of, 10, 11, "preferences[0].weight: must be > 0 and <= 10"),
    Bound("Preference.weight", weight_of, None, 0, "preferences[0].weight: must be > 0"),
    Bound("GenerateRequest.beta", put("beta"), 10, 11, "beta: must be 0..10"),
    Bound("GenerateRequest.beta", put("beta", number(math.nan)), None, 0, "beta: must be 0..10"),
    Bound("GenerateRequest.top_k", put("top_k"), 100, 101, "top_k: must be 1..100"),
    Bound("GenerateRequest.temperature", put("temperature"), 5, 6, "temperature: must be 0..5"),
    Bound("GenerateRequest.top_p", put("top_p"), 1, 2, "top_p: must be > 0 and <= 1"),
    Bound("GenerateRequest.max_tokens", put("max_tokens"), 1, 513, "max_tokens: must be 1..512"),
    Bound("GenerateRequest.stop", stops, 8, 9, "stop: must hold at most 8"),
    Bound(
        "GenerateRequest.stop",
        lambda request, n: request.stop.append("z" * n),
        100,
        101,
        "stop[0]: must have 1..100",
    ),
    Bound("GenerateRequest.strategy", put("strategy"), 5, 99, "strategy: must be a known"),
    Bound("GenerateRequest.reference", put("reference"), 2, 99, "reference: must be a known"),
    Bound("GenerateRequest.fallback", put("fallback"), 2, 99, "fallback: must be a known"),
    Bound("GenerateRequest.detail", put("detail"), 3, 99, "detail: must be a known"),
    Bound("GenerateRequest.num_samples", best, 16, 17, "num_samples: must be 1..16"),
    Bound("GenerateRequest.priority", put("priority"), 2, 99, "priority: must be a known"),
    Bound("GenerateRequest.seed", put("seed"), (1 << 64) - 1, 0, ""),
]


def profile() -> profile_pb2.PutProfileRequest:
    return profile_pb2.PutProfileRequest(user_id="bounds", preferences=[wish()])


PUT = [
    Bound(
        "PutProfileRequest.user_id", put("user_id", lambda n: "u" * n), 128, 129, "user_id: must"
    ),
    Bound("PutProfileRequest.preferences", wishes, 8, 9, "preferences: must have 1..8"),
    Bound("Preference.text", text_of, 2000, 2001, "preferences[0].text: must be 1..2000"),
    Bound("Preference.weight", weight_of, 10, 11, "preferences[0].weight: must be > 0"),
    Bound("PutProfileRequest.beta", put("beta"), 10, 11, "beta: must be 0..10"),
    Bound(
        "PutProfileRequest.expected_revision",
        put("expected_revision"),
        None,
        (1 << 64) - 1,
        "expected_revision: must be the stored",
    ),
]
LIST = [
    Bound("ListProfilesRequest.page_size", put("page_size"), 1000, 1001, "page_size: must be 1.."),
    Bound(
        "ListProfilesRequest.page_token",
        put("page_token", lambda n: "A" * n),
        None,
        200_000,
        "page_token: must be the next_page_token",
    ),
]
GET = [
    Bound(
        "GetProfileRequest.user_id", put("user_id", lambda n: "u" * n), None, 129, "user_id: must"
    ),
]
REVISIONS = [
    Bound(
        "ListProfileRevisionsRequest.user_id",
        put("user_id", lambda n: "u" * n),
        None,
        129,
        "user_id: must",
    ),
]
RESTORE = [
    Bound(
        "RestoreProfileRequest.user_id",
        put("user_id", lambda n: "u" * n),
        None,
        129,
        "user_id: must",
    ),
    Bound("RestoreProfileRequest.revision", put("revision"), None, 0, "revision: must be >= 1"),
    Bound(
        "RestoreProfileRequest.expected_revision",
        put("expected_revision"),
        None,
        0,
        "expected_revision: must be >= 1",
    ),
]
DELETE = [
    Bound(
        "DeleteProfileRequest.user_id",
        put("user_id", lambda n: "u" * n),
        None,
        129,
        "user_id: must",
    ),
    Bound(
        "DeleteProfileRequest.expected_revision",
        put("expected_revision"),
        None,
        0,
        "expected_revision: must be >= 1",
    ),
]


def scoring(fingerprint: str) -> reward_pb2.ScoreSequencesRequest:
    chat = common_pb2.Chat(messages=[common_pb2.ChatMessage(role="user", content="Hello.")])
    context = reward_pb2.RewardContext(
        chat=chat,
        preferences=[reward_pb2.EncodedPreference(preference=wish())],
        reference=common_pb2.REFERENCE_MODE_BASE,
    )
    return reward_pb2.ScoreSequencesRequest(
        context=context, sequences=[ids(2)], tokenizer_fingerprint=fingerprint
    )


def of_context(change: Change) -> Change:
    return lambda request, n: change(request.context, n)


def encoded(request: Any, n: int) -> None:
    del request.preferences[:]
    request.preferences.extend([reward_pb2.EncodedPreference(preference=wish())] * n)


def encoded_text(request: Any, n: int) -> None:
    request.preferences[0].preference.text = "x" * n


def encoded_weight(request: Any, n: int) -> None:
    request.preferences[0].preference.weight = n


def sequences(request: Any, n: int) -> None:
    del request.sequences[:]
    request.sequences.extend([ids(1)] * n)


def sequence_of(request: Any, n: int) -> None:
    request.sequences[0] = ids(n)


SCORE_SEQUENCES = [
    Bound(
        "RewardContext.prompt",
        of_context(put("prompt", lambda n: "x" * n)),
        100,
        2_000_000,
        "prompt: must fit in 1024 tokens",
    ),
    Bound("Chat.messages", of_context(turns), 200, CONTEXT + 1, "chat.messages: must have at most"),
    Bound("ChatMessage.content", of_context(content_of), 600, 90_000, "chat.messages[0].content:"),
    Bound("ChatMessage.role", of_context(role_of), 1, 99, "chat.messages[0].role: must be"),
    Bound("RewardContext.preferences", of_context(encoded), 8, 9, "preferences: must have 1..8"),
    Bound("Preference.text", of_context(encoded_text), 500, 2001, "preferences[0].text: must be"),
    Bound("Preference.weight", of_context(encoded_weight), 10, 11, "preferences[0].weight: must"),
    Bound("RewardContext.reference", of_context(put("reference")), 2, 99, "reference: must be"),
    Bound(
        "RewardContext.subject",
        of_context(put("subject", bytes)),
        32,
        33,
        "subject: must have at most 32 bytes",
    ),
    Bound("ScoreSequencesRequest.sequences", sequences, 16, 17, "sequences: must be 1..16"),
    Bound("ScoreSequencesRequest.sequences", sequence_of, 500, CONTEXT, "sequences[0]: must have"),
    Bound(
        "ScoreSequencesRequest.tokenizer_fingerprint",
        put("tokenizer_fingerprint", lambda n: "f" * n),
        None,
        1_000_000,
        "tokenizer_fingerprint: must be",
    ),
]


def preference() -> reward_pb2.EncodePreferenceRequest:
    return reward_pb2.EncodePreferenceRequest(preference=wish())


ENCODE = [
    Bound(
        "Preference.text",
        lambda request, n: setattr(request.preference, "text", "x" * n),
        500,
        2001,
        "preference.text: must be 1..2000",
    ),
    Bound(
        "Preference.weight",
        lambda request, n: setattr(request.preference, "weight", n),
        10,
        11,
        "preference.weight: must be > 0",
    ),
    Bound("EncodePreferenceRequest.subject", put("subject", bytes), 32, 33, "subject: must have"),
]


def subjects(request: Any, n: int) -> None:
    request.subjects.extend([b"s"] * n)


def subject_of(request: Any, n: int) -> None:
    request.subjects.append(b"s" * n)


FORGET = [
    Bound("ForgetRequest.subjects", subjects, 10_000, 10_001, "subjects: must have 1..10000"),
    Bound("ForgetRequest.subjects", subject_of, 32, 33, "subjects[0]: must have at most 32"),
    Bound("ForgetRequest.subjects", subject_of, None, 0, "subjects[0]: must not be empty"),
]

# Fields that take whatever their type can hold: switches, numbers, and what is only compared.
FREE = {
    "GenerateRequest.preference_in_base_prompt",
    "GenerateRequest.ignore_end_of_turn",
    "PutProfileRequest.erases_history",
    "SessionOpen.session",
    "SessionOpen.epoch",
    "SessionOpen.wants_preference_rewards",
    "ScoreRequest.batch_id",
    "EncodedPreference.encoding",  # a hint; a vector's length: tests/reward_svc/test_given_vectors
}
# Of the stream; their bounds have tests of their own in tests/reward_svc.
ROWS = {
    "SessionOpen.token_ids",
    "SessionOpen.tokenizer_fingerprint",
    "TraceContext.traceparent",
    "TraceContext.tracestate",
    "ScoreRequest.closes",
    "ScoreRequest.opens",
    *(f"CommitRows.{name}" for name in ("sessions", "epochs", "steps", "token_ids")),
    *(f"CandidateRows.{name}" for name in ("sessions", "epochs", "steps")),
    "CandidateRows.num_candidates",
    "CandidateRows.candidate_ids",
}
REQUESTS: list[type[Message]] = [
    generator_pb2.GenerateRequest,
    profile_pb2.PutProfileRequest,
    profile_pb2.GetProfileRequest,
    profile_pb2.DeleteProfileRequest,
    profile_pb2.ListProfilesRequest,
    profile_pb2.ListProfileRevisionsRequest,
    profile_pb2.RestoreProfileRequest,
    reward_pb2.ScoreRequest,
    reward_pb2.ScoreSequencesRequest,
    reward_pb2.EncodePreferenceRequest,
    reward_pb2.ForgetRequest,
]
