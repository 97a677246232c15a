"""One of two replicas lost under 32 answers, all lost, and one that comes back."""

import signal
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from pad_client.embedded import default_models_dir
from tests.faults import losses
from tests.faults.models import demo_folders
from tests.faults.stack import FaultStack, running_fault_stack

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module")]
BAR_S = losses.PAUSE_S + losses.BUSY_S


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def stack() -> AsyncIterator[FaultStack]:
    async with running_fault_stack(demo_folders(default_models_dir()), losses.ENVIRONMENT) as its:
        yield its


async def test_a_killed_replica_changes_no_token_of_32_answers(stack: FaultStack) -> None:
    pause = await losses.lose_one(stack, signal.SIGKILL)
    assert pause.longest_s <= BAR_S, str(pause)


async def test_a_stopped_replica_changes_no_token_of_32_answers(stack: FaultStack) -> None:
    pause = await losses.lose_one(stack, signal.SIGSTOP)
    assert pause.longest_s <= BAR_S, str(pause)


async def test_an_answer_that_lost_all_rewards_is_guided_again_when_they_are_back(
    stack: FaultStack,
) -> None:
    await losses.return_to_guidance(stack)


async def test_a_replica_that_comes_back_takes_load(stack: FaultStack) -> None:
    assert await losses.take_load(stack) <= 5.0 + losses.BUSY_S
