# ruff: noqa: RUF001 - lookalikes are what this is about
"""A mark is found, and named by its place, as if each letter was looked at by itself."""

from hypothesis import given
from hypothesis import strategies as st

from svc_common.preference_text import _KEPT, _MARKS, _find_mark, _fold

PIECES = ["[", "]", "<|", "|>", "end", "INST", "ＩＮＳＴ", "principles", "ﬁ", "é", "e\u0301"]
PIECES += ["【", "і", "ß", "İ", " ", "\u0345", "각", "²", "##", "#", "user:", "</", "s>", "а"]


def looked_at_singly(text: str) -> tuple[str, int] | None:
    letters = [
        (letter, place)
        for place, character in enumerate(text)
        for letter in _fold(character)
        if letter.isalnum() or letter in _KEPT
    ]
    skeleton = "".join(letter for letter, _ in letters)
    for name, pattern in _MARKS.items():
        if found := pattern.search(skeleton):
            return name, letters[found.start()][1]
    return None


@given(st.lists(st.sampled_from(PIECES) | st.characters(), max_size=12).map("".join))
def test_a_text_as_a_whole_shows_what_its_letters_show(text: str) -> None:
    assert _find_mark(text) == looked_at_singly(text)
