import gzip
import json
from collections import Counter
from pathlib import Path
from random import Random
from typing import Any

import pytest

from training.build_pairs import build_pairs, reword, training_combinations, write_pairs
from training.wishes import (
    DIRECTIONS,
    HELD_OUT_COMBINATIONS,
    OWN_PHRASINGS,
    PhraseBook,
    is_clearly_better,
    opposite,
    suits,
)

BOOK = PhraseBook({direction: [f"<{direction}>"] for direction in DIRECTIONS})


def reply(text: str, **counts: int) -> dict[str, Any]:
    names = ("words", "excl", "quest", "formal", "casual", "details", "chat")
    return {"text": text, **dict.fromkeys(names, 0), "words": len(text.split()), **counts}


def prompt(number: int, *replies: dict[str, Any]) -> dict[str, Any]:
    context = [{"speaker": "user", "text": "Find a hotel."}]
    return {"id": f"prompt-{number}", "context": context, "candidates": list(replies)}


SHORT = reply("The Inn.", details=1)
LONG = reply("I have found the Inn for you and it is good.", details=1)
LIVELY = reply("The Inn!", excl=1, details=1)


def test_a_flip_pair_holds_the_same_replies_with_the_opposite_winner() -> None:
    rows = build_pairs([prompt(1, SHORT, LONG)], ("brevity:short",), BOOK, 10, Random(0))
    assert [(row["preference"], row["chosen"], row["rejected"]) for row in rows] == [
        ("<brevity:short>", SHORT["text"], LONG["text"]),
        ("<brevity:long>", LONG["text"], SHORT["text"]),
    ]
    assert [row["labels"] for row in rows] == [["brevity:short"], ["brevity:long"]]


def test_the_winner_of_two_wishes_is_worse_on_neither() -> None:
    prompts = [prompt(number, SHORT, LONG, LIVELY) for number in range(20)]
    rows = build_pairs(
        prompts, ("brevity:short", "excitement:calm"), BOOK, 20, Random(0), flip=False
    )
    assert {row["chosen"] for row in rows} == {SHORT["text"]}
    assert {row["rejected"] for row in rows} == {LONG["text"], LIVELY["text"]}
    assert {row["persona"] for row in rows} == {"brevity:short+excitement:calm"}
    assert {row["preference"] for row in rows} == {
        "<brevity:short> <excitement:calm>",
        "<excitement:calm> <brevity:short>",
    }


def test_replies_that_are_alike_make_no_pair() -> None:
    assert build_pairs([prompt(1, SHORT, SHORT)], ("brevity:short",), BOOK, 10, Random(0)) == []
    almost = reply("I have found you the Inn and it is good indeed.")
    assert build_pairs([prompt(1, LONG, almost)], ("brevity:long",), BOOK, 9, Random(0)) == []


def test_replies_with_equally_many_details_are_compared_where_there_are_any() -> None:
    richer = reply("Inn, 4 stars, 90 dollars!", excl=1, details=3)
    for seed in range(5):
        rows = build_pairs(
            [prompt(1, SHORT, LIVELY, richer)], ("excitement:lively",), BOOK, 1, Random(seed)
        )
        assert rows[0]["chosen"] == LIVELY["text"]


@pytest.mark.parametrize("direction", DIRECTIONS)
def test_opposite_directions_rank_the_opposite_way(direction: str) -> None:
    one = {"words": 20, "excl": 2, "quest": 2, "formal": 3, "casual": 0, "details": 4, "chat": 1}
    two = {"words": 5, "excl": 0, "quest": 0, "formal": 0, "casual": 3, "details": 0, "chat": 0}
    assert suits(direction, one) == -suits(opposite(direction), one)
    assert opposite(opposite(direction)) == direction
    assert is_clearly_better(direction, one, two) != is_clearly_better(direction, two, one)
    assert is_clearly_better(direction, one, two) == is_clearly_better(
        opposite(direction), two, one
    )


def test_combinations_for_evaluation_are_never_trained() -> None:
    combinations = training_combinations()
    assert len(combinations) == 60 - len(HELD_OUT_COMBINATIONS)
    assert not HELD_OUT_COMBINATIONS & {frozenset(pair) for pair in combinations}


def test_rewording_keeps_the_wishes_and_some_of_the_wordings() -> None:
    row = {
        "preference": "Be brief.",
        "dims": [{"dim": "brevity", "direction": "short"}],
        "chosen": "a",
        "rejected": "b",
    }
    rng = Random(0)
    counts = Counter(reword(row, BOOK, 0.3, rng)["preference"] for _ in range(500))
    assert set(counts) == {"Be brief.", "<brevity:short>"}
    assert 100 < counts["Be brief."] < 200


def test_our_wordings_cover_every_direction_and_repeat_none() -> None:
    phrases = json.loads(OWN_PHRASINGS.read_text(encoding="utf-8"))
    assert set(phrases) == set(DIRECTIONS)
    everything = [phrase for group in phrases.values() for phrase in group]
    assert len(set(everything)) == len(everything)


def test_the_same_rows_make_the_same_file(tmp_path: Path) -> None:
    rows = build_pairs([prompt(1, SHORT, LONG)], ("brevity:short",), BOOK, 10, Random(0))
    paths = [tmp_path / "one.jsonl.gz", tmp_path / "two.jsonl.gz"]
    assert [write_pairs(path, iter(rows)) for path in paths] == [2, 2]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with gzip.open(paths[0], "rt", encoding="utf-8") as lines:
        assert [json.loads(line) for line in lines] == rows
