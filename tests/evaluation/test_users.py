"""Who replies are written for."""

import json
from pathlib import Path

import pytest

from evaluation.users import (
    UNTRAINED,
    User,
    new_persona_users,
    persona_users,
    read_users,
    single_users,
    unseen_users,
    untrained_users,
)
from tests.evaluation.reply_data import write_data
from training.wishes import HELD_OUT_COMBINATIONS, OWN_PHRASINGS


@pytest.fixture
def users(tmp_path: Path) -> dict[str, User]:
    return read_users(write_data(tmp_path) / "preferences/preferences.json")


def test_every_kind_of_user_is_there_once(users: dict[str, User]) -> None:
    kinds = (single_users, unseen_users, persona_users, new_persona_users, untrained_users)
    names = [user.name for kind in kinds for user in kind(users)]
    assert [len(kind(users)) for kind in kinds] == [12, 12, 1, 8, len(UNTRAINED)]
    assert sorted([*names, "base"]) == sorted(users)


def test_users_of_unseen_words_use_none_that_training_shows(users: dict[str, User]) -> None:
    seen = {text for user in single_users(users) for own in user.phrasings for text in own}
    seen |= {text for own in json.loads(OWN_PHRASINGS.read_text()).values() for text in own}
    for user in [*unseen_users(users), *untrained_users(users)]:
        assert not seen & {text for own in user.phrasings for text in own}
        assert not user.phrase_seen


def test_new_personas_combine_what_training_does_not(users: dict[str, User]) -> None:
    combined = {frozenset(user.directions) for user in new_persona_users(users)}
    assert combined == HELD_OUT_COMBINATIONS
    assert combined.isdisjoint(frozenset(user.directions) for user in persona_users(users))


def test_prompts_draw_different_words_and_the_same_ones_again(users: dict[str, User]) -> None:
    user = users["p01"]
    said = [user.preference(f"e{i}") for i in range(30)]
    assert said == [user.preference(f"e{i}") for i in range(30)]
    assert {text for own in user.phrasings for text in own} == {
        text for i in range(30) for text in user.wishes(f"e{i}")
    }
    assert any(text.startswith(user.wishes("e0")[0]) for text in said)
    assert len({tuple(sorted(user.wishes(f"e{i}"))) for i in range(30)}) == 4
    assert len({*said}) > 4  # in either order
