"""The report: one HTML page that needs no other file, and the same figures as JSON."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from evaluation import plots
from evaluation.claims import shown
from evaluation.plain_counts import PLAIN_NAMES
from evaluation.scorers import DIMENSIONS

TEMPLATES = Path(__file__).with_name("templates")
JSON_NAME, HTML_NAME = "evaluation.json", "report.html"
PLOTTED = ("prompt", "in-context", "best-of-n", "pad-released", "theta", "user-lora", "pad")
Summary = Mapping[str, Any]


def write_report(summary: Summary, out: Path) -> tuple[Path, Path]:
    """Write the JSON and the page into `out` and return their paths."""
    out.mkdir(parents=True, exist_ok=True)
    data, page = out / JSON_NAME, out / HTML_NAME
    data.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    page.write_text(render(summary), encoding="utf-8")
    return data, page


def render(summary: Summary) -> str:
    """Return the page."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shown"] = shown
    template = environment.get_template("report.html")
    return template.render(
        **summary,
        plots={name: Markup(svg) for name, svg in _plots(summary).items()},
        plain_names=PLAIN_NAMES,
        dimensions=DIMENSIONS,
        compared=_compared(summary),
    )


def _compared(summary: Summary) -> list[str]:
    """Return the labels of the settings worth a row beside the main one: no sweep, no personas."""
    main = summary["text"].get(summary["about"]["main"], {}).get("setting", {})
    labels = []
    for label, entry in summary["text"].items():
        own = entry["setting"]
        is_sweep = own["k"] != main.get("k") or own["beta"] != main.get("beta")
        if not own["multi"] and not (own["contender"] == "pad" and is_sweep):
            labels.append(label)
    return labels


def _plots(summary: Summary) -> dict[str, str]:
    drawn: dict[str, str] = {}
    text, main = summary["text"], summary["about"]["main"]
    labels = [
        label
        for label in _compared(summary)
        if text[label]["setting"]["contender"] in PLOTTED and text[label]["gaps"]
    ]
    if labels:
        gaps = {label: text[label]["gaps"] for label in labels}
        drawn["gaps"] = plots.bars("gaps", gaps, "user-swap gap (sd of the base)")
        drawn |= _trade_offs(summary, [label for label in labels if label != main])
    few = [label for label in labels if label == main or label in ("prompt", "user-lora")]
    few += [label for label in labels if text[label]["setting"]["n"] == 4]
    if few:
        moved = {
            label: {name: row["shift"] for name, row in text[label]["directions"].items()}
            for label in few
        }
        drawn["shifts"] = plots.bars("shifts", moved, "shift the way that was asked (sd)")
    if main in text and text[main]["cross_talk"]:
        drawn["cross_talk"] = plots.heat_map("cross_talk", text[main]["cross_talk"])
    if summary["pairs"]:
        drawn["accuracy"] = _accuracy(summary)
    return drawn


def _trade_offs(summary: Summary, labels: list[str]) -> dict[str, str]:
    text, drawn = summary["text"], {}
    prices = {
        "kl": ("price", "kl_per_token", "KL to the base a token (nats)"),
        "perplexity": ("fluency", "perplexity_ratio", "perplexity against the base"),
    }
    for name, (part, key, title) in prices.items():
        curves: dict[str, list[plots.Point]] = {}
        for row in summary["sweep"]:
            line = curves.setdefault(f"PAD, k = {row['k']}, by beta", [])
            line.append((f"{row['beta']:g}", row[key], row["gain"]))
        points = [
            (label, text[label][part][key], text[label]["gain"])
            for label in labels
            if text[label]["gain"]["value"] is not None
        ]
        if curves or points:
            drawn[f"trade_{name}"] = plots.trade_off(name, curves, points, title)
    return drawn


def _accuracy(summary: Summary) -> str:
    curves = {}
    main = summary["about"]["main_setting"]["variant"]
    for variant, table in summary["pairs"].items():
        policies = {"": (table["policy"], "single")}
        if variant == main:
            policies[", unseen phrasings"] = (table["policy"], "unseen_phrasings")
            policies[", shuffled"] = (table["shuffled"]["policy"], "single")
        for name, (policy, group) in policies.items():
            curves[variant + name] = {
                float(beta): sums["mean"][group]
                for beta, sums in policy.items()
                if sums["mean"][group]["value"] is not None
            }
    return plots.accuracy_curves("accuracy", {k: v for k, v in curves.items() if v})
