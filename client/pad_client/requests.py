"""What callers ask for, turned into the messages of the contract; both clients share it."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence

from pad.v1 import common_pb2, generator_pb2, profile_pb2
from pad_client.enums import enum_number
from pad_client.errors import InvalidRequestError
from pad_client.types import (
    Detail,
    FallbackPolicy,
    Message,
    Preference,
    Priority,
    ReferenceMode,
    Strategy,
)

# Of several servers each takes calls in turn, less those that say that they take none: a server
# that drains is left before it refuses.
_SERVICE_CONFIG = {
    "loadBalancingConfig": [{"round_robin": {}}],
    "healthCheckConfig": {"serviceName": ""},
}
# A whole answer with all candidates passes gRPC's own limit of 4 MiB; calls go straight to the
# server, so that a proxy meant for the web does not swallow those to this machine. A server that
# was restarted is found again soon, also under a new address.
CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),
    ("grpc.enable_http_proxy", 0),
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.dns_min_time_between_resolutions_ms", 1_000),
)


# gRPC counts nanoseconds since 1970 in 64 bits; with more than these hold a call expires at once.
MAX_TIMEOUT_S = 1e9


def check_timeout(timeout_s: float) -> float:
    """Return a call's timeout; no call goes without a deadline."""
    if not (math.isfinite(timeout_s) and timeout_s > 0):
        raise InvalidRequestError(f"timeout_s: must be finite and > 0, got {timeout_s}")
    if timeout_s > MAX_TIMEOUT_S:
        raise InvalidRequestError(f"timeout_s: must be at most {MAX_TIMEOUT_S:g}, got {timeout_s}")
    return timeout_s


