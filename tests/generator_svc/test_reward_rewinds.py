"""The pool's sessions at a real reward service: several tokens at once, guesses and their end."""

import asyncio
from pathlib import Path

import pytest
import torch
from torch import Tensor

from generator_svc.decoding.candidates import Candidates
from generator_svc.decoding.strategies import Reference
from generator_svc.engine.scorer import RewardSession, ScoreRows, SessionState
from reward_svc.model import PersRM, load_pers_rm
from tests.generator_svc.reward_stack import Stack, running_stack, until
from tests.generator_svc.test_engine import NEVER, context
from tests.reward_svc.oracle import Oracle
from tests.reward_svc.replica import TOLERANCE, save_folders
from tests.reward_svc.replica import context as oracle_context

IDS = [7, 99, 30, 140]
ORACLE_CONTEXT = oracle_context(
    ("wish", 1.0), ("Be kind.", 0.5), prompt=context("hello", "wish").prompt
)


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory) -> PersRM:
    folder: Path = tmp_path_factory.mktemp("reward_model")
    return load_pers_rm(save_folders(folder))


async def opened(stack: Stack, *token_ids: int) -> RewardSession:
    what = context("hello", "wish", Reference.BACKBONE)
    session = RewardSession(what, list(token_ids), lambda: None)
    stack.pool.open(session)
    await until(lambda: session.state is SessionState.OPEN)
    return session


async def score(stack: Stack, *sessions: RewardSession, guesses: list[int | None]) -> Tensor:
    ids = torch.tensor([IDS]).expand(len(sessions), -1)
    counts = [len(IDS)] * len(sessions)
    candidates = Candidates(ids, torch.zeros(ids.shape))
    scored = await stack.pool.score(ScoreRows(list(sessions), candidates, counts, guesses))
    assert all(scored.has_rewards)
    return scored.rewards


async def check(stack: Stack, session: RewardSession, guess: int | None = None) -> None:
    """It scores as its tokens say, whatever its replica was sent before."""
    (rewards,) = await score(stack, session, guesses=[guess])
    expected = Oracle.of().rewards(ORACLE_CONTEXT, session.token_ids, IDS)
    torch.testing.assert_close(rewards, expected, **TOLERANCE)


async def test_tokens_a_replica_lacks_and_guesses_taken_back_score_as_the_prefix_alone(
    reward_model: PersRM,
) -> None:
    async with running_stack([reward_model], NEVER) as stack:
        session = await opened(stack, 5)
        session.token_ids += [10, 77, 200]
        await check(stack, session, guess=31)  # three tokens go along in the question
        session.token_ids.append(32)
        session.num_committed = 4  # the guess was wrong
        stack.pool.commit([session])
        await check(stack, session, guess=33)
        session.token_ids.append(33)  # this one was right
        num_sent = len(stack.sent)
        stack.pool.commit([session])
        assert len(stack.sent) == num_sent
        await check(stack, session, guess=None)
        assert stack.pool_observer.num_failovers == 0


async def test_a_session_that_fails_at_a_row_gives_its_place_back_before_it_is_opened_again(
    reward_model: PersRM,
) -> None:
    """Once it stayed open there, and held its rows until the stream ended."""
    async with running_stack([reward_model], NEVER) as stack:
        (replica,) = stack.replicas
        session = await opened(stack)
        num_free = replica.batcher.load.num_free_slots
        for _ in range(3):
            session.token_ids.extend([41, 42])
            session.num_committed = len(session.token_ids) - 1  # it lacks the one before
            stack.pool.commit([session])
            await until(lambda: session.state is SessionState.OPENING)
            await until(lambda: session.state is SessionState.OPEN)
            await check(stack, session)
        assert stack.pool_observer.num_failovers == 3
        await until(lambda: replica.batcher.load.num_free_slots == num_free)
        assert replica.batcher.load.num_sessions == 1
        stack.pool.close(session)
        await stack.all_free()


async def test_a_place_lost_while_a_guess_is_out_is_rebuilt_without_the_guess(
    reward_model: PersRM,
) -> None:
    async with running_stack([reward_model], NEVER) as stack:
        (link,) = stack.pool.fleet.replicas
        session = await opened(stack, 5)
        for token in (10, 11, 12):
            await check(stack, session, guess=99)
            link._give_up()
            session.token_ids.append(token)
            await until(lambda: session.state is SessionState.OPEN)
            session.num_committed = min(session.num_committed, len(session.token_ids) - 1)
            stack.pool.commit([session])
            await check(stack, session)
        await asyncio.sleep(0)
        assert stack.pool_observer.num_failovers == 3
