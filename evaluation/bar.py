"""The thresholds that the demo models must reach, and whether they do."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from evaluation.bootstrap import Figure, is_above
from evaluation.claims import Requirement, shown
from evaluation.records import Setting
from evaluation.text_metrics import both_moved

MIN_RM, MIN_RM_UNSEEN = 0.93, 0.82
MIN_POLICY, MIN_POLICY_UNSEEN = 0.80, 0.75
CONTROL = (0.45, 0.55)
MIN_MOVED, MIN_PERSONAS = 11, 11
MAX_PERPLEXITY_RATIO, MIN_ENDS = 1.25, 0.97


def at_least(what: str, one: Figure, limit: float) -> Requirement:
    """Return the requirement that a value is at least `limit`."""
    passed = None if one["value"] is None else one["value"] >= limit
    return Requirement(what=what, wanted=f"at least {limit:g}", got=shown(one), passed=passed)


def at_most(what: str, one: Figure, limit: float) -> Requirement:
    """Return the requirement that a value is at most `limit`."""
    passed = None if one["value"] is None else one["value"] <= limit
    return Requirement(what=what, wanted=f"at most {limit:g}", got=shown(one), passed=passed)


def between(what: str, one: Figure, low: float, high: float) -> Requirement:
    """Return the requirement that a value lies in `low`..`high`."""
    passed = None if one["value"] is None else low <= one["value"] <= high
    return Requirement(what=what, wanted=f"{low:g} to {high:g}", got=shown(one), passed=passed)


def bar(summary: Mapping[str, Any], main: Setting) -> list[Requirement]:
    """Return every requirement for the main setting."""
    return [*_pairs(summary["pairs"], main), *_text(summary, main), _ahead(summary)]


def _pairs(pairs: Mapping[str, Any], main: Setting) -> list[Requirement]:
    table, beta = pairs.get(main.variant), f"{main.beta:g}"
    if table is None or beta not in table["policy"]:
        return [Requirement(what="pair accuracies", wanted="", got="not measured", passed=None)]
    rewards, policy = table["rm"]["sum"], table["policy"][beta]["mean"]
    control = table["shuffled"]["policy"][beta]["mean"]["single"]
    return [
        at_least("reward-model accuracy, 12 preferences", rewards["single"], MIN_RM),
        at_least(
            "reward-model accuracy, unseen phrasings", rewards["unseen_phrasings"], MIN_RM_UNSEEN
        ),
        at_least("policy accuracy, 12 preferences", policy["single"], MIN_POLICY),
        at_least(
            "policy accuracy, unseen phrasings", policy["unseen_phrasings"], MIN_POLICY_UNSEEN
        ),
        between("policy accuracy, shuffled preferences", control, *CONTROL),
    ]


def _count(what: str, limit: int, got: int, of: int) -> Requirement:
    passed = got >= limit if of else None
    return Requirement(what=what, wanted=f"at least {limit}", got=f"{got} of {of}", passed=passed)


def _text(summary: Mapping[str, Any], main: Setting) -> list[Requirement]:
    entry = summary["text"].get(main.label)
    if entry is None:
        return [Requirement(what="generated text", wanted="", got="not measured", passed=None)]
    gaps, fluency = entry["gaps"], entry["fluency"]
    joined = summary["text"].get(replace(main, multi="joined").label, entry)
    value, _, users = both_moved(joined["wishes"], "p")
    above = sum(is_above(gap, 0.0) for gap in gaps.values())
    return [
        _count(
            "attributes that move the right way, by interval",
            MIN_MOVED,
            entry["moved_right"],
            len(entry["directions"]),
        ),
        _count("dimensions with a user-swap gap above 0, by interval", 6, above, len(gaps)),
        _count("personas whose two wishes both move right", MIN_PERSONAS, value, users),
        at_most("perplexity against the base", fluency["perplexity_ratio"], MAX_PERPLEXITY_RATIO),
        at_least("share of replies that end properly", fluency["ends_properly"], MIN_ENDS),
    ]


def _ahead(summary: Mapping[str, Any]) -> Requirement:
    wanted = "difference above 0, by interval, at matched KL or cost"
    what = "user-swap gap ahead of prompt and of best-of-4"
    matches = [*summary["matched_kl"], *summary["matched_cost"]]
    ahead = {}
    for name in ("prompt", "best-of-n"):
        found = [
            one
            for one in matches
            if one["other"].split()[0] == name and not one["other"].endswith("n16")
        ]
        if not found:
            return Requirement(what=what, wanted=wanted, got=f"{name}: not measured", passed=None)
        ahead[name] = max(found, key=lambda one: float(one["difference"]["low"] or -1e9))
    got = "; ".join(f"{one['other']}: {shown(one['difference'])}" for one in ahead.values())
    passed = all(is_above(one["difference"], 0.0) for one in ahead.values())
    return Requirement(what=what, wanted=wanted, got=got, passed=passed)
