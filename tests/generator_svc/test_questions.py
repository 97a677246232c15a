"""Questions that are out while their sessions, or whoever asked, go away; over real streams."""

import asyncio

import torch

from generator_svc.decoding.candidates import Candidates
from generator_svc.engine.scorer import RewardSession, ScoredRows, ScoreRows, SessionState
from tests.generator_svc.fake_replica import FakeReplica
from tests.generator_svc.test_reward_pool import Harness, running_pool


def ask(
    harness: Harness, *sessions: RewardSession, counts: list[int] | None = None, width: int = 3
) -> "asyncio.Future[ScoredRows]":
    block = torch.arange(len(sessions) * width).view(len(sessions), width)
    candidates = Candidates(block, torch.zeros(block.shape))
    return harness.pool.score(
        ScoreRows(list(sessions), candidates, counts or [width] * len(sessions))
    )


async def test_a_question_nobody_awaits_still_leaves_and_can_be_asked_again() -> None:
    async with running_pool(FakeReplica()) as harness:
        session = await harness.open(1, 2)
        forgotten = ask(harness, session)
        await harness.until(lambda: "score 1" in harness.replicas[0].log)
        scored = await ask(harness, session)
        assert scored.rewards.tolist() == [[2.0] * 3]
        assert (await forgotten).rewards.tolist() == [[2.0] * 3]
        assert not session.is_scoring


async def test_rewards_that_nobody_waits_for_any_more_are_kept() -> None:
    """Whoever asked was cancelled; the session must not be asked about for the same step again."""
    async with running_pool(FakeReplica()) as harness:
        session = await harness.open(1, 2)
        case = harness.pool._cases[session]
        ask(harness, session).cancel()
        await harness.until(lambda: case.answer is not None)
        again = ask(harness, session)
        assert again.done()  # what is at hand is not waited for
        assert (await again).has_rewards == [True]
        assert (await again).rewards.tolist() == [[2.0] * 3]
        assert harness.replicas[0].log.count("score 1") == 1


async def test_kept_rewards_are_never_given_for_another_step() -> None:
    async with running_pool(FakeReplica()) as harness:
        session = await harness.open(1, 2)
        case = harness.pool._cases[session]
        ask(harness, session).cancel()
        await harness.until(lambda: case.answer is not None)
        session.token_ids.append(3)
        assert (await ask(harness, session)).rewards.tolist() == [[3.0] * 3]


async def test_a_session_closed_while_its_question_is_out_hurts_no_other() -> None:
    async with running_pool(FakeReplica()) as harness:
        leaving, staying = await harness.open(1), await harness.open(1, 2)
        scoring = ask(harness, leaving, staying)
        harness.pool.close(leaving)
        scored = await scoring
        assert scored.has_rewards[1]
        assert scored.rewards[1].tolist() == [2.0] * 3
        assert leaving.state is SessionState.CLOSED
        assert await harness.reward(staying) == 2.0


async def test_a_session_that_moves_while_its_question_is_out_gets_what_was_asked_for() -> None:
    """Its replica drains: it answers still, and the session goes on elsewhere."""
    async with running_pool(FakeReplica(), FakeReplica()) as harness:
        await harness.ready(2)
        session = await harness.open(1, 2)
        (home,) = [replica for replica in harness.replicas if replica.committed]
        (link,) = [its for its in harness.pool.fleet.replicas if str(home.port) in its.address]
        scoring = ask(harness, session)
        link.health_changed(is_serving=False)
        scored = await scoring
        assert scored.has_rewards == [True]
        assert scored.rewards.tolist() == [[2.0] * 3]
        session.token_ids.append(3)
        await harness.until(lambda: session.state is SessionState.OPEN)
        assert await harness.reward(session) == 3.0


async def test_a_session_without_a_place_is_not_waited_for() -> None:
    async with running_pool(FakeReplica()) as harness:
        session = await harness.open(1)
        harness.pool.close(session)
        scoring = ask(harness, session)
        assert scoring.done()
        assert (await scoring).has_rewards == [False]
        assert not session.is_scoring


async def test_rows_narrower_than_their_block_get_nothing_behind_their_candidates() -> None:
    """All rows of one replica, or some of each of two: the answer is as wide as its widest."""
    for num_replicas in (1, 2):
        async with running_pool(*(FakeReplica() for _ in range(num_replicas))) as harness:
            await harness.ready(num_replicas)
            sessions = [await harness.open(*range(n)) for n in (1, 2, 3, 4)]
            scored = await ask(harness, *sessions, counts=[2, 1, 3, 2], width=5)
            assert scored.has_rewards == [True] * 4
            assert scored.rewards.tolist() == [
                [float(n)] * k + [0.0] * (5 - k) for n, k in ((1, 2), (2, 1), (3, 3), (4, 2))
            ]
