"""Which encodings and texts are refused, and which vectors a replica keeps."""

import grpc
import numpy as np
import pytest
import torch
from torch import Tensor

from pad.v1 import common_pb2, reward_pb2
from reward_svc.model import PersRM
from reward_svc.pad_config import Conditioning
from reward_svc.preference_vectors import PreferenceVectors
from reward_svc.prompts import Term, WeightedPreference
from tests.reward_svc.oracle import random_preference_head
from tests.reward_svc.replica import BRIEF, context
from tests.reward_svc.service import pack, running_service

WITH_VECTOR = [Conditioning.VECTOR, Conditioning.BOTH]


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        (b"abc", "preferences[0].encoding: must hold 64 numbers of 4 bytes (w_p, then b_p) or"),
        (pack([1] * 32), "preferences[0].encoding: must hold 64 numbers of 4 bytes"),
        (
            np.array([1.0] * 63 + [np.nan], "<f4").tobytes(),
            "preferences[0].encoding: must hold finite numbers, got nan at 63",
        ),
        (
            np.array([-np.inf] + [1.0] * 63, "<f4").tobytes(),
            "preferences[0].encoding: must hold finite numbers, got -inf at 0",
        ),
    ],
)
async def test_an_encoding_that_is_no_vector_of_this_model_is_refused_by_name(
    models: dict[Conditioning, PersRM], encoding: bytes, message: str
) -> None:
    async with running_service(models[Conditioning.VECTOR]) as service:
        bad = service.open(1, BRIEF)
        bad.context.preferences[0].encoding = encoding
        call = service.stub.Score()
        await call.write(reward_pb2.ScoreRequest(opens=[bad, service.open(2, BRIEF)]))
        (error,) = (await call.read()).row_errors
        assert (error.session, error.reason) == (1, reward_pb2.ROW_ERROR_REASON_INVALID)
        assert message in error.message
        assert (await call.read()).opened[0].session == 2
        call.cancel()
        request = reward_pb2.ScoreSequencesRequest(
            context=bad.context, sequences=[b""], tokenizer_fingerprint=service.fingerprint
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.stub.ScoreSequences(request)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert message in str(caught.value.details())


@pytest.mark.parametrize("conditioning", WITH_VECTOR)
@pytest.mark.parametrize("text", ["Hi <|end|>", "x" * 250])
async def test_a_preference_that_cannot_be_encoded_is_refused_with_or_without_its_encoding(
    models: dict[Conditioning, PersRM], conditioning: Conditioning, text: str
) -> None:
    async with running_service(models[conditioning]) as service:
        request = reward_pb2.EncodePreferenceRequest(preference=common_pb2.Preference(text=text))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.stub.EncodePreference(request)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        opens = [service.open(number, context((text, 1.0))) for number in (1, 2)]
        opens[1].context.preferences[0].encoding = np.ones(64, "<f4").tobytes()
        call = service.stub.Score()
        await call.write(reward_pb2.ScoreRequest(opens=opens))
        for number in (1, 2):
            (error,) = (await call.read()).row_errors
            assert (error.session, error.reason) == (number, reward_pb2.ROW_ERROR_REASON_INVALID)
            assert "text: must" in error.message or "context: must" in error.message
        call.cancel()


class CountingEncoder:
    """Embeds a text as its length, and counts how often it was asked."""

    size, fingerprint = 8, "counting"

    def __init__(self) -> None:
        self.texts: list[str] = []

    def check(self, field: str, text: str) -> None: ...

    def encode(self, texts: list[str]) -> Tensor:
        self.texts += texts
        return torch.tensor([[len(text) ** i % 7 for i in range(8)] for text in texts]).float()


def test_the_vectors_used_last_are_kept_and_no_more_than_allowed() -> None:
    encoder = CountingEncoder()
    vectors = PreferenceVectors(encoder, random_preference_head(8), "v", max_kept=2)

    def run(*texts: str) -> Tensor:
        terms = [Term(0, 1.0, WeightedPreference(text, 1.0)) for text in texts]
        steps = vectors.of_terms([*terms, Term(1, -1.0)])
        while True:
            try:
                assert next(steps) > 0
            except StopIteration as stop:
                result: Tensor = stop.value
                return result

    first = run("a", "bb")
    assert first.shape == (2, 64)
    assert torch.equal(run("bb", "a"), first.flip(0))
    assert encoder.texts == ["a", "bb"]
    run("ccc")  # "bb" goes, "a" was used later
    run("a", "bb")
    assert encoder.texts == ["a", "bb", "ccc", "bb"]
    preference = WeightedPreference("a", 1.0, vector=np.zeros(64, np.float32))
    with pytest.raises(StopIteration) as stopped:
        next(vectors.of_terms([Term(0, 1.0, preference)]))
    assert not stopped.value.value.any()
    assert torch.equal(run("a"), first[:1])  # what a caller gives is not kept for others
