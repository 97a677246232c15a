"""The command line says when wishes together guide more strongly than text can bear."""

from typing import Any

import grpc
import pytest

from pad_client import Preference
from pad_client.cli.strength import strength_note
from pad_client.presets import MAX_STRENGTH
from tests.client.conftest import Pad
from tests.client.fake_server import FakeServer


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


@pytest.mark.parametrize("form", [[], ["--json"], ["--compare"], ["--compare", "--json"]])
async def test_an_answer_by_a_strong_profile_is_noted_too(
    pad: Pad, fake: FakeServer, form: list[str]
) -> None:
    """The note was for `-p` alone. The beta is that of the answer, 1.5 here."""
    await pad("profile", "put", "ann", "-p", "Be brief.", "-p", "Rhyme.", "--beta", "0.1")
    await pad("profile", "put", "ben", "-p", "Be brief.")
    strong = await pad("generate", "Hello", "--user", "ann", *form)
    assert strong.exit_code == 0
    assert "strength 3 = beta 1.5 x weights 1 + 1: " in strong.stderr
    assert "strength" not in strong.stdout
    for arguments in (["--user", "ben"], ["--user", "nobody"], ["--user", "ann", "-p", "Rhyme."]):
        assert "strength" not in (await pad("generate", "Hello", *arguments, *form)).stderr


async def test_who_may_not_read_profiles_gets_the_answer_without_a_note(
    pad: Pad, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def deny(self: FakeServer, request: object, context: Any) -> None:
        await context.abort(grpc.StatusCode.PERMISSION_DENIED, "scope: must have profiles.read")

    monkeypatch.setattr(FakeServer, "GetProfile", deny)
    result = await pad("generate", "Hello", "--user", "ann")
    assert (result.exit_code, "scope" in result.stderr) == (0, False)


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
