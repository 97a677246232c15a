"""Write the generated parts of README.md, of pages in docs/ and of the model card.

`python docs/update_readme.py`. Settings tables come from the settings, metric tables from the
metrics, tables of spans from what is written into them, the speed figures from the newest entry of
the log, the figures of quality from the newest evaluation, the references of API and command from
protos and command.
"""

import json
import sys
from pathlib import Path

from docs.api_reference import api_reference
from docs.command_reference import command_reference
from docs.metric_tables import metric_tables
from docs.openai_conformance import conformance_table
from docs.trace_tables import trace_tables
from edge_svc.settings import PREFIX as EDGE_PREFIX
from edge_svc.settings import EdgeSettings
from evaluation import markdown
from generator_svc.settings import PREFIX as GENERATOR_PREFIX
from generator_svc.settings import GeneratorSettings
from playground_svc.settings import PREFIX as PLAYGROUND_PREFIX
from playground_svc.settings import PlaygroundSettings
from reward_svc.settings import PREFIX as REWARD_PREFIX
from reward_svc.settings import RewardSettings
from svc_common.settings import settings_table

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "README.md"
DOCS = ROOT / "docs"
CARD = ROOT / "models/demo-persrm/README.md"
EVALUATION = DOCS / "evaluation/evaluation.json"
TABLES = {
    "settings:generator": (GeneratorSettings, GENERATOR_PREFIX),
    "settings:reward": (RewardSettings, REWARD_PREFIX),
}
# The contenders that README.md shows.
HEADLINE = ("prompt", "best-of-n prompt n4", "pad prompt b1 k10", "theta prompt", "user-lora")


def settings_parts() -> dict[str, str]:
    """Return the settings tables of both services by the names of their markers."""
    return {name: settings_table(settings, prefix) for name, (settings, prefix) in TABLES.items()}


def evaluation_parts() -> dict[str, str]:
    """Return the tables of the evaluation's page."""
    summary = json.loads(EVALUATION.read_text(encoding="utf-8"))
    return {
        "quality": markdown.contender_table(summary),
        "bar": markdown.bar_table(summary),
        "claims": markdown.claims_table(summary),
    }


def readme_parts() -> dict[str, str]:
    """Return the generated part of README.md: a few contenders."""
    summary = json.loads(EVALUATION.read_text(encoding="utf-8"))
    return {"headline": markdown.contender_table(summary, HEADLINE)}


def speed_parts() -> dict[str, str]:
    """Return the newest whole run of the models' suite."""
    return {"bench": newest_entry((ROOT / "benchmarks/LOG.md").read_text("utf-8"), "models")}


def edge_parts() -> dict[str, str]:
    """Return the generated parts of the HTTP edge's page."""
    return {"settings:edge": settings_table(EdgeSettings, EDGE_PREFIX)}


def playground_parts() -> dict[str, str]:
    """Return the generated part of the playground's page."""
    return {"settings:playground": settings_table(PlaygroundSettings, PLAYGROUND_PREFIX)}


def card_parts() -> dict[str, str]:
    """Return the generated parts of the reward model's card."""
    summary = json.loads(EVALUATION.read_text(encoding="utf-8"))
    sections = (
        "Pairs ranked right, by rewards and by the guided policy:\n",
        markdown.pair_table(summary),
        "What guidance does to replies, preference by preference:\n",
        markdown.direction_table(summary),
    )
    return {"evaluation": "\n".join(sections)}


def newest_entry(log: str, suite: str) -> str:
    """Return the last entry with a whole run of a suite in the benchmark log, without heading."""
    entries = log.split("\n## ")[1:]
    *_, newest = (
        entry
        for entry in entries
        if suite in entry.partition("\n")[0].partition(": ")[2].split(", ")
    )
    return newest.partition("\n")[2].strip() + "\n"


def with_parts(path: Path, parts: dict[str, str]) -> str:
    """Return the text of `path` with the current parts between their markers.

    Raises:
        ValueError: A marker is missing, stands twice, or ends before it begins.
    """
    text = path.read_text(encoding="utf-8")
    for name, part in parts.items():
        begin, end = f"<!-- {name} -->", f"<!-- /{name} -->"
        if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
            raise ValueError(f"{path.name}: must hold {begin} and then {end}, once each")
        before, rest = text.split(begin)
        after = rest.split(end)[1]
        text = f"{before}{begin}\n{part}{end}{after}"
    return text


def main() -> int:
    """Return the exit status: 1 where a file lacks a marker."""
    try:
        texts = {path: with_parts(path, parts) for path, parts in documents()}
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    return 0


def documents() -> list[tuple[Path, dict[str, str]]]:
    """Return the files that have generated parts, with these parts."""
    return [
        (README, readme_parts()),
        (DOCS / "api.md", {"api": api_reference()}),
        (DOCS / "cli.md", {"cli": command_reference()}),
        (DOCS / "settings.md", settings_parts()),
        (DOCS / "evaluation.md", evaluation_parts()),
        (DOCS / "benchmarks.md", speed_parts()),
        (DOCS / "metrics.md", metric_tables()),
        (DOCS / "tracing.md", trace_tables()),
        (DOCS / "openai.md", edge_parts()),
        (DOCS / "openai-conformance.md", {"conformance": conformance_table()}),
        (DOCS / "playground.md", playground_parts()),
        (CARD, card_parts()),
    ]


if __name__ == "__main__":
    sys.exit(main())
