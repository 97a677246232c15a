"""Train a personalised reward model: `python -m training.train RECIPE [--set section.name=value]`.

Run alone it is one process; `pad train` and `training.launch` start several. Run again after a
stop, it goes on where the last checkpoint of its run folder stands.
"""

import argparse
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from torch import distributed

from svc_common.lm.loading import ModelFolderError
from training.export import check_export
from training.failures import Failure, note_failure
from training.pair_file import PairFileError
from training.parent import end_with_parent
from training.recipe import Recipe
from training.recipe_file import RecipeError, read_recipe
from training.run import run_recipe
from training.runner import DivergedError


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line and train; a wrong recipe, pair or model ends it with status 2."""
    end_with_parent()
    follow(parse(arguments))


def parse(arguments: Sequence[str] | None) -> Recipe:
    """Return the recipe that the command line names; a wrong one ends the process, status 2."""
    parser = argparse.ArgumentParser(prog="python -m training.train", description=__doc__)
    parser.add_argument("recipe", type=Path, help="TOML file; see training/recipes/")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.NAME=VALUE")
    parser.add_argument("--out", metavar="DIR", help="run folder, in place of the recipe's")
    args = parser.parse_args(arguments)
    overrides = [*args.set, *([f"out={args.out}"] if args.out else [])]
    try:
        recipe = read_recipe(args.recipe, overrides)
        check_export(recipe)
    except RecipeError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
    return recipe


def follow(recipe: Recipe) -> None:
    """Train; a wrong setting, pair or model ends the process with its message and status 2.

    Training that diverges ends it with status 1.
    """
    try:
        run_recipe(recipe)
    except (RecipeError, PairFileError, ModelFolderError, DivergedError) as error:
        failure = Failure(f"{error}\n", 1 if isinstance(error, DivergedError) else 2)
        if not note_failure(failure, is_cause=True):
            sys.stderr.write(failure.text)
        sys.exit(failure.status)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception:
        if not note_failure(Failure(traceback.format_exc(), 1), is_cause=False):
            raise
        sys.exit(1)
    finally:
        if distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()


if __name__ == "__main__":
    main()
