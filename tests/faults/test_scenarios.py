"""Seeded scenarios on real processes: no promise is broken, whatever else is."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from tests.faults import rewards
from tests.faults.models import save_tiny_folders
from tests.faults.recompute import Recompute
from tests.faults.runner import ENVIRONMENT, Runner
from tests.faults.scenario import make_scenario
from tests.faults.stack import FaultStack, running_fault_stack

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]
SEEDS = range(30)


@dataclass
class Bench:
    stack: FaultStack
    recompute: Recompute
    runner: Runner


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def bench(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    folder: Path = tmp_path_factory.mktemp("models")
    folders = save_tiny_folders(folder)
    recompute = Recompute(folders)
    async with running_fault_stack(folders, ENVIRONMENT) as stack:
        runner = Runner(stack, recompute)
        await runner.prepare()
        yield Bench(stack, recompute, runner)


@pytest.mark.parametrize("seed", SEEDS)
async def test_all_promises_hold(bench: Bench, seed: int) -> None:
    outcome = await bench.runner.run(seed)
    assert not outcome.broken, outcome.report()


async def test_an_answer_stays_with_its_reward_model_and_the_summary_says_if_it_cannot(
    bench: Bench,
) -> None:
    await rewards.outlive_a_model(bench.stack, bench.recompute)


async def test_a_replica_that_answers_garbage_is_left_alone_for_a_while(bench: Bench) -> None:
    await rewards.suspend(bench.stack)


async def test_the_same_seed_is_the_same_scenario() -> None:
    assert all(make_scenario(seed) == make_scenario(seed) for seed in SEEDS)
    assert make_scenario(1) != make_scenario(2)
