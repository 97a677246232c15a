"""The unary RPCs over real gRPC."""

import grpc
import numpy as np
import pytest
import torch

from pad.v1 import common_pb2, reward_pb2
from reward_svc.model import PersRM
from reward_svc.prompts import encode_preference
from tests.reward_svc.oracle import Oracle
from tests.reward_svc.replica import BRIEF, TOLERANCE
from tests.reward_svc.service import candidate_rows, context_message, pack, running_service

CANDIDATES = [7, 99, 30, 140]


async def test_answers_are_scored_whole(model: PersRM, oracle: Oracle) -> None:
    async with running_service(model) as service:
        request = reward_pb2.ScoreSequencesRequest(
            context=context_message(BRIEF),
            sequences=[pack([70, 71]), b"", pack([72])],
            tokenizer_fingerprint=service.fingerprint,
        )
        rewards = (await service.stub.ScoreSequences(request)).rewards
        assert len(rewards) == 3
        assert rewards[1] == 0.0
        for change, message in (
            ({"sequences": []}, "sequences: must be 1..16, got 0"),
            ({"sequences": [b""] * 17}, "sequences: must be 1..16, got 17"),
            ({"sequences": [b"abc"]}, "sequences[0]: must hold 4 bytes a number"),
            ({"sequences": [pack([262])]}, "sequences[0]: must be 0..261, got 262"),
            ({"sequences": [pack([1] * 250)]}, "sequences[0]: must have at most 256 tokens"),
        ):
            bad = reward_pb2.ScoreSequencesRequest(
                context=context_message(BRIEF), tokenizer_fingerprint=service.fingerprint, **change
            )
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await service.stub.ScoreSequences(bad)
            assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert message in str(caught.value.details())


async def test_a_preference_is_encoded_once_and_used_by_its_sessions(
    model: PersRM, oracle: Oracle
) -> None:
    async with running_service(model) as service:
        preference = common_pb2.Preference(text="Be brief.", weight=99.0)
        preference.ClearField("weight")
        request = reward_pb2.EncodePreferenceRequest(preference=preference)
        encoded = await service.stub.EncodePreference(request)
        token_ids = encode_preference("Be brief.", model.tokenizer)
        assert encoded.encoding == pack(token_ids)
        assert encoded.conditioning == reward_pb2.CONDITIONING_PROMPT
        assert encoded.model_version == model.version
        opening = service.open(1, BRIEF)
        opening.context.preferences[0].encoding = encoded.encoding
        call = service.stub.Score()
        await call.write(reward_pb2.ScoreRequest(opens=[opening]))
        opened = (await call.read()).opened[0]
        assert opened.num_cached_tokens == len(token_ids)
        asked = candidate_rows((1, 0, CANDIDATES))
        await call.write(reward_pb2.ScoreRequest(candidates=asked, batch_id=1))
        rewards = torch.tensor(np.frombuffer((await call.read()).rewards.rewards, "<f4"))
        torch.testing.assert_close(rewards, oracle.rewards(BRIEF, [], CANDIDATES), **TOLERANCE)
        call.cancel()


async def test_the_server_says_what_it_serves(model: PersRM) -> None:
    async with running_service(model) as service:
        info = await service.stub.GetServerInfo(reward_pb2.RewardServiceGetServerInfoRequest())
        assert info.model_id == "theta"
        assert info.model_version == model.version
        assert info.tokenizer_fingerprint == service.fingerprint
        assert (info.vocabulary_size, info.context_length, info.num_slots) == (262, 256, 16)
        assert list(info.conditionings) == [reward_pb2.CONDITIONING_PROMPT]
        assert list(info.references) == [
            common_pb2.REFERENCE_MODE_BACKBONE,
            common_pb2.REFERENCE_MODE_BASE,
        ]
        assert info.load.num_free_slots == 16
        assert info.software_version == "1.2.3"
