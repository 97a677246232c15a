"""Build preference pairs for any persona from replies with counted attributes, and flip them.

A flip pair is the same two replies under the opposite wishes with the opposite winner. A model that
only knows which reply is better, whoever asks, is right on one of the two and wrong on the other.
"""

import argparse
import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

from tqdm import tqdm

from training.cli import add_folders, run_command, show
from training.data import read_rows, require_data
from training.wishes import (
    DIRECTIONS,
    HELD_OUT_COMBINATIONS,
    PhraseBook,
    is_clearly_better,
    opposite,
    read_phrase_book,
    suits,
)

Row = dict[str, Any]
"""A row of a candidates or pairs file, as the demo data has them."""


@dataclass(frozen=True)
class BuildConfig:
    """How many pairs of which kind."""

    num_single: int = 1000  # new pairs for each direction
    num_combined: int = 250  # new pairs for each allowed combination of two directions
    kept_wording: float = 0.3  # share of the given pairs that keep their wording of the preference
    seed: int = 4


def is_better(wishes: Sequence[str], one: Row, two: Row) -> bool:
    """Whether reply `one` is clearly better on a wish and not worse on any other."""
    return all(suits(wish, one) >= suits(wish, two) for wish in wishes) and any(
        is_clearly_better(wish, one, two) for wish in wishes
    )


def ranked_replies(prompt: Row, wishes: Sequence[str], rng: Random) -> tuple[Row, Row] | None:
    """Return a better and a worse reply of one prompt, or None if all are alike.

    Among the possible pairs one is drawn in which both give as many details as each other, if
    there is one and the wishes are not about details: then details cannot be what is learned.
    """
    replies = prompt["candidates"]
    found = [
        (one, two)
        for one in replies
        for two in replies
        if one is not two and is_better(wishes, one, two)
    ]
    if not found:
        return None
    if not any(wish.startswith("detail:") for wish in wishes):
        alike = [pair for pair in found if pair[0]["details"] == pair[1]["details"]]
        found = alike or found
    return rng.choice(found)


def make_row(
    prompt: Row, wishes: Sequence[str], preference: str, chosen: Row, rejected: Row
) -> Row:
    """Return one row of a pair file."""
    dims = [dict(zip(("dim", "direction"), wish.split(":"), strict=True)) for wish in wishes]
    return {
        "prompt_id": prompt["id"],
        "context": prompt["context"],
        "preference": preference,
        "dims": dims,
        "labels": list(wishes),
        "persona": "+".join(wishes) if len(wishes) > 1 else None,
        "chosen": chosen["text"],
        "rejected": rejected["text"],
    }


def build_pairs(
    prompts: Sequence[Row],
    wishes: Sequence[str],
    book: PhraseBook,
    num_pairs: int,
    rng: Random,
    *,
    flip: bool = True,
) -> list[Row]:
    """Return up to `num_pairs` pairs for a persona with these wishes, from different prompts.

    Args:
        prompts: rows of a candidates file.
        wishes: directions such as "brevity:short", of different dimensions.
        flip: every second pair is the one before it under the opposite wishes.
    """
    pairs: list[Row] = []
    for prompt in rng.sample(prompts, len(prompts)):
        if len(pairs) >= num_pairs:
            break
        found = ranked_replies(prompt, wishes, rng)
        if found is None:
            continue
        better, worse = found
        pairs.append(make_row(prompt, wishes, book.state(wishes, rng), better, worse))
        reverse = [opposite(wish) for wish in wishes]
        if flip and is_better(reverse, worse, better):
            pairs.append(make_row(prompt, reverse, book.state(reverse, rng), worse, better))
    return pairs[:num_pairs]


def training_combinations() -> list[tuple[str, ...]]:
    """Return every two directions of different dimensions, but those kept for evaluation."""
    return [
        pair
        for pair in combinations(DIRECTIONS, 2)
        if pair[0].split(":")[0] != pair[1].split(":")[0]
        and frozenset(pair) not in HELD_OUT_COMBINATIONS
    ]


def reword(row: Row, book: PhraseBook, kept: float, rng: Random) -> Row:
    """Return a given pair with its preference worded anew, but for a share `kept` of them."""
    labels = ["{dim}:{direction}".format(**wish) for wish in row["dims"]]
    text = row["preference"] if rng.random() < kept else book.state(labels, rng)
    return {**row, "preference": text, "labels": labels}


def training_rows(data: Path, config: BuildConfig) -> Iterator[Row]:
    """Yield the demo's training pairs: the given ones in more wordings, then built ones."""
    rng = Random(config.seed)
    book = read_phrase_book(data / "preferences/preferences.json")
    for row in read_rows(data / "preferences/pairs_train.jsonl.gz"):
        yield reword(row, book, config.kept_wording, rng)
    prompts = list(read_rows(data / "preferences/candidates_train.jsonl.gz"))
    plan: list[tuple[tuple[str, ...], int]] = [
        ((direction,), config.num_single) for direction in DIRECTIONS
    ]
    plan += [(pair, config.num_combined) for pair in training_combinations()]
    for wishes, num_pairs in tqdm(plan, desc="pairs", mininterval=5.0):
        is_allowed = frozenset(map(opposite, wishes)) not in HELD_OUT_COMBINATIONS
        yield from build_pairs(prompts, wishes, book, num_pairs, rng, flip=is_allowed)


def write_pairs(path: Path, rows: Iterator[Row]) -> int:
    """Write rows as compressed JSON Lines, the same bytes each time; return how many."""
    path.parent.mkdir(parents=True, exist_ok=True)
    count = 0
    with path.open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file:
        for row in rows:
            file.write((json.dumps(row, ensure_ascii=False) + "\n").encode())
            count += 1
    return count


def build_training_pairs(data: Path, path: Path, config: BuildConfig) -> int:
    """Write the demo's training pairs to `path` and return how many there are."""
    require_data(data)
    return write_pairs(path, training_rows(data, config))


def main() -> None:
    """Run this step alone; `--out` names the pair file."""
    parser = add_folders(argparse.ArgumentParser(description=__doc__))
    parser.set_defaults(out=Path("pairs.jsonl.gz"))
    args = parser.parse_args()

    def build() -> None:
        count = build_training_pairs(args.data, args.out, BuildConfig())
        show(f"{count} pairs in {args.out}\n")

    run_command(build)


if __name__ == "__main__":
    main()
