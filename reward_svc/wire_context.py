"""What is to be scored, from reward.proto to the service's own types, and encodings back."""

import numpy as np
from numpy.typing import NDArray

from pad.v1 import common_pb2, reward_pb2
from reward_svc.encoder import Encoding
from reward_svc.forgetting import check_subject
from reward_svc.messages import FLOAT32, UINT32
from reward_svc.pad_config import Conditioning
from reward_svc.prompts import Reference, RewardContext, WeightedPreference
from svc_common.errors import InvalidRequestError, ModelMismatchError
from svc_common.preference_prompt import ChatMessage, Prompt
from svc_common.preference_rules import check_count, check_stated_preference
from svc_common.trace_context import TraceContext, check_trace_context

ROLES = ("system", "user", "assistant")
MAX_HINT_IDS = 1 << 14  # no preference takes so many; what stands behind them is not looked at
# What GetServerInfo says: `both` is the two together.
CONDITIONINGS = {
    Conditioning.PROMPT: (reward_pb2.CONDITIONING_PROMPT,),
    Conditioning.VECTOR: (reward_pb2.CONDITIONING_VECTOR,),
    Conditioning.BOTH: (reward_pb2.CONDITIONING_PROMPT, reward_pb2.CONDITIONING_VECTOR),
}


def preference(
    field: str,
    message: common_pb2.Preference,
    encoding: bytes = b"",
    vector_size: int | None = None,
) -> WeightedPreference:
    """Return a preference.

    Args:
        field: Its name, for messages.
        message: As it came.
        encoding: What was kept of `EncodePreference`, or nothing.
        vector_size: Numbers an encoding holds; None if encodings are token ids.

    Raises:
        InvalidRequestError: Text or weight is out of range, or the encoding is no such vector.
    """
    text, weight = message.text, message.weight if message.HasField("weight") else 1.0
    check_stated_preference(field, text, weight)
    if vector_size is not None:
        vector = _vector(f"{field}.encoding", encoding, vector_size) if encoding else None
        return WeightedPreference(text, weight, vector=vector)
    # These ids are a hint that is compared with the prompt's own, so any bytes will do.
    num_ids = min(len(encoding) // UINT32.itemsize, MAX_HINT_IDS)
    hint = np.frombuffer(encoding, UINT32, num_ids)
    return WeightedPreference(text, weight, tuple(hint.tolist()))


def _vector(field: str, data: bytes, size: int) -> NDArray[np.float32]:
    if len(data) != size * FLOAT32.itemsize:
        rule = f"must hold {size} numbers of 4 bytes (w_p, then b_p) or nothing"
        raise InvalidRequestError(f"{field}: {rule}, got {len(data)} bytes")
    vector = np.frombuffer(data, FLOAT32)
    if not np.isfinite(vector).all():
        place = int(np.isfinite(vector).argmin())
        raise InvalidRequestError(
            f"{field}: must hold finite numbers, got {vector[place]} at {place}"
        )
    return vector


def encoding(array: Encoding) -> bytes:
    """Return an encoding as an array field."""
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def context(
    message: reward_pb2.RewardContext,
    *,
    has_reference: bool,
    max_turns: int,
    vector_size: int | None = None,
) -> RewardContext:
    """Return what a session scores.

    Args:
        message: As it came.
        has_reference: Whether the reference's model is loaded.
        max_turns: Of a conversation: empty ones are not free either.
        vector_size: Numbers an encoding holds; None if encodings are token ids.

    Raises:
        InvalidRequestError: A field is missing or out of range.
        ModelMismatchError: The reference's model is not loaded here.
    """
    check_count("preferences", len(message.preferences))
    check_subject("subject", message.subject)
    preferences = tuple(
        preference(f"preferences[{i}]", encoded.preference, encoded.encoding, vector_size)
        for i, encoded in enumerate(message.preferences)
    )
    return RewardContext(
        _prompt(message, max_turns),
        preferences,
        _reference(message, has_reference),
        message.subject,
    )


def trace(field: str, message: reward_pb2.SessionOpen) -> TraceContext | None:
    """Return the trace that a session is part of, None if it is part of none.

    Raises:
        InvalidRequestError: It is no trace.
    """
    if not message.HasField("trace"):
        return None
    return check_trace_context(field, message.trace.traceparent, message.trace.tracestate)


def _reference(message: reward_pb2.RewardContext, has_reference: bool) -> Reference:
    names = {reference.value: reference for reference in Reference}
    reference = names.get(message.reference)
    if reference is None:
        known = " | ".join(f"REFERENCE_MODE_{one.name}" for one in Reference)
        raise InvalidRequestError(f"reference: must be {known}, got {message.reference}")
    if reference is Reference.BACKBONE and not has_reference:
        raise ModelMismatchError(
            "reference: the reward service has no backbone loaded (REWARD_BACKBONE_DIR is not set),"
            " so strategy pad-released or reference base must be used, got backbone"
        )
    return reference


def _prompt(message: reward_pb2.RewardContext, max_turns: int) -> Prompt:
    match message.WhichOneof("input"):
        case "prompt" if message.prompt:
            return message.prompt
        case "chat":
            count = len(message.chat.messages)
            if count > max_turns:
                rule = f"must have at most {max_turns} entries"
                raise InvalidRequestError(f"chat.messages: {rule}, got {count}")
            messages = tuple(ChatMessage(m.role, m.content) for m in message.chat.messages)
            for i, turn in enumerate(messages):
                if turn.role not in ROLES:
                    rule = f"must be {' | '.join(ROLES)}, got {turn.role[:40]!r}"
                    raise InvalidRequestError(f"chat.messages[{i}].role: {rule}")
            if not any(turn.role == "user" for turn in messages):
                raise InvalidRequestError("chat.messages: need one with role user, got none")
            return messages
    raise InvalidRequestError("input: prompt must not be empty, or chat must be set")
