"""What the RewardService refuses before any work is done for it, over real gRPC."""

from dataclasses import replace
from typing import Any

import grpc
import pytest

from pad.v1 import common_pb2, reward_pb2
from reward_svc.messages import Reason
from reward_svc.model import PersRM
from reward_svc.prompts import RewardContext
from svc_common.lm.tokenizer import Tokenizer
from svc_common.preference_prompt import ChatMessage
from tests.reward_svc.replica import BRIEF
from tests.reward_svc.service import context_message, running_service

HUGE = 100_000  # characters, far above what 256 tokens can be
TURN = ChatMessage("user", "x" * 2000)  # fewer than 256 tokens could have


@pytest.fixture
def untouched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no prompt become tokens: 15 MB of it held the service for half a minute."""

    def encode_prompt(*_: object) -> list[int]:
        raise AssertionError("a prompt was tokenised")

    monkeypatch.setattr(Tokenizer, "encode_prompt", encode_prompt)


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("x" * HUGE, "prompt: must fit in 256 tokens, got 100000 characters"),
        (
            (ChatMessage("user", "x" * HUGE),),
            "chat.messages[0].content: must fit in 256 tokens, got 100000 characters",
        ),
        ((TURN,) * 50, "chat.messages: must fit in 256 tokens, got 100000 characters"),
        (
            (ChatMessage("user", ""),) * 257,
            "chat.messages: must have at most 256 entries, got 257",
        ),
    ],
)
async def test_what_cannot_fit_is_refused_by_its_length(
    model: PersRM, prompt: str | tuple[ChatMessage, ...], message: str
) -> None:
    what: RewardContext = replace(BRIEF, prompt=prompt)
    async with running_service(model) as service:
        request = reward_pb2.ScoreSequencesRequest(
            context=context_message(what),
            sequences=[b""],
            tokenizer_fingerprint=service.fingerprint,
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.stub.ScoreSequences(request)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details() == message
        call = service.stub.Score()
        await call.write(reward_pb2.ScoreRequest(opens=[service.open(1, what)]))
        (fault,) = (await call.read()).row_errors
        assert (fault.reason, fault.message) == (Reason.INVALID.value, message)
        call.cancel()


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("method", ["EncodePreference", "ScoreSequences"])
async def test_a_preference_that_cannot_fit_is_refused_by_its_length(
    model: PersRM, method: str
) -> None:
    stated = common_pb2.Preference(text="x" * 2000)
    small = replace(model, context_length=8)
    context = context_message(BRIEF)
    context.preferences[0].preference.CopyFrom(stated)
    requests = {
        "EncodePreference": reward_pb2.EncodePreferenceRequest(preference=stated),
        "ScoreSequences": reward_pb2.ScoreSequencesRequest(
            context=context,
            sequences=[b""],
            tokenizer_fingerprint=model.tokenizer.fingerprint,
        ),
    }
    async with running_service(small) as service:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await getattr(service.stub, method)(requests[method])
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "text: must fit in 8 tokens, got 2000 characters" in str(caught.value.details())


async def test_a_session_refused_at_the_door_is_counted(model: PersRM) -> None:
    """Such refusals were answered and left the metric at 0."""
    async with running_service(model) as service:
        opening = service.open(1, BRIEF)
        opening.tokenizer_fingerprint = "x" * 1_000_000
        call = service.stub.Score()
        await call.write(reward_pb2.ScoreRequest(opens=[opening]))
        (fault,) = (await call.read()).row_errors
        assert fault.reason == Reason.MODEL_MISMATCH.value
        assert len(fault.message) < 200
        name = "pad_reward_row_errors_total"
        assert service.replica.sample(name, reason="model_mismatch") == 1
        call.cancel()


async def test_a_text_of_the_caller_is_cut_in_the_message(model: PersRM) -> None:
    """A status with all of it did not fit into gRPC's metadata, so that none arrived."""
    context = context_message(replace(BRIEF, prompt=(TURN,)))
    context.chat.messages[0].role = "r" * 100_000
    async with running_service(model) as service:
        mine = service.fingerprint
        for fingerprint, code, start in (
            ("f" * 1_000_000, grpc.StatusCode.FAILED_PRECONDITION, "tokenizer_fingerprint: must"),
            (mine, grpc.StatusCode.INVALID_ARGUMENT, "chat.messages[0].role: must be"),
        ):
            request = reward_pb2.ScoreSequencesRequest(
                context=context, sequences=[b""], tokenizer_fingerprint=fingerprint
            )
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await service.stub.ScoreSequences(request)
            assert caught.value.code() is code
            details = str(caught.value.details())
            assert details.startswith(start)
            assert len(details) < 200


async def test_a_malformed_message_of_the_stream_is_refused(model: PersRM) -> None:
    async with running_service(model) as service:
        raw: Any = service.channel.stream_stream("/pad.v1.RewardService/Score")()
        await raw.write(b"\xff\xff")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await raw.read()
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
