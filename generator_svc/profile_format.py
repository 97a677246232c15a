"""What a user's profile is, and how it and its keys are written in Redis."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from svc_common.errors import InvalidRequestError, ProfileDamagedError
from svc_common.lm.partitions import HALF_BYTES, NOBODY
from svc_common.preference_rules import check_count, check_preference

_SCHEMA = b"1"
# Says which user's profile changed: "tenant:user", as in the keys.
CHANGES_CHANNEL = "pad:v1:changes"
# Says whose caches are to be cleared, by `subject_of`.
ERASURES_CHANNEL = "pad:v1:erasures"
_MAX_BETA = 10.0
_MAX_REVISION = 1 << 53  # Lua counts in doubles
_MAX_TIME_S = 253_402_300_799  # the last second of the year 9999


@dataclass(frozen=True)
class Preference:
    """A wish about how text should be written, and its weight w in the score."""

    text: str
    weight: float


@dataclass(frozen=True)
class Profile:
    """A user's wishes; `beta` None is the server's default, `updated_at` is in Unix seconds."""

    user_id: str
    preferences: tuple[Preference, ...]
    beta: float | None
    revision: int
    updated_at: float


def user_tag(tenant: str, user_id: str) -> str:
    """Return what names a user in keys, messages and caches; a tenant has no colon in its name."""
    return f"{tenant}:{user_id}"


def subject_of(tag: str) -> bytes:
    """Return what stands for a user where caches are filled: it does not say who it is."""
    return _partition(tag.partition(":")[0]) + _digest(f"pad:v1:{tag}")


def subject_of_tenant(tenant: str) -> bytes:
    """Return what stands for requests without a user; see `svc_common.lm.partitions`."""
    return _partition(tenant) + NOBODY


def _partition(tenant: str) -> bytes:
    return _digest(f"pad:v1:tenant:{tenant}")


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()[:HALF_BYTES]


def profile_key(tag: str) -> str:
    return f"pad:v1:{{{tag}}}:profile"


def tombstone_key(tag: str) -> str:
    return f"pad:v1:{{{tag}}}:tombstone"


def users_key(tenant: str) -> str:
    return f"pad:v1:{{{tenant}}}:users"


def encoding_key(tenant: str, text: str) -> str:
    """Return the key of the encodings of a preference text: a hash with a field per model version.

    Tenant and text alone name it, so that erasing a profile finds the encodings under all versions.
    """
    return f"pad:v1:enc:{hashlib.sha256(f'{tenant}:{text}'.encode()).hexdigest()}"


def to_fields(
    preferences: tuple[Preference, ...], beta: float | None, updated_at: float
) -> dict[str, str | bytes]:
    """Return the hash fields of a profile, less the revision, which only the script knows."""
    pairs = [[preference.text, preference.weight] for preference in preferences]
    return {
        "schema": _SCHEMA,
        "preferences": json.dumps(pairs),
        "beta": "" if beta is None else repr(beta),
        "updated_at": repr(updated_at),
    }


def from_stored(user_id: str, stored: Sequence[bytes | None]) -> Profile:
    """Return the profile that `to_fields` and the script wrote.

    Args:
        user_id: The user.
        stored: What the script READ returned of a key that exists.

    Raises:
        ProfileDamagedError: Somebody else wrote it.
    """
    kind, schema, preferences, *rest = stored
    if kind != b"hash":
        raise damaged(user_id, "it is no hash")
    if schema != _SCHEMA:
        raise damaged(user_id, "its schema is not known")
    try:
        beta, revision, updated_at = (_text(part) for part in rest)
        return Profile(
            user_id=user_id,
            preferences=parse_preferences(preferences or b""),
            beta=_between(float(beta), 0.0, _MAX_BETA) if beta else None,
            revision=int(_between(int(revision), 1, _MAX_REVISION)),
            updated_at=_between(float(updated_at), 0.0, _MAX_TIME_S),
        )
    except (ValueError, TypeError, RecursionError, InvalidRequestError) as error:
        raise damaged(user_id, "a field cannot be read") from error


def parse_preferences(stored: bytes) -> tuple[Preference, ...]:
    """Return the preferences of a hash field.

    Raises:
        ValueError, TypeError, RecursionError: It is not what `to_fields` writes.
        InvalidRequestError: No caller could have put these.
    """
    pairs = json.loads(stored)
    check_count("preferences", len(pairs))
    for text, weight in pairs:
        if not isinstance(text, str):
            raise TypeError("a text is not a string")
        text.encode()  # half a character can be written in JSON
        check_preference("preferences", text, float(weight))
    return tuple(Preference(text, float(weight)) for text, weight in pairs)


def texts_of(stored: bytes) -> set[str]:
    """Return the texts of stored preferences; of damaged ones nobody knows them."""
    try:
        return {preference.text for preference in parse_preferences(stored)}
    except (ValueError, TypeError, RecursionError, InvalidRequestError):
        return set()


def _text(field: bytes | None) -> str:
    if field is None:
        raise ValueError("a field is missing or too long")
    return field.decode()


def _between(number: float, least: float, most: float) -> float:
    if not (math.isfinite(number) and least <= number <= most):
        raise ValueError("a number is out of range")
    return number


def damaged(user_id: str, reason: str) -> ProfileDamagedError:
    return ProfileDamagedError(
        f"user_id: the stored profile of {user_id!r} is damaged ({reason}); put or delete it"
        " without expected_revision"
    )
