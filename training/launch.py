"""Start a recipe in one or several processes: `python -m training.launch RECIPE --processes 2`.

Options that it does not know go to `training.train`. Several processes are started by torch's own
launcher, which is what accelerate's uses on GPUs; accelerate's cannot start two on CPUs without
MPI.
"""

import argparse
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from torch.distributed import run as torch_run
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from training.failures import FOLDER_VARIABLE, LAUNCHER_VARIABLE, Failure, first_failure
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
    """Run `training.train` with `arguments` in several processes and wait for them.

    If one fails, the first failure's message is shown and its status is that of this process.
    """
    count = ["--standalone", "--nproc-per-node", str(num_processes)]
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # is told below
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    os.environ[LAUNCHER_VARIABLE] = str(os.getpid())
    with tempfile.TemporaryDirectory() as folder:
        os.environ[FOLDER_VARIABLE] = folder
        try:
            torch_run.main([*count, "--module", "training.train", *arguments])
        except ChildFailedError as error:
            sys.exit(_tell(error, first_failure(Path(folder))))
        except SignalException as error:
            sys.exit(128 + error.sigval)


def _tell(error: ChildFailedError, failure: Failure | None) -> int:
    """Show why the processes failed and return the status to end with."""
    if failure is not None:
        sys.stderr.write(failure.text)
        return failure.status
    sys.stderr.write(f"{error}\n")
    status = error.get_first_failure()[1].exitcode
    return status if status >= 0 else 128 - status


if __name__ == "__main__":
    main()
