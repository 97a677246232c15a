"""What a stated preference may be: one set of rules for both services."""

import math

from svc_common.errors import InvalidRequestError
from svc_common.preference_text import check_preference_text

MAX_PREFERENCES = 8
MAX_TEXT_CHARACTERS = 2000
MAX_WEIGHT = 10.0


def check_count(field: str, count: int) -> None:
    """Refuse too many preferences, or none.

    Raises:
        InvalidRequestError: It is not 1..8.
    """
    if not 1 <= count <= MAX_PREFERENCES:
        raise InvalidRequestError(f"{field}: must have 1..{MAX_PREFERENCES} entries, got {count}")


def check_preference(field: str, text: str, weight: float) -> None:
    """Refuse a weight that is out of range, or a text that is, or that could be more than data.

    Raises:
        InvalidRequestError: It is; the error never repeats the text.
    """
    if not 1 <= len(text) <= MAX_TEXT_CHARACTERS:
        rule = f"must be 1..{MAX_TEXT_CHARACTERS} characters"
        raise InvalidRequestError(f"{field}.text: {rule}, got {len(text)}")
    if text.isspace():
        raise InvalidRequestError(
            f"{field}.text: must not be blank, got {len(text)} blank characters"
        )
    check_preference_text(f"{field}.text", text)
    if not (math.isfinite(weight) and 0 < weight <= MAX_WEIGHT):
        raise InvalidRequestError(
            f"{field}.weight: must be > 0 and <= {MAX_WEIGHT:g}, got {weight}"
        )
