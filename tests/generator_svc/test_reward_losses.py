"""Late answers and lost places, while a question is out."""

import asyncio

import torch

from generator_svc.decoding.candidates import Candidates
from generator_svc.engine.scorer import ScoreRows, SessionState
from pad.v1 import reward_pb2
from tests.generator_svc.fake_replica import FakeReplica
from tests.generator_svc.test_reward_pool import running_pool


async def test_a_late_answer_is_kept_for_its_own_candidates_alone() -> None:
    """Once it was as wide as the widest row of its question, which ended the engine."""
    async with running_pool(FakeReplica()) as harness:
        sessions = [await harness.open(1, 2), await harness.open(3)]
        replica = harness.pool.fleet.replicas[0]
        receive, kept = replica.receive, []
        replica.receive = kept.append  # type: ignore[method-assign, assignment]
        ids, logprobs = torch.arange(10).view(2, 5), torch.zeros(2, 5)
        await harness.pool.score(ScoreRows(sessions, Candidates(ids, logprobs), [3, 5]))
        receive(*kept)
        await harness.until(lambda: not sessions[0].is_scoring)
        narrow = Candidates(ids[:1, :3], logprobs[:1, :3])
        scored = await harness.pool.score(ScoreRows(sessions[:1], narrow, [3]))
        assert scored.rewards.tolist() == [[2.0] * 3]
        assert scored.has_rewards == [True]


async def test_a_session_whose_replica_hangs_up_owing_rewards_moves_once() -> None:
    """Once it was moved for its question and again for its place, and left the first new one."""
    async with running_pool(FakeReplica(), FakeReplica()) as harness:
        await harness.ready(2)
        session = await harness.open(1, 2, 3)
        home, other = sorted(harness.replicas, key=lambda its: not its.committed)
        home.is_silent = True
        scoring = asyncio.create_task(harness.score(session))
        await harness.until(lambda: "score 1" in home.log)
        home.hang_up.set()
        assert await scoring == [None]
        await harness.until(lambda: session.state is SessionState.OPEN)
        assert await harness.reward(session) == 3
        assert other.log == ["open 3", "score 1"]


async def test_a_session_that_a_replica_failed_goes_back_to_it_only_if_there_is_no_other() -> None:
    """Once it went back to the freer one, which had failed it, until it was given up."""
    bad = FakeReplica()
    async with running_pool(bad, FakeReplica()) as harness:
        await harness.ready(2)
        bad.refuses_opens = reward_pb2.ROW_ERROR_REASON_INTERNAL
        for num_tokens in range(8):
            session = await harness.open(*range(num_tokens))
            assert session.state is SessionState.OPEN
            assert bad.log.count(f"open {num_tokens}") <= 1
