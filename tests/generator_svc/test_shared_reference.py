"""A reference that is the base model itself is not run a second time, and changes no reward."""

import dataclasses

import pytest
import torch

from generator_svc.engine.scorer import EncodedPreference, RewardContext
from pad.v1 import common_pb2
from tests.generator_svc.fake_replica import FakeReplica
from tests.generator_svc.test_reward_pool import CONTEXT, IDS, LOGPROBS, running_pool

BASE = common_pb2.REFERENCE_MODE_BASE
BACKBONE = common_pb2.REFERENCE_MODE_BACKBONE
# Weights that add up to 3; the base model reads the same prompt.
WISHES = (EncodedPreference("be brief", 1.0), EncodedPreference("rhyme", 2.0))
PLAIN = dataclasses.replace(CONTEXT, preferences=WISHES, is_base_prompt=True)
PROMPTED = dataclasses.replace(PLAIN, is_base_prompt=False)


@pytest.mark.parametrize(
    ("theirs", "ours", "context", "reference"),
    [
        ("same", "same", PLAIN, BASE),
        ("same", "same", PROMPTED, BACKBONE),
        ("same", "other", PLAIN, BACKBONE),
        ("same", "", PLAIN, BACKBONE),
        ("", "", PLAIN, BACKBONE),
    ],
)
async def test_only_a_reference_that_is_the_base_model_is_left_to_us(
    theirs: str, ours: str, context: RewardContext, reference: int
) -> None:
    replica = FakeReplica()
    replica.reference_fingerprint = theirs
    async with running_pool(replica, base_fingerprint=ours) as harness:
        session = await harness.open(8, 9, context=context)
        assert replica.references == [reference]
        (rewards,) = await harness.score(session)
        # The replica answers 2 for each candidate: the tokens it has.
        base = LOGPROBS.log_softmax(0) if reference == BASE else torch.zeros(len(IDS))
        torch.testing.assert_close(rewards, 2.0 - 3.0 * base)


async def test_the_free_slots_of_a_replica_count_the_rows_that_a_session_takes() -> None:
    for ours, num_rows in (("same", 2), ("other", 3)):
        replica = FakeReplica()
        replica.reference_fingerprint = "same"
        async with running_pool(replica, base_fingerprint=ours) as harness:
            await harness.open(context=PLAIN)
            (link,) = harness.pool.fleet.replicas
            assert link.num_free_slots == 8 - num_rows


async def test_late_rewards_are_whole_too() -> None:
    replica = FakeReplica()
    replica.reference_fingerprint = "same"
    async with running_pool(replica, base_fingerprint="same") as harness:
        session = await harness.open(8, 9, context=PLAIN)
        (link,) = harness.pool.fleet.replicas
        receive, kept = link.receive, []
        link.receive = kept.append  # type: ignore[method-assign, assignment]
        assert await harness.score(session) == [None]
        receive(*kept)
        await harness.until(lambda: not session.is_scoring)
        (rewards,) = await harness.score(session)
        torch.testing.assert_close(rewards, 2.0 - 3.0 * LOGPROBS.log_softmax(0))
