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


def run_command(command: Callable[[], None]) -> None:
    """Run `command`; missing data ends the process with its message and status 2."""
    try:
        command()
    except MissingDataError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)


def show(text: str) -> None:
    """Write a command's result to standard output."""
    sys.stdout.write(text)
