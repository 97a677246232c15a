"""The report's main tables as Markdown, for README.md, docs/evaluation.md and the model card."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from evaluation.claims import OURS, shown
from evaluation.records import Setting
from training.card import table

Summary = Mapping[str, Any]
MARKS = {True: "yes", False: "**no**", None: "not measured"}


def bar_table(summary: Summary) -> str:
    """Return what the demo models must reach, and what they reach."""
    rows = [
        (row["what"], row["wanted"], row["got"], MARKS[row["passed"]]) for row in summary["bar"]
    ]
    return table(("measure", "wanted", "measured", "reached"), rows)


def contender_table(summary: Summary, labels: Collection[str] = ()) -> str:
    """Return each contender's gain with its prices; of PAD, the main number of candidates.

    Args:
        labels: the contenders to show, by label; none means all.
    """
    main = summary["text"][summary["about"]["main"]]["setting"]
    rows = [
        (
            entry["setting"]["contender"],
            _knobs(entry["setting"]),
            shown(entry["gain"]),
            shown(entry["price"]["kl_per_token"]),
            shown(entry["fluency"]["perplexity_ratio"]),
            f"{entry['price']['relative_tokens']['value']:.1f} x",
        )
        for label, entry in summary["text"].items()
        if entry["gain"]["value"] is not None
        and (not labels or label in labels)
        and not entry["setting"]["multi"]
        and entry["setting"]["k"] in (0, main["k"])
    ]
    header = (
        "contender",
        "wish reaches PersRM by",
        "user-swap gap",
        "KL to base",
        "perplexity / base",
        "token-forwards",
    )
    return table(header, sorted(rows))


def _knobs(setting: Mapping[str, Any]) -> str:
    label = Setting(**setting).label
    return label.removeprefix(setting["contender"]).strip()


def direction_table(summary: Summary) -> str:
    """Return how each preference moves its attribute under the main setting."""
    directions = summary["text"][summary["about"]["main"]]["directions"]
    rows = [
        (name, shown(entry["shift"]), shown(entry["plain_shift"]), shown(entry["win_rate"]))
        for name, entry in directions.items()
    ]
    return table(
        ("preference", "shift, in sd of the base", "the same by plain count", "wins against base"),
        rows,
    )


def pair_table(summary: Summary) -> str:
    """Return reward-model and policy accuracy of each conditioning, by group of pairs."""
    beta = f"{summary['text'][summary['about']['main']]['setting']['beta']:g}"
    groups = ("single", "seen_phrasings", "unseen_phrasings", "personas", "unseen_personas")
    rows: list[Sequence[Any]] = []
    for name, entry in summary["pairs"].items():
        for what, kinds in (("rewards", entry.get("rm")), ("policy", entry["policy"].get(beta))):
            if kinds is None:
                continue
            found = kinds["sum" if what == "rewards" else "mean"]
            rows.append(
                (name, what, *(shown(found[one]) if one in found else "" for one in groups))
            )
    return table(("conditioning", "ranked by", *(one.replace("_", " ") for one in groups)), rows)


def claims_table(summary: Summary) -> str:
    """Return the paper's claims and our own questions, and whether they hold here."""
    rows = [
        (
            row["claim"],
            "us" if row["claim"] in OURS else "the paper",
            row["verdict"],
            row["evidence"],
        )
        for row in summary["claims"]
    ]
    return table(("claim", "asked by", "here", "evidence"), rows)
