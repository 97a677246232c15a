"""What the demo preferences are about: directions, their wordings, how replies are ranked."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

OPPOSITES = {
    "brevity": ("short", "long"),
    "warmth": ("friendly", "businesslike"),
    "excitement": ("lively", "calm"),
    "register": ("formal", "casual"),
    "detail": ("specific", "general"),
    "questions": ("asking", "telling"),
}
HIGH = frozenset(["long", "friendly", "lively", "formal", "specific", "asking"])
DIRECTIONS = tuple(f"{name}:{side}" for name, sides in OPPOSITES.items() for side in sides)
OWN_PHRASINGS = Path(__file__).with_name("phrasings.json")

# Two wishes at once that training never shows, for the evaluation of new personas.
HELD_OUT_COMBINATIONS = frozenset(
    frozenset(pair)
    for pair in (
        ("brevity:long", "warmth:friendly"),
        ("warmth:businesslike", "register:formal"),
        ("excitement:lively", "questions:asking"),
        ("register:casual", "detail:specific"),
        ("detail:general", "questions:telling"),
        ("brevity:long", "register:formal"),
        ("excitement:calm", "detail:specific"),
        ("warmth:friendly", "register:casual"),
    )
)

Attributes = Mapping[str, int]
"""Counts on a reply: words, excl, quest, formal, casual, details, chat."""


def opposite(direction: str) -> str:
    """Return the other direction of the same dimension."""
    name, side = direction.split(":")
    one, two = OPPOSITES[name]
    return f"{name}:{two if side == one else one}"


def suits(direction: str, attributes: Attributes) -> int:
    """Return how well a reply suits a direction; more is better."""
    name, side = direction.split(":")
    value = {
        "brevity": attributes["words"],
        "warmth": attributes["chat"],
        "excitement": min(attributes["excl"], 2),
        "register": attributes["formal"] - attributes["casual"],
        "detail": min(attributes["details"], 6),
        "questions": min(attributes["quest"], 2),
    }[name]
    return value if side in HIGH else -value


def is_clearly_better(direction: str, one: Attributes, two: Attributes) -> bool:
    """Whether `one` suits the direction so much better than `two` that a reader would notice.

    Two words more or one polite word less would not be.
    """
    difference = suits(direction, one) - suits(direction, two)
    name, side = direction.split(":")
    if name == "brevity":
        longer, shorter = max(one["words"], two["words"]), min(one["words"], two["words"])
        return difference >= 4 and longer >= 1.57 * shorter
    if name == "register":
        return difference >= 2 and one[side] > 0
    return difference >= 1


@dataclass(frozen=True)
class PhraseBook:
    """The sentences that state a direction: direction -> sentences."""

    phrases: Mapping[str, Sequence[str]]

    def state(self, directions: Sequence[str], rng: Random) -> str:
        """Return a preference that states all of `directions`, in random order and wording."""
        shuffled = rng.sample(directions, len(directions))
        return " ".join(rng.choice(self.phrases[direction]) for direction in shuffled)


def read_phrase_book(preferences: Path, extra: Path = OWN_PHRASINGS) -> PhraseBook:
    """Return the training phrasings of preferences.json together with our own."""
    dimensions = json.loads(preferences.read_text(encoding="utf-8"))["dimensions"]
    own = json.loads(extra.read_text(encoding="utf-8"))
    return PhraseBook(
        {
            f"{name}:{side}": [
                *dimensions.get(name, {}).get(side, {}).get("phrases_train", ()),
                *own[f"{name}:{side}"],
            ]
            for name, sides in OPPOSITES.items()
            for side in sides
        }
    )
