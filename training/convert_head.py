"""Rewrite the pickled value head of a released checkpoint: `python -m training.convert_head DIR`.

The services read safetensors alone. The pickle is read here, once, by torch's restricted reader,
which makes tensors and runs nothing else.
"""

import argparse
import pickle
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from reward_svc.value_head import BIAS, FILE_NAME, PICKLE_NAME, WEIGHT


def convert(folder: Path) -> Path:
    """Write the head in `folder` as safetensors beside its pickle, and return the new file.

    Raises:
        ValueError: There is no pickled head, it is none, or the new file is there already.
    """
    source, target = folder / PICKLE_NAME, folder / FILE_NAME
    if target.exists():
        raise ValueError(f"{target}: must not exist, does")
    try:
        tensors = torch.load(source, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{source}: cannot be read: {error}") from error
    names = set(tensors) if isinstance(tensors, dict) else set()
    if not {WEIGHT, BIAS} <= names or not all(isinstance(tensors[n], Tensor) for n in names):
        raise ValueError(
            f"{source}: must hold {WEIGHT} and {BIAS}, holds {sorted(map(str, names))}"
        )
    save_file({name: tensors[name].contiguous() for name in (WEIGHT, BIAS)}, target)
    target.chmod(0o644)  # safetensors writes for the owner alone
    return target


def main(arguments: list[str] | None = None) -> int:
    """Convert, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m training.convert_head", description=__doc__)
    parser.add_argument("folder", type=Path, help="of the reward model")
    try:
        target = convert(parser.parse_args(arguments).folder)
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{target}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
