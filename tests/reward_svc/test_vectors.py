"""Preferences as vectors: rewards equal the written-out formula, and rows are shared."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from pad.v1 import reward_pb2
from reward_svc.encoder import PreferenceEncoder
from reward_svc.model import PersRM, load_pers_rm
from reward_svc.pad_config import Conditioning
from reward_svc.prompts import Reference, RewardContext, WeightedPreference, plan_session
from reward_svc.settings import RewardSettings
from svc_common.preference_prompt import ChatMessage
from tests.reward_svc.oracle import Oracle
from tests.reward_svc.replica import (
    BRIEF,
    CHAT,
    TOLERANCE,
    context,
    random_candidates,
    running_replica,
)
from tests.reward_svc.service import candidate_rows, context_message, running_service

CANDIDATES = [7, 99, 30, 140]
WITH_VECTOR = [Conditioning.VECTOR, Conditioning.BOTH]
THREE = context(("Be brief.", 1.0), ("Be kind.", 0.5), ("Rhyme.", 2.0))
OTHER = (ChatMessage("system", "You are a poet."), ChatMessage("user", "What is a fjord?"))
MIXED = [
    BRIEF,
    dataclasses.replace(THREE, reference=Reference.BASE),
    dataclasses.replace(THREE, prompt=OTHER),
    context(("Rhyme.", 0.3), ("Rhyme.", 0.3), prompt="Once upon a time"),
]


@pytest.mark.parametrize("conditioning", WITH_VECTOR)
async def test_rewards_of_mixed_sessions_equal_a_full_recompute_at_every_step(
    models: dict[Conditioning, PersRM], conditioning: Conditioning
) -> None:
    oracle = Oracle.of(conditioning=conditioning)
    rng = np.random.default_rng(5)
    async with running_replica(models[conditioning]) as replica:
        generator = replica.generator()
        written: list[list[int]] = [[], [70, 71], [], [80]]
        for number, what in enumerate(MIXED):
            await generator.open(number, what, written[number])
        for _ in range(4):
            steps = [len(tokens) for tokens in written]
            asked = [(n, steps[n], random_candidates(rng)) for n in range(len(MIXED))]
            rewards = await generator.score(*asked)
            for (number, _, ids), mine in zip(asked, rewards, strict=True):
                assert isinstance(mine, Tensor)
                expected = oracle.rewards(MIXED[number], written[number], ids)
                torch.testing.assert_close(mine, expected, rtol=1e-4, atol=3e-4)
            tokens = rng.integers(6, 262, len(MIXED)).tolist()
            await generator.commit(*((n, steps[n], tokens[n]) for n in range(len(MIXED))))
            for row, token in zip(written, tokens, strict=True):
                row.append(token)


async def test_preferences_as_vectors_share_one_row_and_one_forward(
    models: dict[Conditioning, PersRM],
) -> None:
    rows = {}
    for conditioning, model in models.items():
        async with running_replica(model) as replica:
            generator = replica.generator()
            opened = await generator.open(1, THREE)
            rows[conditioning] = 16 - replica.batcher.load.num_free_slots
            prompts = plan_session(THREE, model.tokenizer, conditioning).prompts
            assert opened.num_prompt_tokens == sum(len(p.token_ids) for p in prompts)
            before = replica.cache.runner.num_forwards
            await generator.commit((1, 0, 42))
            await generator.score((1, 1, CANDIDATES))
            assert replica.cache.runner.num_forwards == before + 1
    assert rows == {Conditioning.PROMPT: 4, Conditioning.VECTOR: 2, Conditioning.BOTH: 4}


async def test_a_sessions_rewards_are_the_same_to_the_last_bit_whoever_its_neighbours_are(
    models: dict[Conditioning, PersRM],
) -> None:
    async with running_replica(models[Conditioning.VECTOR]) as replica:
        generator = replica.generator()
        for number, what in enumerate((BRIEF, THREE, BRIEF)):
            await generator.open(number, what)
        (alone,) = await generator.score((1, 0, CANDIDATES))
        together = await generator.score(*((n, 0, CANDIDATES) for n in range(3)))
        assert isinstance(alone, Tensor)
        torch.testing.assert_close(together[1], alone, rtol=0, atol=0)


@pytest.mark.parametrize("conditioning", WITH_VECTOR)
async def test_an_encoded_preference_comes_back_in_an_opening_and_changes_nothing(
    models: dict[Conditioning, PersRM], conditioning: Conditioning
) -> None:
    model, oracle = models[conditioning], Oracle.of(conditioning=conditioning)
    async with running_service(model) as service:
        what = context_message(THREE)
        for encoded in what.preferences:
            request = reward_pb2.EncodePreferenceRequest()
            request.preference.text = encoded.preference.text
            answer = await service.stub.EncodePreference(request)
            assert answer.conditioning == reward_pb2.CONDITIONING_VECTOR
            assert answer.model_version == model.version
            vector = torch.tensor(np.frombuffer(answer.encoding, "<f4"))
            torch.testing.assert_close(vector, oracle.vector(encoded.preference.text), **TOLERANCE)
            encoded.encoding = answer.encoding
        with_encodings = service.open(1, THREE)
        with_encodings.context.CopyFrom(what)
        call = service.stub.Score()
        opens = [with_encodings, service.open(2, THREE)]
        await call.write(reward_pb2.ScoreRequest(opens=opens))
        for _ in opens:
            assert (await call.read()).opened
        asked = candidate_rows((1, 0, CANDIDATES), (2, 0, CANDIDATES))
        await call.write(reward_pb2.ScoreRequest(candidates=asked, batch_id=1))
        given, computed = np.frombuffer((await call.read()).rewards.rewards, "<f4").reshape(2, -1)
        np.testing.assert_allclose(given, computed, rtol=1e-5, atol=1e-5)
        expected = oracle.rewards(THREE, [], CANDIDATES)
        torch.testing.assert_close(torch.tensor(given), expected, **TOLERANCE)
        call.cancel()


async def test_a_given_vector_is_what_scores(models: dict[Conditioning, PersRM]) -> None:
    """The generator's copy counts, so that swapping a user's vector is all it takes."""
    swapped = Oracle.of(conditioning=Conditioning.VECTOR).vector("Rhyme.").numpy()
    preference = WeightedPreference("Be brief.", 1.0, vector=swapped)
    what = RewardContext(CHAT, (preference,), Reference.BACKBONE)
    async with running_replica(models[Conditioning.VECTOR]) as replica:
        generator = replica.generator()
        await generator.open(1, what)
        await generator.open(2, context(("Rhyme.", 1.0)))
        one, two = await generator.score((1, 0, CANDIDATES), (2, 0, CANDIDATES))
        torch.testing.assert_close(one, two, **TOLERANCE)


@pytest.mark.parametrize("conditioning", list(Conditioning))
async def test_the_server_says_how_it_is_conditioned(
    models: dict[Conditioning, PersRM], conditioning: Conditioning
) -> None:
    async with running_service(models[conditioning]) as service:
        info = await service.stub.GetServerInfo(reward_pb2.RewardServiceGetServerInfoRequest())
        prompt, vector = reward_pb2.CONDITIONING_PROMPT, reward_pb2.CONDITIONING_VECTOR
        expected = {
            Conditioning.PROMPT: [prompt],
            Conditioning.VECTOR: [vector],
            Conditioning.BOTH: [prompt, vector],
        }
        assert list(info.conditionings) == expected[conditioning]


async def test_an_encoded_preference_also_warms_its_prompt_where_theta_reads_it(
    models: dict[Conditioning, PersRM],
) -> None:
    cached = {}
    for conditioning in WITH_VECTOR:
        async with running_service(models[conditioning]) as service:
            request = reward_pb2.EncodePreferenceRequest()
            request.preference.text = "Be brief."
            await service.stub.EncodePreference(request)
            opened = await service.replica.generator().open(1, BRIEF)
            cached[conditioning] = opened.num_cached_tokens
            assert service.replica.batcher.load.num_free_slots == 14
    assert cached[Conditioning.VECTOR] == 0
    assert cached[Conditioning.BOTH] > 100


@pytest.mark.parametrize("conditioning", WITH_VECTOR)
async def test_a_session_that_moves_to_another_replica_gets_the_same_greedy_tokens(
    conditioned: dict[Conditioning, RewardSettings], conditioning: Conditioning
) -> None:
    """Without Redis the other replica computes the vectors itself."""
    one, other = (load_pers_rm(conditioned[conditioning]) for _ in range(2))
    ids, tokens = list(range(10, 60)), []
    async with running_replica(one) as first, running_replica(other) as second:
        generator = first.generator()
        await generator.open(1, THREE)
        for step in range(10):
            (rewards,) = await generator.score((1, step, ids))
            assert isinstance(rewards, Tensor)
            tokens.append(ids[int(rewards.argmax())])
            await generator.commit((1, step, tokens[-1]))
        moved = second.generator()
        await moved.open(1, THREE, tokens[:4], epoch=1)
        for step in range(4, 10):
            (rewards,) = await moved.score((1, step, ids), epoch=1)
            assert isinstance(rewards, Tensor)
            assert ids[int(rewards.argmax())] == tokens[step]
            await moved.commit((1, step, tokens[step]), epoch=1)


async def test_two_replicas_encode_alike_to_the_last_bit(
    conditioned: dict[Conditioning, RewardSettings],
) -> None:
    one, other = (load_pers_rm(conditioned[Conditioning.VECTOR]) for _ in range(2))
    assert one.version == other.version
    async with running_replica(one) as first, running_replica(other) as second:
        await second.generator().open(1, THREE)  # rows of both groups have run there
        encoders = [
            PreferenceEncoder(replica.cache, replica.batcher) for replica in (first, second)
        ]
        vectors = [await encoder.encode("Be kind.") for encoder in encoders]
        assert vectors[0].dtype == np.float32
        assert vectors[0].tobytes() == vectors[1].tobytes()
