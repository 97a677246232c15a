"""The model cards: README.md of each demo model, with the figures its training run wrote.

The reward model's card has a place for the figures of the evaluation, which
`docs/update_readme.py` fills.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training import card_text
from training.card import accuracy_table, phase_table, table
from training.config import BASE, PERSRM, SMALL_BASE, DemoConfig, LoopConfig
from training.export import exported_heads
from training.recipe import Recipe
from training.recipe_file import read_recipe
from training.saving import read_metrics

EVALUATION = "<!-- evaluation -->\n<!-- /evaluation -->\n"  # filled by docs/update_readme.py


def training_rows(metrics: dict[str, Any], loop: LoopConfig) -> list[Sequence[Any]]:
    """Return the table rows of a run of the shared loop."""
    return [
        ("parameters", f"{metrics['num_parameters']:,}"),
        ("optimizer steps", f"{metrics['num_steps']:,}"),
        ("workers x padded tokens a step", f"{loop.num_workers} x {loop.tokens_per_batch:,}"),
        ("peak learning rate (AdamW, cosine)", loop.learning_rate),
        ("minutes on two shared CPU cores", metrics["train_minutes"]),
    ]


def base_card(metrics: dict[str, Any], introduction: str, loop: LoopConfig) -> str:
    """Return a base model's card."""
    rows = [
        *training_rows(metrics, loop),
        ("training loss at the end, nats per weighted token", metrics["train_loss_last_100_steps"]),
        ("validation loss, nats per assistant token", metrics["dev_loss_assistant_tokens"]),
    ]
    parts = [
        card_text.HEADER + introduction,
        "## Figures\n",
        table(("measure", "value"), rows),
        card_text.COMMANDS,
        card_text.DATA.format(use=card_text.BASE_USE),
        card_text.LIMITS,
    ]
    return "\n".join(parts)


def persrm_card(metrics: dict[str, Any], config: DemoConfig) -> str:
    """Return the reward model's card."""
    recipe = read_recipe(config.persrm.recipe, config.persrm.overrides)
    stage1 = recipe.stage1
    rows = [
        ("parameters", f"{metrics['num_parameters']:,}"),
        ("training pairs", f"{metrics['num_training_pairs']:,}"),
        ("padded tokens a step", f"{stage1.groups_per_step} x {stage1.tokens_per_group:,}"),
        ("peak learning rate of stage 1 (AdamW, cosine)", stage1.learning_rate),
        ("DPO beta; weight of the likelihood term", f"{stage1.dpo_beta}; {stage1.nll_weight}"),
        ("conditioning; heads", f"{recipe.export.conditioning}; {_heads(recipe)}"),
    ]
    parts = [
        card_text.HEADER + card_text.PERSRM_INTRODUCTION,
        "## Figures\n",
        table(("measure", "value"), rows),
        phase_table(metrics),
        "Validation pairs ranked right:\n",
        accuracy_table(metrics),
        EVALUATION,
        card_text.COMMANDS,
        card_text.DATA.format(use=card_text.PERSRM_USE),
        card_text.PERSRM_LIMITS,
    ]
    return "\n".join(parts)


def _heads(recipe: Recipe) -> str:
    return ", ".join(exported_heads(recipe)) or "none"


def write_cards(out: Path, config: DemoConfig) -> None:
    """Write the model cards from the figures in the model folders."""
    base, small, persrm = (read_metrics(out / name) for name in (BASE, SMALL_BASE, PERSRM))
    cards = {
        BASE: base_card(base, card_text.BASE_INTRODUCTION, config.base.loop),
        SMALL_BASE: base_card(small, card_text.SMALL_INTRODUCTION, config.small_base.loop),
        PERSRM: persrm_card(persrm, config),
    }
    for name, card in cards.items():
        (out / name / "README.md").write_text(card, encoding="utf-8")


def main() -> None:
    """Run this step alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("models"), help="model folder")
    write_cards(parser.parse_args().out, DemoConfig())


if __name__ == "__main__":
    main()
