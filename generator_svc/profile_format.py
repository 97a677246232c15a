"""What a user's profile is, and how it and its keys are written in Redis."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass

from svc_common.errors import ProfileDamagedError

_SCHEMA = b"1"
# Says which user's profile changed: "tenant:user", as in the keys.
CHANGES_CHANNEL = "pad:v1:changes"


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


def profile_key(tag: str) -> str:
    return f"pad:v1:{{{tag}}}:profile"


def tombstone_key(tag: str) -> str:
    return f"pad:v1:{{{tag}}}:tombstone"


def users_key(tenant: str) -> str:
    return f"pad:v1:{{{tenant}}}:users"


def encoding_key(text: str) -> str:
    """Return the key of the encodings of a preference text: a hash with a field per model version.

    The text alone names it, so that erasing a profile finds the encodings under all versions.
    """
    return f"pad:v1:enc:{hashlib.sha256(text.encode()).hexdigest()}"


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


def from_fields(user_id: str, fields: Mapping[bytes, bytes]) -> Profile:
    """Return the profile that `to_fields` and the script wrote.

    Raises:
        ProfileDamagedError: Somebody else wrote it.
    """
    if fields.get(b"schema") != _SCHEMA:
        raise damaged(user_id, "its schema is not known")
    try:
        beta = fields[b"beta"]
        return Profile(
            user_id=user_id,
            preferences=parse_preferences(fields[b"preferences"]),
            beta=float(beta) if beta else None,
            revision=int(fields[b"revision"]),
            updated_at=float(fields[b"updated_at"]),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise damaged(user_id, "a field cannot be read") from error


def parse_preferences(stored: bytes) -> tuple[Preference, ...]:
    """Return the preferences of a hash field.

    Raises:
        ValueError, TypeError: It is not what `to_fields` writes.
    """
    pairs = json.loads(stored)
    if not all(isinstance(text, str) for text, _ in pairs):
        raise ValueError("a text is not a string")
    return tuple(Preference(text, float(weight)) for text, weight in pairs)


def damaged(user_id: str, reason: str) -> ProfileDamagedError:
    return ProfileDamagedError(
        f"user_id: the stored profile of {user_id!r} is damaged ({reason}); put or delete it"
        " without expected_revision"
    )
