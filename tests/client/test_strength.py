"""The command line says when wishes together guide more strongly than text can bear."""

import pytest

from pad_client import Preference
from pad_client.cli.strength import strength_note
from pad_client.presets import MAX_STRENGTH
from tests.client.conftest import Pad


@pytest.mark.parametrize(
    ("weights", "beta"),
    [((1.0,), None), ((0.5, 0.5), 1.0), ((0.3, 0.4, 0.3), 1.5), ((10.0,), 0.1), ((), 10.0)],
)
def test_nothing_is_said_of_what_text_can_bear(weights: tuple[float, ...], beta: float) -> None:
    assert strength_note([Preference("x", weight) for weight in weights], beta) is None


def test_the_product_is_what_counts_and_ways_out_are_named() -> None:
    wishes = [Preference("a", 1.0), Preference("b", 1.5), Preference("c", 1.0)]
    note = strength_note(wishes, None)
    assert note is not None
    assert note.startswith("strength 3.5 = beta 1 x weights 1 + 1.5 + 1: ")
    assert "lower beta, for example to 0.29" in note
    assert "0.33*WISH" in note
    assert MAX_STRENGTH >= 3.5 * 0.29
    assert strength_note(wishes, 0.29) is None


def test_one_wish_is_not_told_to_share() -> None:
    note = strength_note([Preference("a", 1.0)], 2.0)
    assert note is not None
    assert "share" not in note
    assert "lower beta, for example to 1" in note


@pytest.mark.parametrize("form", [[], ["--json"]])
async def test_whoever_writes_reads_or_restores_a_profile_is_told(
    pad: Pad, form: list[str]
) -> None:
    strong = ["-p", "2*Be brief.", "-p", "Rhyme."]
    for command in (["put", "ann", *strong], ["get", "ann"]):
        result = await pad("profile", *command, *form)
        assert "strength 3 = beta 1 x weights 2 + 1: " in result.stderr
        assert "strength" not in result.stdout
    assert "strength" not in (await pad("profile", "put", "ann", *strong, "--beta", "0.5")).stderr
    assert "strength" not in (await pad("profile", "get", "ann", *form)).stderr
    assert "strength 3" in (await pad("profile", "undo", "ann", *form)).stderr
