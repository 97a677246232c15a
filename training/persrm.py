"""Train the demo PersRM: build its pairs, then run the recipe `training/recipes/demo.toml`."""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from training.build_pairs import build_training_pairs
from training.cli import TrainingFailedError, add_folders, run_command
from training.config import BASE, PERSRM, DemoConfig
from training.data import require_data


def train_persrm(data: Path, out: Path, config: DemoConfig, *, is_fresh: bool = False) -> None:
    """Train the reward model from the base model in `out` into `out/demo-persrm`.

    Args:
        is_fresh: begin anew; else an unfinished run of the same settings goes on.

    Raises:
        TrainingFailedError: it did not work; the processes have said why.
    """
    require_data(data)
    settings = config.persrm
    if is_fresh:
        shutil.rmtree(settings.run_folder, ignore_errors=True)
    pairs = settings.run_folder / "pairs.jsonl.gz"
    build_training_pairs(data, pairs, settings.pairs)  # the same bytes each time
    values = {
        "out": settings.run_folder,
        "data.train": pairs,
        "data.dev": data / "preferences/pairs_dev.jsonl.gz",
        "model.base": out / BASE,
        "export.dir": out / PERSRM,
    }
    overrides = [*(f"{name}={value}" for name, value in values.items()), *settings.overrides]
    command = [sys.executable, "-m", "training.launch", str(settings.recipe)]
    command += ["--processes", str(settings.num_processes)]
    command += [part for override in overrides for part in ("--set", override)]
    status = subprocess.run(command, check=False).returncode
    if status != 0:
        raise TrainingFailedError(f"training of demo-persrm ended with status {status}")


def main() -> None:
    """Run this step alone."""
    parser = add_folders(argparse.ArgumentParser(description=__doc__))
    args = parser.parse_args()
    run_command(lambda: train_persrm(args.data, args.out, DemoConfig()))


if __name__ == "__main__":
    main()
