"""Named dimensions and levels: what is packaged, and files of one's own."""

import json
from pathlib import Path

import pytest

from pad_client import InvalidRequestError, Preference, presets

TRAINED = Path(__file__).parents[2] / "training" / "phrasings.json"


def test_the_levels_that_come_along_are_wishes_the_demo_reward_model_was_trained_on() -> None:
    trained = {text for texts in json.loads(TRAINED.read_text()).values() for text in texts}
    known = presets.load().dimensions.values()
    assert len(known) >= 5
    for dimension in known:
        assert len(dimension.levels) >= 2
        assert set(dimension.levels.values()) <= trained, dimension.name


def test_a_level_is_a_name_for_a_wish() -> None:
    known = presets.load()
    assert known.preference("length=brief") == Preference("Keep it brief.")
    assert known.preference("tone=friendly:1.5") == Preference("Be kind and chatty.", 1.5)
    assert known.choice("Keep it brief.") == "length=brief"
    assert known.choice("Keep it brief") is None


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ("length", r"set: must be DIMENSION=LEVEL\[:WEIGHT\], got 'length'"),
        ("size=brief", "set: must name one of length | tone"),
        ("length=short", r"length: must be brief \| long, got 'short'"),
        ("length=brief:0", "length: weight must be > 0 and <= 10, got '0'"),
        ("length=brief:11", "weight must be"),
        ("length=brief:nan", "weight must be"),
        ("length=brief:", "weight must be"),
    ],
)
def test_a_choice_that_is_none_says_what_there_is(choice: str, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        presets.load().preference(choice)


def test_a_dimension_is_set_once() -> None:
    with pytest.raises(InvalidRequestError, match="length: must be set once, got 2"):
        presets.load().preferences(["length=brief", "tone=formal", "length=long"])


def test_a_file_of_ones_own_takes_the_place_of_the_packaged_one(tmp_path: Path) -> None:
    file = tmp_path / "own.toml"
    file.write_text('[humour]\nabout = "Jokes."\nlevels.dry = "Joke with a straight face."\n')
    known = presets.load(file)
    assert known.preference("humour=dry").text == "Joke with a straight face."
    with pytest.raises(InvalidRequestError, match="must name one of humour, got 'length'"):
        known.preference("length=brief")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must have 1..50 dimensions, got 0"),
        ("a = ]\nb = 1", "line 1"),
        (f"a = {'[' * 5000}", "recursion"),
        (f"a = {'9' * 5000}", "digits"),
        ("[A]\nabout = ''\nlevels.x = 'y'", "A: must be 1..32 of a-z 0-9 -"),
        ("a = 1", "a: must have `about` and `levels` alone, got int"),
        ("[a]\nabout = 'x'", "a: must have `about` and `levels` alone, got about"),
        ("[a]\nabout = 1\nlevels.x = 'y'", "a.about: must be a text, got int"),
        ("[a]\nabout = 'x'\n[a.levels]", "a.levels: must be a table of 1..20 levels, got 0"),
        ("[a]\nabout = 'x'\nlevels = 'y'", "levels: must be a table of 1..20 levels, got str"),
        ("[a]\nabout = 'x'\nlevels.B = 'y'", "a.levels.B: must be 1..32 of"),
        ("[a]\nabout = 'x'\nlevels.b = ' '", "a.levels.b: must be a text of 1..2000 .* got 1 ch"),
        ("[a]\nabout = 'x'\nlevels.b = 2", "a.levels.b: must be a text .* got int"),
    ],
)
def test_a_file_that_breaks_a_rule_is_refused_with_the_place(
    tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "own.toml"
    file.write_text(text)
    with pytest.raises(InvalidRequestError, match=message) as refused:
        presets.load(file)
    assert str(file) in str(refused.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "none.toml"
    with pytest.raises(InvalidRequestError) as refused:
        presets.load(path)
    assert str(refused.value) == f"presets {path}: No such file or directory"
    assert refused.value.hint == "correct the path"
