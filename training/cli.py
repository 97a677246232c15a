"""What the training commands share: their folder options and their exit status."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from training.data import MissingDataError


def add_folders(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add `--data` and `--out` to `parser` and return it."""
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="data folder")
    parser.add_argument("--out", type=Path, default=Path("models"), help="model folder")
    return parser


class TrainingFailedError(Exception):
    """The training processes ended with an error, which they have shown."""


def run_command(command: Callable[[], None]) -> None:
    """Run `command`; missing data ends the process with status 2, a failed training with 1."""
    try:
        command()
    except (MissingDataError, TrainingFailedError) as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2 if isinstance(error, MissingDataError) else 1)


def show(text: str) -> None:
    """Write a command's result to standard output."""
    sys.stdout.write(text)
