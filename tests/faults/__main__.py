"""Run seeds by hand: `python -m tests.faults --seeds 200`, or one: `--seed 17`."""

import argparse
import asyncio
import sys
import tempfile
import time
from pathlib import Path

from tests.faults.models import save_tiny_folders
from tests.faults.recompute import Recompute
from tests.faults.runner import ENVIRONMENT, Outcome, Runner
from tests.faults.stack import running_fault_stack


def main() -> int:
    """Return the exit status: 1 where a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many, from 0")
    parser.add_argument("--seed", type=int, help="only this one")
    parser.add_argument("--first", type=int, default=0, help="where to begin")
    options = parser.parse_args()
    seeds = range(options.first, options.first + options.seeds)
    outcomes = asyncio.run(run([options.seed] if options.seed is not None else list(seeds)))
    return any(outcome.broken for outcome in outcomes)


async def run(seeds: list[int]) -> list[Outcome]:
    """Run the seeds on one stack and tell how each went."""
    outcomes = []
    with tempfile.TemporaryDirectory() as directory:
        folders = save_tiny_folders(Path(directory))
        async with running_fault_stack(folders, ENVIRONMENT) as stack:
            runner = Runner(stack, Recompute(folders))
            await runner.prepare()
            started = time.monotonic()
            for seed in seeds:
                outcome = await runner.run(seed)
                outcomes.append(outcome)
                _tell(outcome)
            _tell_all(outcomes, time.monotonic() - started)
    return outcomes


def _tell(outcome: Outcome) -> None:
    kinds = ", ".join(f"{fault.place} {fault.kind}" for fault in outcome.scenario.faults)
    verdict = outcome.report() if outcome.broken else "ok"
    sys.stdout.write(
        f"{outcome.scenario.seed:5} {outcome.seconds:5.1f} s, pause"
        f" {outcome.longest_pause_s:4.1f} s [{kinds}] {verdict}\n"
    )
    sys.stdout.flush()


def _tell_all(outcomes: list[Outcome], seconds: float) -> None:
    failed = [outcome.scenario.seed for outcome in outcomes if outcome.broken]
    sys.stdout.write(f"{len(outcomes)} seeds in {seconds:.0f} s, broken: {failed or 'none'}\n")


if __name__ == "__main__":
    sys.exit(main())
