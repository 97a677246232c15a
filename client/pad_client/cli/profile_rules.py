"""What a profile must be, as far as it can be told without a server; profile.proto has it all.

Each function returns the rule that a value breaks, or an empty text.
"""

import math
import re
from typing import Any

from pad_client.presets import MAX_TEXT_CHARACTERS, MAX_WEIGHT

MAX_WISHES = 8
MAX_BETA = 10.0
MAX_USER_ID_CHARACTERS = 128
_USER_ID = re.compile(r"[A-Za-z0-9._\-@:]+")


def broken_by_user_id(user_id: str) -> str:
    """Check the id of a user."""
    if len(user_id) <= MAX_USER_ID_CHARACTERS and _USER_ID.fullmatch(user_id):
        return ""
    return f"must be 1..{MAX_USER_ID_CHARACTERS} characters of A-Z a-z 0-9 . _ - @ :"


def broken_by_num_wishes(num_wishes: int) -> str:
    """Check how many wishes there are."""
    return "" if 1 <= num_wishes <= MAX_WISHES else f"must have 1..{MAX_WISHES} entries"


def broken_by_text(text: str) -> str:
    """Check the text of a wish."""
    if text.strip() and len(text) <= MAX_TEXT_CHARACTERS:
        return ""
    return f"must have 1..{MAX_TEXT_CHARACTERS} characters and not be blank"


def broken_by_weight(weight: Any) -> str:
    """Check the weight of a wish, whatever was written in its place."""
    return (
        "" if 0 < to_number(weight) <= MAX_WEIGHT else f"must be above 0 and at most {MAX_WEIGHT:g}"
    )


def broken_by_beta(beta: Any) -> str:
    """Check a guidance strength, whatever was written in its place."""
    return "" if 0 <= to_number(beta) <= MAX_BETA else f"must be 0..{MAX_BETA:g}"


def to_number(value: Any) -> float:
    """Return a number that is in no range where there is none: nan, or infinity."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    try:
        return float(value) if is_number else math.nan
    except OverflowError:
        return math.inf
