"""What each preference gives, from a reward replica to the engine: sound answers and others."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from generator_svc.decoding.candidates import Candidates
from generator_svc.engine.scorer import EncodedPreference, RewardSession, ScoreRows
from pad.v1 import reward_pb2
from tests.generator_svc.fake_replica import FakeReplica, unpack
from tests.generator_svc.test_reward_pool import CONTEXT, IDS, LOGPROBS, Harness, running_pool

WISHES = (EncodedPreference("be brief", 1.0), EncodedPreference("rhyme", 2.0))
EXPLAINED = replace(CONTEXT, preferences=WISHES, is_base_prompt=True, is_explained=True)
PLAIN = replace(EXPLAINED, is_explained=False)


class TellingReplica(FakeReplica):
    """Preference j of a session gives j + 1 times its number of committed tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.explained: dict[int, int] = {}  # preferences by session
        self.num_more = 0  # preferences that nobody stated
        self.value = 1.0

    def _open(self, message: reward_pb2.SessionOpen) -> reward_pb2.ScoreResponse:
        if message.wants_preference_rewards:
            self.explained[message.session] = len(message.context.preferences)
        return super()._open(message)

    def _score(self, request: reward_pb2.ScoreRequest) -> reward_pb2.ScoreResponse:
        response = super()._score(request)
        rows = response.rewards
        numbers, values = [], []
        for session, count in zip(unpack(rows.sessions), unpack(rows.num_candidates), strict=True):
            number = self.explained.get(session, 0)
            number += self.num_more if number else 0
            numbers.append(number)
            for j in range(number):
                values += [self.value * (j + 1) * len(self.committed[session])] * count
        rows.num_preferences = np.asarray(numbers, "<u4").tobytes()
        rows.preference_rewards = np.asarray(values, "<f4").tobytes()
        return response


async def told(harness: Harness, *sessions: RewardSession) -> dict[int, torch.Tensor]:
    ids, counts = IDS.expand(len(sessions), -1), [len(IDS)] * len(sessions)
    candidates = Candidates(ids, LOGPROBS.expand(len(sessions), -1))
    scored = await harness.pool.score(ScoreRows(list(sessions), candidates, counts))
    return scored.by_preference


@pytest.mark.parametrize("ours", ["same", ""])
async def test_each_preference_is_measured_against_the_reference_whoever_runs_it(
    ours: str,
) -> None:
    replica = TellingReplica()
    replica.reference_fingerprint = "same"
    async with running_pool(replica, base_fingerprint=ours) as harness:
        plain = await harness.open(4, context=PLAIN)
        session = await harness.open(8, 9, context=EXPLAINED)
        found = await told(harness, plain, session)
    assert set(found) == {1}
    base = LOGPROBS.log_softmax(0) if ours else torch.zeros(len(IDS))
    torch.testing.assert_close(found[1], torch.tensor([[2.0], [4.0]]) - base)


async def test_late_answers_are_explained_too() -> None:
    replica = TellingReplica()
    async with running_pool(replica) as harness:
        session = await harness.open(8, 9, context=EXPLAINED)
        (link,) = harness.pool.fleet.replicas
        receive, kept = link.receive, list[Any]()
        link.receive = kept.append  # type: ignore[method-assign, assignment]
        assert await told(harness, session) == {}
        receive(*kept)
        await harness.until(lambda: not session.is_scoring)
        found = await told(harness, session)
        torch.testing.assert_close(found[0], torch.tensor([[2.0], [4.0]]).expand(-1, 3))


async def test_a_replica_of_a_version_that_cannot_tell_still_gives_rewards() -> None:
    async with running_pool(FakeReplica()) as harness:
        session = await harness.open(8, 9, context=EXPLAINED)
        assert await told(harness, session) == {}
        assert await harness.reward(session) == 2.0


@pytest.mark.parametrize("lie", ["more preferences", "nan", "short", "one row too many"])
async def test_an_explanation_that_does_not_fit_ends_the_stream_as_garbage_does(
    lie: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session then goes on with the sound replica."""
    liar, sound = TellingReplica(), TellingReplica()
    liar.num_more = lie == "more preferences"
    liar.value = float("nan") if lie == "nan" else 1.0
    score = liar._score

    def spoilt(request: reward_pb2.ScoreRequest) -> reward_pb2.ScoreResponse:
        response = score(request)
        if lie == "short":
            response.rewards.preference_rewards = response.rewards.preference_rewards[:-4]
        if lie == "one row too many":
            response.rewards.num_preferences += bytes(4)
        return response

    monkeypatch.setattr(liar, "_score", spoilt)
    async with running_pool(liar) as harness:
        session = await harness.open(8, 9, context=EXPLAINED)
        assert await told(harness, session) == {}
        assert liar.num_streams >= 1
        (link,) = harness.pool.fleet.replicas
        assert link.breaker.last_failure > 0
    async with running_pool(sound) as harness:
        session = await harness.open(8, 9, context=EXPLAINED)
        assert len(await told(harness, session)) == 1
