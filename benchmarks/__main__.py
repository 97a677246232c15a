"""Runs the benchmarks: `python -m benchmarks --suite models --quick`.

Each suite prints which bars it reached and its figures, and writes them as JSON; `--log` appends
an entry to benchmarks/LOG.md. A bar that is missed fails nothing: figures are to be read.
"""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.make_models import CACHE
from benchmarks.options import Options, Scale
from benchmarks.plots import save_plots
from benchmarks.report import HERE, LOG, Report, log_entry, show
from benchmarks.suites import (
    alternatives,
    flat,
    fleet,
    long,
    memory,
    models,
    overload,
    paced,
    scaling,
)

SUITES: dict[str, Callable[[Options], Report]] = {
    "models": models.run,
    "paced": paced.run,
    "scaling": scaling.run,
    "flat": flat.run,
    "long": long.run,
    "memory": memory.run,
    "alternatives": alternatives.run,
    "fleet": fleet.run,
    "overload": overload.run,
}


def main(words: list[str]) -> int:
    """Measure what is asked for, print it and keep it; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--suite", choices=[*SUITES, "all"], nargs="+", default=["all"])
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument("--quick", action="store_true", help="under a minute a suite")
    sizes.add_argument("--full", action="store_true", help="every model, batch size and prompt")
    sizes.add_argument("--tiny", action="store_true", help="only whether everything runs")
    parser.add_argument("--rounds", type=int, default=0, help="in place of the suite's own number")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of results/ and plots/")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of the models made")
    parser.add_argument("--log", action="store_true", help="append to benchmarks/LOG.md")
    arguments = parser.parse_args(words)
    scales = [s for s in Scale if getattr(arguments, s.value, False)] or [Scale.DEFAULT]
    options = Options(scales[0], arguments.cache, arguments.rounds)
    names = list(SUITES) if "all" in arguments.suite else arguments.suite
    command = " ".join(["python -m benchmarks", *words])
    reports = []
    for name in names:
        report = SUITES[name](options)
        report.save(command, arguments.out / "results")
        save_plots(report, arguments.out / "plots")
        show(report)
        reports.append(report)
    if arguments.log:
        with LOG.open("a", encoding="utf-8") as log:
            log.write(log_entry(reports, command))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
