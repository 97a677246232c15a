import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from evaluation.plain_counts import PLAIN_COUNTS
from evaluation.scorers import UNTRAINED, Scorers, fit_scorers, sign, without_markers
from evaluation.text_model import TextModel, fit_text_model, terms
from evaluation.wording import names_and_numbers, question_sentences, sentences, syllables

FRIENDLY = ["I hope you enjoy it", "It is a great place", "I am glad to help", "Have fun there"]
PLAIN = ["What city", "It starts at 5 pm", "Your table is booked", "The ticket costs 20 dollars"]


@pytest.fixture(scope="module")
def model() -> TextModel:
    return fit_text_model([f"{t}!" for t in FRIENDLY] * 5, [f"{t}." for t in PLAIN] * 5)


@pytest.mark.parametrize(
    "text",
    [
        "Would you like a table",
        "Would you like a table.",
        "Okay, what time do you want to eat.",
        "I found the Grand Hotel. Is there anything else",
        "How about Sushi Bar in Oslo",
        "And which city should I search in",
        "There are 3 buses, do you want the first",
    ],
)
def test_a_question_is_known_by_its_word_order_alone(text: str) -> None:
    assert question_sentences(text) == 1


@pytest.mark.parametrize(
    "text",
    [
        "Your table is booked?",
        "There is one, which is in Oslo, and has a pool.",
        "You can leave when you like.",
        "It does. I would like that.",
    ],
)
def test_a_statement_is_no_question_whatever_its_mark(text: str) -> None:
    assert question_sentences(text) == 0


def test_names_inside_sentences_and_numbers_are_details() -> None:
    assert names_and_numbers("I think I found it. Sure, it is nice. Oslo.") == 0
    assert names_and_numbers("It is the Grand Hotel in Oslo.") == 2
    assert names_and_numbers("It leaves at 7:30 pm and costs $1,200.") == 2


def test_syllables_are_counted_by_vowels_and_digits() -> None:
    assert syllables("The table is here") == 5
    assert syllables("5 pm on 12") == 5


def test_sentences_end_at_marks_but_not_inside_numbers() -> None:
    assert sentences("It is 4.2. Good! Ok") == ["It is 4.2.", "Good!", "Ok"]


def test_a_text_model_tells_new_sentences_of_two_kinds_apart(model: TextModel) -> None:
    assert model.log_odds("I hope it is a great place") > 0
    assert model.log_odds("What city is your table in") < 0
    assert model.log_odds("zebra") == pytest.approx(model.log_odds("quagga"))


def test_a_text_model_sees_no_marks_and_survives_a_file(model: TextModel, tmp_path: Path) -> None:
    assert terms("Great! 25 rooms?") == terms("Great. 7 rooms")
    model.save(tmp_path / "model.json")
    again = TextModel.load(tmp_path / "model.json")
    assert again.log_odds("What a great place") == model.log_odds("What a great place")


def test_a_text_model_needs_both_kinds() -> None:
    with pytest.raises(ValueError, match="both kinds are needed, got 0 and 1"):
        fit_text_model([], ["a"])


def test_markers_are_gone_before_the_register_is_judged() -> None:
    assert without_markers("Sure, I'd love it. Please wait").split() == [",", "love", "it.", "wait"]


def test_each_dimension_rises_on_its_positive_side(model: TextModel) -> None:
    scorers = Scorers(warmth=model, excitement=model, register=model)
    better = {
        "brevity": ("There is a table for two at the Grand Hotel.", "One table."),
        "warmth": ("It starts at 5 pm. I hope you enjoy it.", "It starts at 5 pm."),
        "excitement": ("It is a great place. What city.", "What city."),
        "register": ("I hope you enjoy it", "What city"),
        "detail": ("It is in Oslo at 5 pm.", "It is near."),
        "questions": ("Would you like it.", "I have it."),
    }
    for dimension, (more, less) in better.items():
        assert scorers.score(dimension, more) > scorers.score(dimension, less), dimension
    assert scorers.table(["Hi.", ""]).shape == (2, 6)


def test_wishes_have_a_sign() -> None:
    assert [sign(x) for x in ("brevity:short", "brevity:long", "warmth:friendly")] == [-1, 1, 1]


def test_plain_counts_are_those_that_ranked_the_pairs() -> None:
    text = "Sure! May I book 2 tables? Please enjoy it!"
    counts = {name: count(text) for name, count in PLAIN_COUNTS.items()}
    assert counts == {
        "brevity": 9,
        "warmth": 1,
        "excitement": 2,
        "register": 1,
        "detail": 1,
        "questions": 1,
    }


def test_untrained_wishes_are_measured() -> None:
    texts = {
        "yes": "Yes, it is.",
        "apology": "Sorry, I am afraid not.",
        "weather": "It is sunny, the train restrained by wind.",
        "weekdays": "It is on Monday.",
        "first-person": "I'm here for my own good.",
    }
    assert {name: measure(texts[name]) for name, (_, measure) in UNTRAINED.items()} == {
        "yes": 1, "apology": 2, "weather": 2, "weekdays": 1, "first-person": 2,
    }  # fmt: skip


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))


def test_scorers_are_fitted_on_the_training_split_and_kept(tmp_path: Path) -> None:
    turn = {"speaker": "assistant", "text": "What city? Your table is booked.", "after": FRIENDLY}
    user = {"speaker": "user", "text": "I hope for a great place"}
    _write(tmp_path / "lm/dialogues_train.jsonl.gz", [{"turns": [user, turn]}] * 6)
    texts = ["Please wait, sir!", "Sure, wait buddy.", "Certainly, sir!", "Okay, my buddy."]
    rows = [{"candidates": [{"text": f"{t} {i}"} for t in texts]} for i in range(6)]
    _write(tmp_path / "preferences/candidates_train.jsonl.gz", rows)
    scorers = fit_scorers(tmp_path, tmp_path / "work")
    assert scorers.score("warmth", "A great place.") > scorers.score("warmth", "What city.")
    assert scorers.score("register", "wait sir") > scorers.score("register", "wait buddy")
    assert scorers.score("excitement", "sir") > scorers.score("excitement", "buddy")
    (tmp_path / "lm/dialogues_train.jsonl.gz").unlink()
    again = fit_scorers(tmp_path, tmp_path / "work")
    assert again.score("warmth", "A great place.") == scorers.score("warmth", "A great place.")