def check_text(field: str, text: object) -> str:
    """Return a text that the wire can carry.

    Raises:
        InvalidRequestError: It is no string, or holds half of a surrogate pair: the command line
            has such where it is given bytes that are not UTF-8, and JSON can write them.
    """
    if not isinstance(text, str):
        raise InvalidRequestError(f"{field}: must be a string, got {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        rule = f"must not hold half a character, has one at {error.start}"
        raise InvalidRequestError(f"{field}: {rule}") from None
    return text


def build_request(
    *,
    prompt: str | None = None,
    messages: Sequence[Message | Mapping[str, str]] | None = None,
    user_id: str = "",
    preferences: Sequence[str | Preference] = (),
    beta: float | None = None,
    top_k: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    max_tokens: int | None = None,
    stop: Sequence[str] = (),
    strategy: Strategy | str | None = None,
    reference: ReferenceMode | str | None = None,
    fallback: FallbackPolicy | str | None = None,
    detail: Detail | str | None = None,
    num_samples: int | None = None,
    preference_in_base_prompt: bool = False,
    ignore_end_of_turn: bool = False,
    priority: Priority | str | None = None,
) -> generator_pb2.GenerateRequest:
    """Return the request for `GenerateOptions`.

    Raises:
        InvalidRequestError: what the wire cannot carry; the server checks everything else.
    """
    if (prompt is None) == (messages is None):
        raise InvalidRequestError("prompt, messages: exactly one must be given")
    if isinstance(stop, str):
        raise InvalidRequestError("stop: must be a list of strings, got one string")
    request = generator_pb2.GenerateRequest(
        user_id=check_text("user_id", user_id or ""),
        preferences=_write_preferences(preferences),
        stop=[check_text(f"stop[{index}]", text) for index, text in enumerate(stop)],
        preference_in_base_prompt=preference_in_base_prompt,
        ignore_end_of_turn=ignore_end_of_turn,
    )
    if prompt is not None:
        request.prompt = check_text("prompt", prompt)
    if messages is not None:
        request.chat.CopyFrom(_write_chat(messages))
    for name, value in (
        ("beta", beta),
        ("top_k", top_k),
        ("temperature", temperature),
        ("top_p", top_p),
        ("seed", seed),
        ("max_tokens", max_tokens),
        ("num_samples", num_samples),
    ):
        if value is not None:
            _set(request, name, value)
    for name, choice, enum in (
        ("strategy", strategy, Strategy),
        ("reference", reference, ReferenceMode),
        ("fallback", fallback, FallbackPolicy),
        ("detail", detail, Detail),
        ("priority", priority, Priority),
    ):
        if choice is not None:
            wire_enum = request.DESCRIPTOR.fields_by_name[name].enum_type
            assert wire_enum is not None  # the fields above are enums in the contract
            _set(request, name, enum_number(name, enum, choice, wire_enum))
    return request


def put_profile_request(
    user_id: str,
    preferences: Sequence[str | Preference],
    *,
    beta: float | None,
    expected_revision: int | None,
    erase_history: bool,
) -> profile_pb2.PutProfileRequest:
    """Return the request that creates or replaces a profile."""
    request = profile_pb2.PutProfileRequest(
        user_id=check_text("user_id", user_id),
        preferences=_write_preferences(preferences),
        erases_history=erase_history,
    )
    if beta is not None:
        _set(request, "beta", beta)
    if expected_revision is not None:
        _set(request, "expected_revision", expected_revision)
    return request


def get_profile_request(user_id: str) -> profile_pb2.GetProfileRequest:
    """Return the request for a profile."""
    return profile_pb2.GetProfileRequest(user_id=check_text("user_id", user_id))


def profile_history_request(user_id: str) -> profile_pb2.ListProfileRevisionsRequest:
    """Return the request for a profile's revisions."""
    return profile_pb2.ListProfileRevisionsRequest(user_id=check_text("user_id", user_id))


def delete_profile_request(
    user_id: str, *, expected_revision: int | None
) -> profile_pb2.DeleteProfileRequest:
    """Return the request that erases a profile."""
    request = profile_pb2.DeleteProfileRequest(user_id=check_text("user_id", user_id))
    if expected_revision is not None:
        _set(request, "expected_revision", expected_revision)
    return request


def restore_profile_request(
    user_id: str, revision: int, *, expected_revision: int | None
) -> profile_pb2.RestoreProfileRequest:
    """Return the request that writes an earlier revision anew."""
    request = profile_pb2.RestoreProfileRequest(user_id=check_text("user_id", user_id))
    _set(request, "revision", revision)
    if expected_revision is not None:
        _set(request, "expected_revision", expected_revision)
    return request


def list_profiles_request(page_size: int, page_token: str) -> profile_pb2.ListProfilesRequest:
    """Return the request for one page of profiles."""
    request = profile_pb2.ListProfilesRequest(page_token=page_token)
    _set(request, "page_size", page_size)
    return request


def _write_chat(messages: Iterable[Message | Mapping[str, str]]) -> common_pb2.Chat:
    return common_pb2.Chat(
        messages=[_write_message(index, each) for index, each in enumerate(messages)]
    )


def _write_message(index: int, message: Message | Mapping[str, str]) -> common_pb2.ChatMessage:
    if isinstance(message, Message):
        turn = {"role": message.role, "content": message.content}
    elif isinstance(message, Mapping) and set(message) == {"role", "content"}:
        turn = dict(message)
    else:
        # Keys and types alone: contents do not belong into errors, which are logged.
        found = f"keys {list(message)}" if isinstance(message, Mapping) else type(message).__name__
        raise InvalidRequestError(
            f"messages[{index}]: must be a Message, or a mapping with exactly role and content, "
            f"got {found}"
        )
    for name, value in turn.items():
        check_text(f"messages[{index}].{name}", value)
    return common_pb2.ChatMessage(role=turn["role"], content=turn["content"])


def _write_preferences(preferences: Sequence[str | Preference]) -> list[common_pb2.Preference]:
    if isinstance(preferences, str):
        raise InvalidRequestError("preferences: must be a list, got one string")
    return [_write_preference(index, each) for index, each in enumerate(preferences)]


def _write_preference(index: int, preference: object) -> common_pb2.Preference:
    if isinstance(preference, str):
        return common_pb2.Preference(text=check_text(f"preferences[{index}]", preference))
    if isinstance(preference, Preference):
        text = check_text(f"preferences[{index}].text", preference.text)
        message = common_pb2.Preference(text=text)
        _set(message, "weight", preference.weight, field=f"preferences[{index}].weight")
        return message
    found = type(preference).__name__
    raise InvalidRequestError(
        f"preferences[{index}]: must be a string or a Preference, got {found}"
    )


def _set(message: object, name: str, value: float, field: str = "") -> None:
    field = field or name
    try:
        setattr(message, name, value)
    except ValueError as error:
        raise InvalidRequestError(f"{field}: out of the field's range, got {value}") from error
    except TypeError:
        got = type(value).__name__
        raise InvalidRequestError(f"{field}: must be a number of its type, got {got}") from None
