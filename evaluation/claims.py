"""Which claims of the PAD paper (arXiv:2410.04070), and of our own, hold; each decided by a rule.

A claim *holds* where the interval lies wholly on its side, does *not hold* where it does not, and
is *not tested here* where a figure is missing. The thresholds of `bar` are those the project set
itself for the demo models.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, TypedDict

from evaluation.bootstrap import Figure, is_above
from evaluation.records import Setting
from evaluation.text_metrics import both_moved

HOLDS, FAILS, UNTESTED = "holds", "does not hold", "not tested here"
Summary = Mapping[str, Any]
# What the paper does not claim: we ask it, because who chooses a method wants to know.
OURS = frozenset(
    {
        "Several preferences at once, as two preferences with weights",
        "Combinations of preferences that were never trained together",
        "Wordings of a preference that were never trained",
        "Guiding the base beats decoding with the reward model alone",
        "PAD beats a model tuned for each user",
        "PAD beats best-of-n at equal cost",
    }
)


class Claim(TypedDict):
    """A claim, its verdict and what that rests on."""

    claim: str
    verdict: str
    evidence: str


class Requirement(TypedDict):
    """A threshold and what was measured; `passed` is None where nothing was."""

    what: str
    wanted: str
    got: str
    passed: bool | None


def shown(one: Figure) -> str:
    """Return a figure as text, "0.85 [0.83, 0.87]"."""
    if one["value"] is None:
        return "not measured"
    if one["low"] is None or one["high"] is None:
        return f"{one['value']:.3g}"
    return f"{one['value']:.3g} [{one['low']:.3g}, {one['high']:.3g}]"


def _claim(claim: str, holds: bool | None, evidence: str) -> Claim:
    verdict = UNTESTED if holds is None else HOLDS if holds else FAILS
    return Claim(claim=claim, verdict=verdict, evidence=evidence)


def claims(summary: Summary, main: Setting) -> list[Claim]:
    """Return the claims with their verdicts."""
    text = summary["text"]
    entry = text.get(main.label)
    return [
        _personalises(entry),
        *(_joined(text, main, multi) for multi in ("joined", "weights")),
        _new_personas(text, main),
        _new_wordings(entry),
        _untrained(entry),
        _other_base(text),
        _claim(
            "The reward model guides a base with another tokenizer",
            None,
            "needs text alignment between two tokenizers, which is not built yet",
        ),
        _ahead(
            summary["matched_kl"],
            "prompt",
            "PAD beats the preference in the base's prompt",
            "this base was never trained to follow instructions",
        ),
        _ahead(summary["matched_kl"], "best-of-n", "PAD beats best-of-n"),
        _ahead(
            summary["matched_kl"],
            "theta",
            "Guiding the base beats decoding with the reward model alone",
            "with the base as reference, beta 1 is nearly that",
        ),
        _ahead(
            summary["matched_kl"],
            "user-lora",
            "PAD beats a model tuned for each user",
            "1,000 pairs a user, once each",
        ),
        _ahead(summary["matched_cost"], "best-of-n", "PAD beats best-of-n at equal cost"),
        _strength(summary["sweep"], main),
    ]


def _personalises(entry: Any) -> Claim:
    claim = "Guided replies follow the user's own preference"
    if entry is None or not entry["gaps"]:
        return _claim(claim, None, "no replies")
    gaps = entry["gaps"]
    above = sum(is_above(gap, 0.0) for gap in gaps.values())
    evidence = f"user-swap gap above 0 in {above} of {len(gaps)} dimensions"
    return _claim(claim, above == len(gaps), f"{evidence}; mean {shown(entry['gain'])} sd")


def _joined(text: Summary, main: Setting, multi: str) -> Claim:
    way = {"joined": "one joined prompt", "weights": "two preferences with weights"}[multi]
    claim = f"Several preferences at once, as {way}"
    entry = _of(text, main, multi)
    value, interval, users = both_moved(entry["wishes"], "p") if entry else (0, 0, 0)
    if not users:
        return _claim(claim, None, "no replies")
    evidence = f"both wishes move right for {value} of {users} personas, {interval} by interval"
    return _claim(claim, interval * 14 >= users * 11, evidence)


def _of(text: Summary, main: Setting, multi: str) -> Any:
    label = Setting(main.contender, main.variant, main.beta, main.k, main.n, multi).label
    return text.get(label)


def _new_personas(text: Summary, main: Setting) -> Claim:
    claim = "Combinations of preferences that were never trained together"
    entry = _of(text, main, "joined")
    value, interval, users = both_moved(entry["wishes"], "unseen-persona") if entry else (0, 0, 0)
    if not users:
        return _claim(claim, None, "no replies")
    evidence = f"both wishes move right for {value} of {users}, {interval} by interval"
    return _claim(claim, interval * 14 >= users * 11, evidence)


def _new_wordings(entry: Any) -> Claim:
    claim = "Wordings of a preference that were never trained"
    table = entry["unseen_directions"] if entry else {}
    if not table:
        return _claim(claim, None, "no replies")
    right = sum(is_above(row["shift"], 0.0) for row in table.values())
    return _claim(
        claim,
        right * 12 >= 11 * len(table),
        f"the attribute moves the right way, by interval, in {right} of {len(table)} preferences",
    )


def _untrained(entry: Any) -> Claim:
    claim = "Preferences about something that was never trained"
    table = entry["untrained"] if entry else {}
    known = {name: one for name, one in table.items() if one["value"] is not None}
    if not known:
        return _claim(claim, None, "no replies")
    right = sum(is_above(one, 0.0) for one in known.values())
    values = ", ".join(f"{name} {shown(one)}" for name, one in known.items())
    return _claim(claim, 2 * right > len(known), f"{right} of {len(known)} by interval: {values}")


def _other_base(text: Summary) -> Claim:
    claim = "One reward model guides a base of another size"
    entries = [one for one in text.values() if one["setting"]["contender"] == "pad-small-base"]
    known = [one for one in entries if one["gaps"] and not one["setting"]["multi"]]
    if not known:
        return _claim(claim, None, "no replies")
    gaps = known[0]["gaps"]
    above = sum(is_above(gap, 0.0) for gap in gaps.values())
    evidence = f"user-swap gap above 0 in {above} of {len(gaps)} dimensions"
    return _claim(claim, above == len(gaps), f"{evidence}; mean {shown(known[0]['gain'])} sd")


def _ahead(matches: Sequence[Any], contender: str, claim: str, remark: str = "") -> Claim:
    """PAD is ahead of a contender where it is of each of that one's settings."""
    found = [one for one in matches if one["other"].split()[0] == contender]
    if not found:
        return _claim(claim, None, "no replies")
    holds = all(is_above(one["difference"], 0.0) for one in found)
    parts = [
        f"{one['other']}: gain {shown(one['pad_gain'])} against {shown(one['other_gain'])},"
        f" difference {shown(one['difference'])}" + (f" ({one['note']})" if one["note"] else "")
        for one in found
    ]
    return _claim(claim, holds, "; ".join([*parts, *([remark] if remark else [])]))


def _strength(sweep: Sequence[Any], main: Setting) -> Claim:
    claim = "A larger beta personalises more"
    rows = sorted((row["beta"], row["gain"]) for row in sweep if row["k"] == main.k)
    if len(rows) < 2:
        return _claim(claim, None, "no sweep")
    evidence = ", ".join(f"beta {beta:g}: {shown(gain)}" for beta, gain in rows)
    gains = [gain for _, gain in rows]
    rises = is_above(gains[-1], gains[0]["high"] or 0.0)
    falls = any((later["high"] or 0.0) < (gain["low"] or 0.0) for gain, later in pairwise(gains))
    return _claim(claim, rises and not falls, evidence)
