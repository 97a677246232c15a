"""Run seeds by hand: `python -m tests.faults --seeds 200`, or one: `--seed 17`.

With `--record` the losses that are promised one by one are measured too, and docs/reliability.md is
given the figures.
"""

import argparse
import asyncio
import signal
import sys
import tempfile
import time
from pathlib import Path

from docs import reliability
from pad_client.embedded import default_models_dir
from tests.faults import losses, rewards
from tests.faults.checker import Checker
from tests.faults.models import demo_folders, save_tiny_folders
from tests.faults.recompute import Recompute
from tests.faults.runner import ENVIRONMENT, Outcome, Runner
from tests.faults.stack import running_fault_stack

COMMAND = "make faults"


def main() -> int:
    """Return the exit status: 1 where a promise was broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")
    parser.add_argument("--seed", type=int, help="this one alone")
    parser.add_argument("--record", action="store_true", help="write docs/reliability.md")
    options = parser.parse_args()
    seeds = list(range(options.first, options.first + options.seeds))
    if options.seed is not None:
        seeds = [options.seed]
    figures: dict[str, str] = {}
    is_broken = asyncio.run(run(seeds, figures, measures_losses=options.record))
    if options.record and not is_broken:
        for row, figure in figures.items():
            reliability.record(row, figure, COMMAND)
    return is_broken


async def run(seeds: list[int], figures: dict[str, str], *, measures_losses: bool) -> bool:
    """Run the seeds on one stack, tell how each went, and say whether a promise was broken."""
    with tempfile.TemporaryDirectory() as directory:
        folders = save_tiny_folders(Path(directory))
        recompute = Recompute(folders)
        async with running_fault_stack(folders, ENVIRONMENT) as stack:
            runner = Runner(stack, recompute)
            await runner.prepare()
            started = time.monotonic()
            outcomes = []
            for seed in seeds:
                outcomes.append(await runner.run(seed))
                _tell(outcomes[-1])
            seconds = time.monotonic() - started
            figures |= _figures(outcomes, runner.checker, seconds)
            if measures_losses:
                figures["model-version"] = await rewards.outlive_a_model(stack, recompute)
                figures["suspended"] = await rewards.suspend(stack)
    if measures_losses:
        await _measure_losses(figures)
    failed = [outcome.scenario.seed for outcome in outcomes if outcome.broken]
    for row, figure in figures.items():
        sys.stdout.write(f"{row}: {figure}\n")
    sys.stdout.write(f"{len(outcomes)} seeds in {seconds:.0f} s, broken: {failed or 'none'}\n")
    return bool(failed)


async def _measure_losses(figures: dict[str, str]) -> None:
    folders = demo_folders(default_models_dir())
    async with running_fault_stack(folders, losses.ENVIRONMENT) as stack:
        figures["killed"] = str(await losses.lose_one(stack, signal.SIGKILL))
        figures["stopped"] = str(await losses.lose_one(stack, signal.SIGSTOP))
        figures["unguided"] = await losses.return_to_guidance(stack)
        figures["new-replica"] = f"{await losses.take_load(stack):.1f} s"


def _figures(outcomes: list[Outcome], checker: Checker, seconds: float) -> dict[str, str]:
    histories = [history for outcome in outcomes for history in outcome.histories]
    num_tokens = sum(len(history.tokens) for history in histories)
    num_faults = sum(len(outcome.scenario.faults) for outcome in outcomes)
    num_kept = sum(not outcome.broken for outcome in outcomes)
    what = f"{len(histories)} answers, {num_tokens} tokens"
    return {
        "order": f"all of {what}",
        "rewards": f"all of {what}",
        "scenarios": (
            f"{num_kept} of {len(outcomes)} seeds ({num_faults} faults, {what},"
            f" {checker.num_ties} ties that rounding decided, {checker.num_late_stores} refused as"
            f" Redis was late) in {seconds:.0f} s"
        ),
    }


def _tell(outcome: Outcome) -> None:
    kinds = ", ".join(f"{fault.place} {fault.kind}" for fault in outcome.scenario.faults)
    verdict = outcome.report() if outcome.broken else "ok"
    sys.stdout.write(
        f"{outcome.scenario.seed:5} {outcome.seconds:5.1f} s, pause"
        f" {outcome.longest_pause_s:4.1f} s [{kinds}] {verdict}\n"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
