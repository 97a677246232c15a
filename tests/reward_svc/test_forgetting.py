"""A replica forgets users who were erased: prefixes, vectors, and what is still under way."""

import asyncio
from dataclasses import replace

import grpc
import pytest

from pad.v1 import common_pb2, reward_pb2
from reward_svc.forgetting import Forgetting
from reward_svc.model import PersRM
from reward_svc.pad_config import Conditioning
from reward_svc.prompts import RewardContext
from svc_common.lm.prefix_cache import PrefixCache
from svc_common.preference_prompt import ChatMessage
from tests.reward_svc.replica import context, running_replica
from tests.reward_svc.service import Service, running_service

ANN, BOB = b"ann", b"bob"
CANARY = "Sing of canaries that nobody else has heard of."
SHARED = "Be kind to all."  # other tests of the same models have wishes without an owner


def request(number: int, *texts: str) -> RewardContext:
    chat = (ChatMessage("user", f"Question {number}?"),)
    return context(*((text, 1.0) for text in texts), prompt=chat)


async def num_cached(service: Service, what: RewardContext, subject: bytes) -> int:
    """Open a session on a stream of its own; return how many tokens its prompts were spared."""
    stream = service.stub.Score()
    opening = service.open(1, what)
    opening.context.subject = subject
    await stream.write(reward_pb2.ScoreRequest(opens=[opening]))
    opened = (await stream.read()).opened[0]
    await stream.done_writing()
    while await stream.read() is not grpc.aio.EOF:
        pass
    return int(opened.num_cached_tokens)


async def test_forgotten_prefixes_are_read_anew_and_those_of_others_are_not(model: PersRM) -> None:
    async with running_service(model) as service:
        unknown = await num_cached(service, request(1, "Be brief."), BOB)
        await num_cached(service, request(2, CANARY), ANN)
        known = await num_cached(service, request(3, CANARY), ANN)
        others = await num_cached(service, request(4, "Be brief."), BOB)
        answer = await service.stub.Forget(reward_pb2.ForgetRequest(subjects=[ANN]))
        assert answer.num_prefix_tokens > 0
        forgotten = service.replica.sample("pad_reward_prefix_cache_forgotten_tokens_total")
        assert forgotten == answer.num_prefix_tokens
        hits = service.replica.sample("pad_reward_prefix_cache_hits_total")
        after = await num_cached(service, request(5, CANARY), b"eve")
        # The reference's prompt begins as everybody's does: one hit of two.
        assert service.replica.sample("pad_reward_prefix_cache_hits_total") == hits + 1
        assert unknown <= after < known
        assert await num_cached(service, request(6, "Be brief."), BOB) >= others
        again = await service.stub.Forget(reward_pb2.ForgetRequest(subjects=[ANN, b"nobody"]))
        assert again.num_prefix_tokens == 0


async def test_answer_under_way_keeps_nothing_after_its_user_was_erased(model: PersRM) -> None:
    async with running_service(model) as service:
        await num_cached(service, request(1, "Be brief."), BOB)
        await service.stub.Forget(reward_pb2.ForgetRequest(subjects=[ANN]))
        tokens = service.replica.sample("pad_reward_prefix_cache_tokens")
        await num_cached(service, request(2, CANARY), ANN)
        encode = reward_pb2.EncodePreferenceRequest(subject=ANN)
        encode.preference.CopyFrom(common_pb2.Preference(text=CANARY))
        await service.stub.EncodePreference(encode)
        assert service.replica.sample("pad_reward_prefix_cache_tokens") == tokens


async def test_encoded_preference_is_forgotten(model: PersRM) -> None:
    async with running_service(model) as service:
        encode = reward_pb2.EncodePreferenceRequest(subject=ANN)
        encode.preference.CopyFrom(common_pb2.Preference(text=CANARY))
        await service.stub.EncodePreference(encode)
        assert service.replica.cache.prefixes.num_tokens > 0
        await service.stub.Forget(reward_pb2.ForgetRequest(subjects=[ANN]))
        assert service.replica.cache.prefixes.num_tokens == 0


@pytest.mark.parametrize("conditioning", [Conditioning.VECTOR, Conditioning.BOTH])
async def test_vectors_are_forgotten_with_their_last_user(
    models: dict[Conditioning, PersRM], conditioning: Conditioning
) -> None:
    model = models[conditioning]
    assert model.vectors is not None
    kept = model.vectors._kept
    async with running_service(model) as service:
        for text, subject in ((CANARY, ANN), (SHARED, ANN), (SHARED, BOB)):
            await num_cached(service, request(1, text), subject)
        await service.stub.Forget(reward_pb2.ForgetRequest(subjects=[ANN]))
        assert (b"", CANARY) not in kept
        assert (b"", SHARED) in kept
        await service.stub.Forget(reward_pb2.ForgetRequest(subjects=[BOB]))
        assert (b"", SHARED) not in kept


@pytest.mark.parametrize(
    ("subjects", "message"),
    [
        ([], "subjects: must have 1..10000 entries, got 0"),
        ([b"x"] * 10_001, "subjects: must have 1..10000 entries, got 10001"),
        ([b"x", b""], "subjects[1]: must not be empty, got 0 bytes"),
        ([b"x" * 33], "subjects[0]: must have at most 32 bytes, got 33"),
    ],
)
async def test_wrong_subjects_are_refused(
    model: PersRM, subjects: list[bytes], message: str
) -> None:
    async with running_service(model) as service:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.stub.Forget(reward_pb2.ForgetRequest(subjects=subjects))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert caught.value.details() == message


async def test_replica_that_is_told_nothing_forgets_by_age(model: PersRM) -> None:
    async with running_replica(model) as replica:
        cache = replica.cache
        cache.prefixes = PrefixCache(1 << 22, max_age_s=0.0)
        await replica.generator().open(1, replace(request(1, CANARY), subject=ANN))
        assert cache.prefixes.num_tokens > 0
        forgetting = Forgetting(
            cache, replica.forgetting._thread, replica.forgetting._metrics, sweep_interval_s=0.01
        )
        sweeping = asyncio.create_task(forgetting.run())
        async with asyncio.timeout(20):
            while cache.prefixes.num_tokens:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        sweeping.cancel()
        await asyncio.wait((sweeping,))
