"""A thousand replicas, simulated: how many of them should a generator use?"""

import random
from dataclasses import dataclass

from benchmarks.fleet_simulation import Costs, simulate
from benchmarks.options import Options, Scale
from benchmarks.report import Report
from benchmarks.rounds import Cell, Result

SESSIONS = 64  # of a generator, one row each


@dataclass(frozen=True)
class Plan:
    """Sizes of the fleet, and over how many replicas a generator spreads its sessions."""

    num_replicas: int
    spreads: tuple[int, ...]
    num_steps: int


PLANS = {
    Scale.TINY: Plan(10, (1, 4), 5),
    Scale.QUICK: Plan(100, (1, 2, 4, 16), 20),
    Scale.DEFAULT: Plan(1000, (1, 2, 4, 16, 64), 20),
    Scale.FULL: Plan(1000, (1, 2, 4, 8, 16, 32, 64), 60),
}


def run(options: Options) -> Report:
    """Simulate as many generators as replicas; the column B counts the replicas of a generator."""
    plan = PLANS[options.scale]
    report = Report("fleet")
    for spread in plan.spreads:
        for name, is_grouped in (("random replicas", False), ("groups", True)):
            subsets = make_subsets(plan.num_replicas, spread, is_grouped=is_grouped)
            outcome = simulate(subsets, Costs(), num_steps=plan.num_steps)
            sample = {
                "step_ms": outcome.mean_ms,
                "step_p99_ms": outcome.p99_ms,
                "tokens_per_s": plan.num_replicas * SESSIONS / outcome.mean_ms * 1e3,
            }
            cell = Cell(f"{plan.num_replicas} replicas", spread, 0)
            report.results.append(Result(cell, name, [sample]))
    report.notes = [
        f"simulation: as many generators as replicas, {SESSIONS} sessions a generator, forwards of"
        f" 10 ms on both sides; costs {Costs()}",
        "B: the replicas that a generator spreads its sessions over, and the generators of each",
        "groups: as many generators as replicas share each other; random: each has its own choice",
    ]
    return report


def make_subsets(num_replicas: int, spread: int, *, is_grouped: bool) -> list[list[int]]:
    """Return the replicas of each of `num_replicas` generators, every replica equally often."""
    if is_grouped:
        groups = [i - i % spread for i in range(num_replicas)]
        return [[start + j for j in range(spread) if start + j < num_replicas] for start in groups]
    choose = random.Random(0)
    columns = [choose.sample(range(num_replicas), num_replicas) for _ in range(spread)]
    return [list(dict.fromkeys(subset)) for subset in zip(*columns, strict=True)]
