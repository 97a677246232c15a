"""Measure whether guided decoding personalises: `python -m evaluation --data DIR --models DIR`.

Writes `report.html`, `evaluation.json` (its keys: `evaluation.summary`), the replies it was made
from (`replies/`) and what it need not compute again (`work/`) into `--out`. A run that was stopped
goes on where it was.
"""

import argparse
import logging
import sys
from dataclasses import replace
from pathlib import Path

import torch

from evaluation.contenders import full_plan, quick_plan
from evaluation.models import BASE, REWARD_MODEL
from evaluation.records import ReplyFileError
from evaluation.report import write_report
from evaluation.run import QUICK, EvaluationConfig, evaluate
from svc_common.lm.loading import ModelFolderError
from training.cli import run_command, show
from training.data import MissingDataError, require_data
from training.pair_file import PairFileError


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Return the options."""
    parser = argparse.ArgumentParser(prog="evaluation", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"), help="data folder")
    parser.add_argument("--models", type=Path, default=Path("models"), help="model folder")
    parser.add_argument("--out", type=Path, default=Path("evaluation-out"), help="where to write")
    parser.add_argument("--prompts", type=_positive, help="prompts to write replies to")
    parser.add_argument("--quick", action="store_true", help="everything once, on few prompts")
    parser.add_argument("--jobs", type=_positive, default=2, help="processes that write replies")
    return parser.parse_args(arguments)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def run(options: argparse.Namespace) -> None:
    """Evaluate, write the report and print what passed."""
    require_data(options.data)
    missing = [name for name in (BASE, REWARD_MODEL) if not (options.models / name).is_dir()]
    if missing:
        raise ModelFolderError(f"--models {options.models}: must hold {', '.join(missing)}")
    plan = quick_plan(options.jobs) if options.quick else full_plan(options.jobs)
    if options.prompts:
        sweep = min(plan.num_sweep_prompts, options.prompts)
        plan = replace(plan, num_prompts=options.prompts, num_sweep_prompts=sweep)
    config = QUICK if options.quick else EvaluationConfig()
    torch.set_num_threads(1)
    summary = evaluate(options.data, options.models, options.out, plan, config)
    data, page = write_report(summary, options.out)
    marks = {True: "passed", False: "missed", None: "-"}
    for row in summary["bar"]:
        show(f"{marks[row['passed']]:8}{row['what']}: {row['got']} (wanted {row['wanted']})\n")
    show(f"{page}\n{data}\n")


def main() -> None:
    """Run the command; what cannot be used ends it with one line and status 2."""
    logging.getLogger("transformers").setLevel(logging.ERROR)
    options = parse()
    try:
        run_command(lambda: run(options))
    except (ModelFolderError, ReplyFileError, PairFileError, MissingDataError) as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
