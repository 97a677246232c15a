"""The model cards: README.md of each demo model, with the figures its training run wrote."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training import card_text
from training.config import DemoConfig, LoopConfig
from training.saving import read_metrics


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines) + "\n"


def training_rows(metrics: dict[str, Any], loop: LoopConfig) -> list[Sequence[Any]]:
    """Return the table rows that both cards share."""
    return [
        ("parameters", f"{metrics['num_parameters']:,}"),
        ("optimizer steps", f"{metrics['num_steps']:,}"),
        ("workers x padded tokens a step", f"{loop.num_workers} x {loop.tokens_per_batch:,}"),
        ("peak learning rate (AdamW, cosine)", loop.learning_rate),
        ("minutes on two shared CPU cores", metrics["train_minutes"]),
    ]


def base_card(metrics: dict[str, Any], config: DemoConfig) -> str:
    """Return the base model's card."""
    rows = [
        *training_rows(metrics, config.base.loop),
        ("training loss at the end, nats per weighted token", metrics["train_loss_last_100_steps"]),
        ("validation loss, nats per assistant token", metrics["dev_loss_assistant_tokens"]),
    ]
    parts = [
        card_text.HEADER + card_text.BASE_INTRODUCTION,
        "## Figures\n",
        table(("measure", "value"), rows),
        card_text.COMMANDS,
        card_text.DATA.format(use=card_text.BASE_USE),
        card_text.LIMITS,
    ]
    return "\n".join(parts)


def persrm_card(metrics: dict[str, Any], config: DemoConfig) -> str:
    """Return the reward model's card."""
    settings = config.persrm
    rows = [
        *training_rows(metrics, settings.loop),
        ("steps of reading the preference, before DPO", metrics["reading_steps"]),
        ("DPO beta; weight of the likelihood term", f"{settings.dpo_beta}; {settings.nll_weight}"),
        ("validation pairs ranked right", metrics["pair_accuracy"]),
        ("the same, phrasings never trained on", metrics["pair_accuracy_unseen_phrases"]),
        ("control: preferences shuffled", metrics["pair_accuracy_shuffled_preference"]),
    ]
    dimensions = list(metrics["pair_accuracy_by_dimension"].items())
    parts = [
        card_text.HEADER + card_text.PERSRM_INTRODUCTION,
        "## Figures\n",
        table(("measure", "value"), rows),
        table(("preference", "validation pairs ranked right"), dimensions),
        *_check_parts(metrics),
        card_text.COMMANDS,
        card_text.DATA.format(use=card_text.PERSRM_USE),
        card_text.PERSRM_LIMITS,
    ]
    return "\n".join(parts)


def _check_parts(metrics: dict[str, Any]) -> list[str]:
    """Return the table of guided replies, once `evaluation.quick_check` has counted them."""
    if "check" not in metrics:
        return []
    return [
        f"Greedy replies to {metrics['check_num_prompts']} validation prompts,"
        f" {metrics['check_num_candidates']} candidates a token, means per reply:\n",
        table(list(metrics["check"][0]), [list(row.values()) for row in metrics["check"]]),
    ]


def write_cards(out: Path, config: DemoConfig) -> None:
    """Write both model cards from the figures in the model folders."""
    base, persrm = out / "demo-base", out / "demo-persrm"
    (base / "README.md").write_text(base_card(read_metrics(base), config), encoding="utf-8")
    (persrm / "README.md").write_text(persrm_card(read_metrics(persrm), config), encoding="utf-8")


def main() -> None:
    """Run this step alone."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("models"), help="model folder")
    write_cards(parser.parse_args().out, DemoConfig())


if __name__ == "__main__":
    main()
