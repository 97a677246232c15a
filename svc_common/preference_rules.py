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
    """Refuse a text or weight that is out of range; the error never repeats the text.

    Raises:
        InvalidRequestError: It is.
    """
    if not 1 <= len(text) <= MAX_TEXT_CHARACTERS:
        rule = f"must be 1..{MAX_TEXT_CHARACTERS} characters"
        raise InvalidRequestError(f"{field}.text: {rule}, got {len(text)}")
    if text.isspace():
        raise InvalidRequestError(
            f"{field}.text: must not be blank, got {len(text)} blank characters"
        )
    if not (math.isfinite(weight) and 0 < weight <= MAX_WEIGHT):
        raise InvalidRequestError(
            f"{field}.weight: must be > 0 and <= {MAX_WEIGHT:g}, got {weight}"
        )


def check_stated_preference(field: str, text: str, weight: float) -> None:
    """Refuse what `check_preference` refuses, and a text that could be more than a preference.

    For what a caller sends. What is stored may be older than these rules: it can be read and
    erased, and its text is checked where it is used.

    Raises:
        InvalidRequestError: It is such a preference; the error never repeats the text.
    """
    check_preference(field, text, weight)
    check_preference_text(f"{field}.text", text)
