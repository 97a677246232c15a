"""Checks of what several RPCs of the generator take; each returns the value as its own type."""

import re
from collections.abc import Sequence

from generator_svc.profile_format import Preference
from pad.v1 import common_pb2
from svc_common.errors import InvalidRequestError
from svc_common.preference_rules import check_count, check_stated_preference

MAX_BETA = 10.0
_MAX_USER_ID_CHARACTERS = 128
_USER_ID = re.compile(r"[A-Za-z0-9._\-@:]+")


def parse_user_id(user_id: str) -> str:
    """Return the id of a user.

    Raises:
        InvalidRequestError: It is empty, too long or has other characters than are allowed.
    """
    if len(user_id) > _MAX_USER_ID_CHARACTERS:
        raise InvalidRequestError(
            f"user_id: must be 1..{_MAX_USER_ID_CHARACTERS} characters, got {len(user_id)}"
        )
    if not _USER_ID.fullmatch(user_id):
        raise InvalidRequestError(
            f"user_id: must be 1..{_MAX_USER_ID_CHARACTERS} characters of A-Z a-z 0-9 . _ - @ :,"
            f" got {user_id!a}"
        )
    return user_id


def parse_preferences(
    messages: Sequence[common_pb2.Preference], field: str = "preferences"
) -> tuple[Preference, ...]:
    """Return stated preferences; an error never repeats their text.

    Args:
        messages: 1..8 preferences.
        field: Where they stand in the request.

    Raises:
        InvalidRequestError: Number, text or weight is out of range.
    """
    check_count(field, len(messages))
    return tuple(
        _parse_preference(message, f"{field}[{place}]") for place, message in enumerate(messages)
    )


def parse_beta(beta: float) -> float:
    """Return a guidance strength.

    Raises:
        InvalidRequestError: It is not 0..10.
    """
    if not 0.0 <= beta <= MAX_BETA:  # nan is not
        raise InvalidRequestError(f"beta: must be 0..{MAX_BETA:g}, got {beta}")
    return beta


def _parse_preference(message: common_pb2.Preference, field: str) -> Preference:
    weight = message.weight if message.HasField("weight") else 1.0
    check_stated_preference(field, message.text, weight)
    return Preference(message.text, weight)
