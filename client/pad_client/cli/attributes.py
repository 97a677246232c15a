"""Counts on a text what the demo's wishes are about."""

import re
from dataclasses import dataclass

# The marker words of the demo data. The contractions of "is" and "us" are spelt out: a bare 's is
# mostly a possessive.
_FORMAL = re.compile(
    r"\b(please|kindly|may i|shall i|shall we|certainly|would you like|would you prefer"
    r"|could you|assist|assistance|thank you|my pleasure|at your service|pardon|apologies)\b",
    re.IGNORECASE,
)
_CASUAL = re.compile(
    r"\b(\w+n't|\w+'(?:re|ll|ve|d|m)|(?:it|that|what|here|there|where|who|how|he|she|let)'s"
    r"|ok|okay|sure|yeah|yep|hey|hi|alright|cool|awesome|wanna|gonna|gotcha|no problem|you bet"
    r"|oh|wow|yay)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Attributes:
    """Counts of one text."""

    words: int
    exclamations: int
    questions: int
    formal: int
    casual: int


def count_attributes(text: str) -> Attributes:
    """Return the counts of a text."""
    plain = text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    return Attributes(
        words=len(plain.split()),
        exclamations=plain.count("!"),
        questions=plain.count("?"),
        formal=len(_FORMAL.findall(plain)),
        casual=len(_CASUAL.findall(plain)),
    )
