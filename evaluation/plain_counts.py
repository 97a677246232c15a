"""The plain counts that ranked the preference pairs: one number per reply and dimension.

`warmth` (in the data an annotation, not a count) is a list of stock phrases here. Reported beside
the independent scorers, never instead of them.
"""

import re
from collections.abc import Callable

FORMAL = re.compile(
    r"\b(please|kindly|may i|shall (i|we)|certainly|would you (like|prefer)|could you|assist(ance)?"
    r"|thank you|my pleasure|at your service|pardon|apologies)\b"
)
CASUAL = re.compile(
    r"\b(\w+'(s|re|ll|ve|d|m)|\w+n't|ok|okay|sure|yeah|yep|hey|hi|alright|cool|awesome|wanna|gonna"
    r"|gotcha|no problem|you bet|oh|wow|yay)\b"
)
CHAT = re.compile(
    r"\b(i hope|hope you|enjoy|i'm sure|i think|i love|my favorite|sounds (like|good|great|fun)"
    r"|great (place|idea|movie|song|venue|choice|time|way|deal)|good (idea|deal|choice)|a lot of"
    r"|worth it|glad|happy to|hesitate|feel free|check it out|very welcome|so much|have fun"
    r"|you'll (like|love)|you will (like|love))\b"
)
DETAIL = re.compile(r"\d+")


def normalised(text: str) -> str:
    """Return `text` in lower case with straight apostrophes."""
    return text.lower().replace("\u2019", "'")


def register_balance(text: str) -> float:
    """Return the number of formal markers minus that of casual ones."""
    lowered = normalised(text)
    return float(len(FORMAL.findall(lowered)) - len(CASUAL.findall(lowered)))


PLAIN_COUNTS: dict[str, Callable[[str], float]] = {
    "brevity": lambda text: float(len(text.split())),
    "warmth": lambda text: float(len(CHAT.findall(normalised(text)))),
    "excitement": lambda text: float(text.count("!")),
    "register": register_balance,
    "detail": lambda text: float(len(DETAIL.findall(text))),
    "questions": lambda text: float(text.count("?")),
}
PLAIN_NAMES = {
    "brevity": "words",
    "warmth": "stock friendly phrases",
    "excitement": "exclamation marks",
    "register": "formal minus casual markers",
    "detail": "digit groups",
    "questions": "question marks",
}
