"""Make the demo models from the data folder: tokenizer, two bases, reward model, cards."""

import argparse
from pathlib import Path

from training.base_lm import train_bases
from training.cli import add_folders, run_command
from training.config import BASE, PERSRM, SMALL_BASE, DemoConfig
from training.data import require_data
from training.model_card import write_cards
from training.persrm import train_persrm
from training.saving import forget_metrics
from training.tokenizer import make_tokenizer


def make_demo_models(data: Path, out: Path, config: DemoConfig) -> None:
    """Run every step; the same settings give the same models on the same kind of machine."""
    require_data(data)
    forget_metrics([out / name for name in (BASE, SMALL_BASE, PERSRM)])
    make_tokenizer(data, out, config.tokenizer, config.model)
    train_bases(data, out, config)
    train_persrm(data, out, config, is_fresh=True)
    write_cards(out, config)


def main() -> None:
    """Parse the folders and run."""
    parser = add_folders(argparse.ArgumentParser(description=__doc__))
    args = parser.parse_args()
    run_command(lambda: make_demo_models(args.data, args.out, DemoConfig()))


if __name__ == "__main__":
    main()
