"""Start a recipe in one or several processes: `python -m training.launch RECIPE --processes 2`.

Options that it does not know go to `training.train`. Several processes are started by torch's own
launcher, which is what accelerate's uses on GPUs; accelerate's cannot start two on CPUs without
MPI.
"""

import argparse
import sys
from collections.abc import Sequence

import torch
from torch.distributed import run as torch_run

from training.recipe_file import RecipeError, check_processes
from training.train import follow, parse


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and train; a wrong recipe ends it with status 2 before any start."""
    parser = argparse.ArgumentParser(prog="python -m training.launch", description=__doc__)
    parser.add_argument("--processes", type=int, default=0, help="default: one a GPU, else one")
    own, rest = parser.parse_known_args(arguments)
    recipe = parse(rest)
    num_processes = own.processes or max(1, torch.cuda.device_count())
    try:
        check_processes(recipe, num_processes)
    except RecipeError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
    if num_processes == 1:
        follow(recipe)
    else:
        start_processes(num_processes, rest)


def start_processes(num_processes: int, arguments: Sequence[str]) -> None:
    """Run `training.train` with `arguments` in several processes and wait for them."""
    count = ["--standalone", "--nproc-per-node", str(num_processes)]
    torch_run.main([*count, "--module", "training.train", *arguments])


if __name__ == "__main__":
    main()
