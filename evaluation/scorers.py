"""How strongly a reply shows each attribute, judged without the counts that ranked the pairs.

A score is higher for more of a dimension's positive side: long, friendly, lively, formal, specific,
asking.

- `brevity`: estimated syllables (pairs: words);
- `warmth`: expected number of friendly sentences, by a wording model fitted on the sentences that
  annotators accepted as friendly additions, against other assistant sentences (pairs: the
  annotation itself);
- `excitement`: log-odds of the liveliest sentence, by a wording model of sentences with and without
  an exclamation mark, which sees no marks (pairs: exclamation marks);
- `register`: log-odds of formal against casual, by a wording model of replies whose marker words
  are removed (pairs: marker words);
- `detail`: capitalised names inside sentences and numbers (pairs: annotated values);
- `questions`: sentences with the word order of a question (pairs: question marks).
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

import numpy as np
from numpy.typing import NDArray

from evaluation.plain_counts import CASUAL, FORMAL, PLAIN_COUNTS, normalised, register_balance
from evaluation.text_model import TextModel, fit_text_model
from evaluation.wording import (
    WORD,
    grade,
    names_and_numbers,
    question_sentences,
    sentences,
    syllables,
)
from training.data import read_rows
from training.wishes import HIGH, OPPOSITES

DIMENSIONS = tuple(OPPOSITES)
POSITIVE = {name: next(side for side in sides if side in HIGH) for name, sides in OPPOSITES.items()}
NEGATIVE = {
    name: next(side for side in sides if side not in HIGH) for name, sides in OPPOSITES.items()
}
FITTED = ("warmth", "excitement", "register")
NUM_PROMPTS = 6000  # candidate prompts the wording models are fitted on
MAX_TEXTS = 20_000  # of each kind
Array = NDArray[np.float64]


def sign(direction: str) -> float:
    """Return 1 where `direction`, such as "brevity:short", asks for a higher score, else -1."""
    dimension, side = direction.split(":")
    return 1.0 if POSITIVE[dimension] == side else -1.0


def without_markers(text: str) -> str:
    """Return `text` in lower case without formal and casual marker words."""
    return CASUAL.sub(" ", FORMAL.sub(" ", normalised(text)))


@dataclass(frozen=True)
class Scorers:
    """The fitted wording models and the measures that need none."""

    warmth: TextModel
    excitement: TextModel
    register: TextModel

    def score(self, dimension: str, text: str) -> float:
        """Return the score of `text` on one dimension."""
        if dimension == "brevity":
            return syllables(text)
        if dimension == "detail":
            return names_and_numbers(text)
        if dimension == "questions":
            return question_sentences(text)
        if dimension == "register":
            return self.register.log_odds(without_markers(text))
        parts = sentences(text) or [""]
        if dimension == "excitement":
            return max(map(self.excitement.log_odds, parts))
        return sum(1.0 / (1.0 + math.exp(-self.warmth.log_odds(part))) for part in parts)

    def table(self, texts: Sequence[str]) -> Array:
        """Return the scores of all texts, `[N, 6]` in the order of `DIMENSIONS`."""
        rows = [[self.score(name, text) for name in DIMENSIONS] for text in texts]
        return np.array(rows, dtype=np.float64).reshape(-1, len(DIMENSIONS))


def count_table(texts: Sequence[str]) -> Array:
    """Return the plain counts of all texts, `[N, 6]` in the order of `DIMENSIONS`."""
    rows = [[PLAIN_COUNTS[name](text) for name in DIMENSIONS] for text in texts]
    return np.array(rows, dtype=np.float64).reshape(-1, len(DIMENSIONS))


def fit_scorers(data: Path, work: Path, seed: int = 0) -> Scorers:
    """Fit the wording models on the training split, or read those that `work` holds."""
    paths = {name: work / f"scorer-{name}-{seed}.json" for name in FITTED}
    if not all(path.is_file() for path in paths.values()):
        models = _fit(data, Random(seed))
        work.mkdir(parents=True, exist_ok=True)
        for name, path in paths.items():
            models[name].save(path)
    return Scorers(**{name: TextModel.load(path) for name, path in paths.items()})


def _fit(data: Path, rng: Random) -> dict[str, TextModel]:
    friendly: list[str] = []
    plain: list[str] = []
    for added, sentence in _dialogue_sentences(data / "lm/dialogues_train.jsonl.gz"):
        (friendly if added else plain).append(sentence)
    prompts = list(read_rows(data / "preferences/candidates_train.jsonl.gz"))
    prompts = rng.sample(prompts, min(NUM_PROMPTS, len(prompts)))
    replies = sorted({reply["text"] for prompt in prompts for reply in prompt["candidates"]})
    parts = [part for reply in replies for part in sentences(reply)]
    return {
        "warmth": _contrast(friendly, plain, rng),
        "excitement": _contrast(
            [part for part in parts if part.endswith("!")],
            [part for part in parts if not part.endswith("!")],
            rng,
        ),
        "register": _contrast(
            [without_markers(reply) for reply in replies if register_balance(reply) > 0],
            [without_markers(reply) for reply in replies if register_balance(reply) < 0],
            rng,
        ),
    }


def _dialogue_sentences(path: Path) -> Iterator[tuple[bool, str]]:
    """Yield every assistant sentence; True with those that annotators added."""
    for row in read_rows(path):
        for turn in row["turns"]:
            if turn["speaker"] != "assistant":
                continue
            yield from ((False, part) for part in sentences(turn["text"]))
            for addition in (*turn.get("before", ()), *turn.get("after", ())):
                yield from ((True, part) for part in sentences(addition))


def _contrast(positive: list[str], negative: list[str], rng: Random) -> TextModel:
    return fit_text_model(
        rng.sample(positive, min(MAX_TEXTS, len(positive))),
        rng.sample(negative, min(MAX_TEXTS, len(negative))),
    )


def _count(pattern_words: Sequence[str]) -> Callable[[str], float]:
    pattern = re.compile(rf"\b({'|'.join(pattern_words)})")  # words that begin so
    return lambda text: float(len(pattern.findall(normalised(text))))


def _word_length(text: str) -> float:
    words = WORD.findall(text)
    return sum(map(len, words)) / len(words) if words else 0.0


_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_WEATHER = ("weather", "sunny", "rain", "cloud", "forecast", "temperature", "wind", "humid", "snow")
_SORRY = ("sorry", "apolog", "afraid", "pardon", "unfortunately")
_MYSELF = frozenset(["i", "me", "my", "mine", "myself"])
# What wishes that no pair was about ask for: +1 more of it, -1 less.
UNTRAINED: dict[str, tuple[float, Callable[[str], float]]] = {
    "yes": (1.0, lambda text: float(normalised(text).startswith("yes"))),
    "apology": (1.0, _count(_SORRY)),
    "weather": (1.0, _count(_WEATHER)),
    "weekdays": (1.0, _count(_WEEKDAYS)),
    "first-person": (
        -1.0,
        lambda text: float(
            sum(word.split("'")[0] in _MYSELF for word in WORD.findall(normalised(text)))
        ),
    ),
}
SECONDARY: dict[str, Callable[[str], float]] = {"reading grade": grade, "word length": _word_length}
