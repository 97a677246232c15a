"""The users that replies are written for: what each of them wishes, and how it is put in words."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from training.wishes import HELD_OUT_COMBINATIONS

BASE_USER = "base"
UNSEEN, UNTRAINED_PREFIX, UNSEEN_PERSONA = "unseen:", "untrained-", "unseen-persona-"

# Wishes outside the six dimensions; no training phrasing speaks of them.
UNTRAINED: Mapping[str, str] = {
    "yes": "Begin with the word yes.",
    "apology": "Apologise a lot.",
    "weather": "Mention the weather.",
    "weekdays": "Name a day of the week.",
    "first-person": "Do not talk about yourself.",
}


@dataclass(frozen=True)
class User:
    """Someone replies are written for.

    Args:
        name: such as `brevity:short`, `unseen:brevity:short`, `p03` or `untrained-thanks`.
        directions: wishes that can be judged; none for the base and for untrained wishes.
        phrasings: for each wish the sentences that state it; each prompt draws one.
        phrase_seen: whether training shows these sentences.
    """

    name: str
    directions: tuple[str, ...]
    phrasings: tuple[tuple[str, ...], ...]
    phrase_seen: bool = True

    @property
    def is_single(self) -> bool:
        """Whether it is one of the wishes that training states in these words."""
        return len(self.directions) == 1 and self.phrase_seen

    def wishes(self, prompt_id: str) -> tuple[str, ...]:
        """Return each wish in the words used with this prompt; two wishes in either order."""
        rng = Random(f"{self.name}:{prompt_id}")
        chosen = [rng.choice(own) for own in self.phrasings]
        rng.shuffle(chosen)
        return tuple(chosen)

    def preference(self, prompt_id: str) -> str:
        """Return all wishes as one text, as the training pairs join them."""
        return " ".join(self.wishes(prompt_id))


def read_users(path: Path) -> dict[str, User]:
    """Return all users by name, made from preferences.json: the base user first."""
    file = json.loads(path.read_text(encoding="utf-8"))
    train = _phrases(file["dimensions"], "phrases_train")
    dev = _phrases(file["dimensions"], "phrases_dev")
    users = [User(BASE_USER, (), ())]
    users += [User(name, (name,), (texts,)) for name, texts in train.items()]
    users += [User(UNSEEN + name, (name,), (texts,), False) for name, texts in dev.items()]
    for persona in file["personas"]:
        wishes = tuple(f"{name}:{side}" for name, side in persona["wishes"].items())
        users.append(User(persona["id"], wishes, tuple(train[wish] for wish in wishes)))
    for number, wishes in enumerate(unseen_combinations(), start=1):
        phrasings = tuple(train[wish] for wish in wishes)
        users.append(User(f"{UNSEEN_PERSONA}{number}", wishes, phrasings))
    for name, text in UNTRAINED.items():
        users.append(User(UNTRAINED_PREFIX + name, (), ((text,),), False))
    return {user.name: user for user in users}


def unseen_combinations() -> list[tuple[str, ...]]:
    """Return the two wishes of each combination that training never shows, in a fixed order."""
    return sorted(tuple(sorted(pair)) for pair in HELD_OUT_COMBINATIONS)


def single_users(users: Mapping[str, User]) -> list[User]:
    """Return the users with one wish in training words."""
    return [user for user in users.values() if user.is_single]


def unseen_users(users: Mapping[str, User]) -> list[User]:
    """Return the users with one wish in words that training does not show."""
    return [user for user in users.values() if user.name.startswith(UNSEEN)]


def persona_users(users: Mapping[str, User]) -> list[User]:
    """Return the users with two wishes that training combines."""
    return [
        user
        for user in users.values()
        if len(user.directions) == 2 and not user.name.startswith(UNSEEN_PERSONA)
    ]


def new_persona_users(users: Mapping[str, User]) -> list[User]:
    """Return the users with two wishes that training does not combine."""
    return [user for user in users.values() if user.name.startswith(UNSEEN_PERSONA)]


def untrained_users(users: Mapping[str, User]) -> list[User]:
    """Return the users with a wish that training is not about."""
    return [user for user in users.values() if user.name.startswith(UNTRAINED_PREFIX)]


def _phrases(
    dimensions: Mapping[str, Mapping[str, Mapping[str, Sequence[str]]]], key: str
) -> dict[str, tuple[str, ...]]:
    return {
        f"{name}:{side}": tuple(direction[key])
        for name, sides in dimensions.items()
        for side, direction in sides.items()
    }
