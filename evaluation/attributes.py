"""Counts on reply texts that show whether a stated preference was followed."""

import re
from collections.abc import Sequence
from statistics import mean

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


def word_count(text: str) -> int:
    """Return the number of words of `text`."""
    return len(text.split())


def summarise(texts: Sequence[str], ended: Sequence[bool]) -> dict[str, float]:
    """Return the mean of each attribute over `texts`.

    Args:
        ended: whether each reply came to its end mark.
    """
    lowered = [text.lower().replace("\u2019", "'") for text in texts]
    figures = {
        "words": mean(map(word_count, texts)),
        "exclamations": mean(text.count("!") for text in texts),
        "questions": mean(text.count("?") for text in texts),
        "formal": mean(len(FORMAL.findall(text)) for text in lowered),
        "casual": mean(len(CASUAL.findall(text)) for text in lowered),
        "chat_share": mean(bool(CHAT.search(text)) for text in lowered),
        "digit_groups": mean(len(re.findall(r"\d+", text)) for text in texts),
        "ended_share": mean(ended),
    }
    return {name: round(float(value), 3) for name, value in figures.items()}
