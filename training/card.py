"""The model card of any run: what it was trained on, how, how well it ranks, how to serve it."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from training.recipe import HEADS, Recipe
from training.recipe_file import flatten


def write_card(
    recipe: Recipe, metrics: Mapping[str, Any], heads: Sequence[str], folder: Path
) -> None:
    """Write README.md into the reward model's folder.

    Args:
        metrics: of the run.
        heads: those that the folder holds.
    """
    base = Path(recipe.model.base).name
    parts = [
        _HEADER.format(name=folder.resolve().name, base=base, heads=", ".join(heads) or "none"),
        "## Data\n",
        *(f"- training: `{Path(name).name}`\n" for name in recipe.data.train),
        *(f"- measured on: `{Path(name).name}`\n" for name in recipe.data.dev),
        f"\n{metrics['num_training_pairs']:,} training pairs were used;"
        f" {metrics['num_pairs_left_out']:,} were left out as too long.\n",
        "\n## Training\n",
        phase_table(metrics),
        "\n## Dev pairs ranked right\n",
        accuracy_table(metrics),
        _serving(recipe, base),
        "\n## Settings\n",
        table(("setting", "value"), list(flatten(recipe).items())),
    ]
    (folder / "README.md").write_text("\n".join(parts), encoding="utf-8")


def phase_table(metrics: Mapping[str, Any]) -> str:
    """Return the phases of a run as a Markdown table."""
    names = [name for name in ("reading", "stage1", *HEADS) if name in metrics]
    rows = [
        (
            name,
            metrics[name]["num_steps"],
            metrics[name]["num_pairs_seen"],
            metrics[name]["minutes"],
            metrics[name]["tokens_per_second"],
            f"{metrics[name]['first_loss']} to {metrics[name]['last_loss']}",
        )
        for name in names
    ]
    return table(("phase", "steps", "pairs seen", "minutes", "tokens/s", "loss"), rows)


def accuracy_table(metrics: Mapping[str, Any]) -> str:
    """Return the dev pairs ranked right as a Markdown table."""
    measured = {
        name: metrics[f"{name}_dev"] for name in ("stage1", *HEADS) if f"{name}_dev" in metrics
    }
    if not measured:
        return "No dev pairs were given, so nothing was measured.\n"
    first = next(iter(measured.values()))
    rows: list[Sequence[Any]] = [
        ("all", *(figures["accuracy"] for figures in measured.values())),
        (
            "phrasings never trained on",
            *(figures["accuracy_unseen_phrasings"] for figures in measured.values()),
        ),
        (
            "control: preferences shuffled",
            *(figures["accuracy_shuffled_preferences"] for figures in measured.values()),
        ),
        *(
            (label, *(figures["accuracy_by_label"][label] for figures in measured.values()))
            for label in first["accuracy_by_label"]
        ),
    ]
    intervals = f"Shares of {first['num_pairs']:,} pairs. A share near 0.5 in the control means"
    shares = table(("pairs", *measured), rows)
    return f"{shares}\n{intervals} that the ranking comes from the stated preference.\n"


def _serving(recipe: Recipe, base: str) -> str:
    lines = [
        "\n## Serving\n",
        f"    REWARD_MODEL_DIR=<this folder> REWARD_BACKBONE_DIR=<folder of {base}> \\",
        "        python -m reward_svc\n",
    ]
    if recipe.export.weights == "adapter":
        lines.append(_ADAPTER.format(base=base))
    return "\n".join(lines)


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


_ADAPTER = """The weights are a LoRA adapter of `{base}`. The service finds that base by the path in
`adapter_config.json`, relative to this folder, and merges the two while it loads: it needs peft
(`pip install ./client '.[train]'` in a checkout). Change the path there if either folder moves.
"""
_HEADER = """---
library_name: transformers
pipeline_tag: text-generation
---
# {name}

A personalised reward model (PersRM) for decoding after arXiv:2410.04070, trained from `{base}`.
Reward of a token: log p_theta(token | conversation, preference) - log p_base(token | conversation).
Heads in this folder: {heads}. The licences of the base model and of the pairs apply.
"""
