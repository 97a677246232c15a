"""Verdicts and thresholds follow from the figures."""

from dataclasses import replace
from typing import Any

import pytest

from evaluation.bar import bar
from evaluation.bootstrap import Figure, no_figure
from evaluation.claims import FAILS, HOLDS, OURS, UNTESTED, claims, shown
from evaluation.records import Setting
from evaluation.run import summarise
from tests.evaluation.made_replies import MAIN, PROMPTS, World, base_score, reply

JOINED = replace(MAIN, multi="joined")


def accuracy(value: float) -> Figure:
    return Figure(value=value, low=value - 0.01, high=value + 0.01, n=100)


def pair_table(reward: float, policy: float, control: float) -> dict[str, Any]:
    def groups(value: float) -> dict[str, Any]:
        one = {name: accuracy(value) for name in ("single", "unseen_phrasings")}
        return {"sum": one, "mean": one}

    shuffled = {"rm": groups(control), "policy": {"1": groups(control)}}
    return {
        "rm": groups(reward),
        "policy": {"1": groups(policy)},
        "score": {"1": groups(policy)},
        "shuffled": shuffled,
    }


def world(step: float, other: float) -> World:
    made = World()
    made.add_users(MAIN, step, kl_per_token=0.2, model_tokens=60)
    made.add_users(Setting("prompt"), other, kl_per_token=0.2)
    made.add_users(Setting("best-of-n", "prompt", n=4), other, kl_per_token=0.2, model_tokens=100)
    wishes = ("brevity:short", "questions:asking")
    for number in range(1, 15):
        for i, prompt in enumerate(PROMPTS):
            scores = [base_score(i)] * 6
            scores[0] -= step
            scores[5] += step
            made.add(reply(JOINED, f"p{number:02}", prompt, directions=wishes), scores)
    return made


def summary_of(made: World, pairs: dict[str, Any]) -> dict[str, Any]:
    return summarise(MAIN, made.measured(), {"validity": {}, "secondary": {}}, pairs, [], {})


@pytest.fixture(scope="module")
def good() -> dict[str, Any]:
    return summary_of(world(1.0, 0.25), {"prompt": pair_table(0.95, 0.85, 0.5)})


@pytest.fixture(scope="module")
def bad() -> dict[str, Any]:
    return summary_of(world(-0.1, 0.25), {"prompt": pair_table(0.8, 0.6, 0.7)})


def verdicts(summary: dict[str, Any]) -> dict[str, str]:
    return {row["claim"]: row["verdict"] for row in summary["claims"]}


def test_every_requirement_is_met_by_good_figures(good: dict[str, Any]) -> None:
    assert [(row["what"], row["passed"]) for row in good["bar"] if not row["passed"]] == []
    assert len(good["bar"]) == 11


def test_every_requirement_about_the_user_is_missed_by_bad_figures(bad: dict[str, Any]) -> None:
    passed = [row["what"] for row in bad["bar"] if row["passed"]]
    assert passed == ["perplexity against the base", "share of replies that end properly"]


def test_what_was_not_measured_neither_passes_nor_fails() -> None:
    summary = summary_of(World(), {})
    assert {row["passed"] for row in summary["bar"]} == {None}
    assert set(verdicts(summary).values()) == {UNTESTED}


def test_claims_hold_by_their_intervals(good: dict[str, Any]) -> None:
    found = verdicts(good)
    assert found["Guided replies follow the user's own preference"] == HOLDS
    assert found["Several preferences at once, as one joined prompt"] == HOLDS
    assert found["PAD beats the preference in the base's prompt"] == HOLDS
    assert found["PAD beats best-of-n at equal cost"] == HOLDS
    assert found["PAD beats a model tuned for each user"] == UNTESTED
    assert found["The reward model guides a base with another tokenizer"] == UNTESTED
    assert found["A larger beta personalises more"] == UNTESTED


def test_each_question_of_ours_is_among_the_claims(good: dict[str, Any]) -> None:
    assert set(verdicts(good)) >= OURS


def test_claims_fail_by_their_intervals(bad: dict[str, Any]) -> None:
    found = verdicts(bad)
    assert found["Guided replies follow the user's own preference"] == FAILS
    assert found["Several preferences at once, as one joined prompt"] == FAILS
    assert found["PAD beats the preference in the base's prompt"] == FAILS


def test_a_claim_about_best_of_n_must_hold_at_every_n() -> None:
    made = world(1.0, 0.25)
    made.add_users(Setting("best-of-n", "prompt", n=16), 2.0, kl_per_token=0.2, model_tokens=400)
    summary = summary_of(made, {})
    assert verdicts(summary)["PAD beats best-of-n"] == FAILS
    ahead = next(row for row in summary["bar"] if row["what"].startswith("user-swap gap ahead"))
    assert ahead["passed"]  # that requirement is about n = 4


def test_new_wordings_wishes_and_bases_have_claims_of_their_own() -> None:
    made = world(1.0, 0.25)
    made.add_users(MAIN, 0.5, prefix="unseen:", kl_per_token=0.2)
    small = replace(MAIN, contender="pad-small-base")
    for i, prompt in enumerate(PROMPTS):
        made.add(reply(Setting("base-small"), "base", prompt), [base_score(i)] * 6)
        made.add(reply(MAIN, "untrained-yes", prompt, "No."), [0.0] * 6)
    made.add_users(small, -0.5)
    made.add_users(replace(MAIN, beta=2.0), 2.0, kl_per_token=0.4)
    found = verdicts(summary_of(made, {}))
    assert found["Wordings of a preference that were never trained"] == HOLDS
    assert found["One reward model guides a base of another size"] == FAILS
    assert found["A larger beta personalises more"] == HOLDS
    assert found["Preferences about something that was never trained"] == FAILS


def test_the_control_fails_on_both_sides() -> None:
    for control, passed in ((0.44, False), (0.5, True), (0.56, False)):
        pairs = {"prompt": pair_table(0.95, 0.85, control)}
        rows = bar(summary_of(World(), pairs), MAIN)
        found = next(row for row in rows if "shuffled" in row["what"])
        assert found["passed"] is passed


def test_figures_are_shown_with_their_intervals() -> None:
    assert shown(accuracy(0.5)) == "0.5 [0.49, 0.51]"
    assert shown(Figure(value=0.5, low=None, high=None, n=1)) == "0.5"
    assert shown(no_figure()) == "not measured"


def test_claims_are_the_same_in_every_run(good: dict[str, Any]) -> None:
    assert claims(good, MAIN) == good["claims"]
