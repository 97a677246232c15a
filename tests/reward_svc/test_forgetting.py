"""A replica forgets users who were erased: prefixes, vectors, and what is still under way."""

import asyncio
from collections.abc import Awaitable
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
from tests.reward_svc.test_expired_work import Busy

ANN, BOB = b"ann", b"bob"
CANARY = "Sing of canaries that nobody else has heard of."
SHARED = "Be kind to all."  # other tests of the same models have wishes without an owner


def request(number: int, *texts: str) -> RewardContext:
    chat = (ChatMessage("user", f"Question {number}?"),)
    return context(*((text, 1.0) for text in texts), prompt=chat)


def encode_request(text: str, subject: bytes) -> reward_pb2.EncodePreferenceRequest:
    preference = common_pb2.Preference(text=text)
    return reward_pb2.EncodePreferenceRequest(preference=preference, subject=subject)


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
        await service.stub.EncodePreference(encode_request(CANARY, ANN))
        assert service.replica.sample("pad_reward_prefix_cache_tokens") == tokens


async def test_encoded_preference_is_forgotten(model: PersRM) -> None:
    async with running_service(model) as service:
        await service.stub.EncodePreference(encode_request(CANARY, ANN))
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


@pytest.mark.parametrize("conditioning", [Conditioning.VECTOR, Conditioning.BOTH])
@pytest.mark.parametrize("way", ["encoding", "session"])
async def test_what_waited_while_its_user_was_erased_leaves_nothing(
    models: dict[Conditioning, PersRM], conditioning: Conditioning, way: str
) -> None:
    """Its vector was kept for up to an hour: only what was there already was forgotten."""
    model, wish = models[conditioning], f"Whistle ({way})."
    hers, his = f"{way} of hers".encode(), f"{way} of his".encode()
    assert model.vectors is not None
    async with running_service(model) as service:
        batcher, thread = service.replica.batcher, service.replica.forgetting._thread
        busy = Busy(batcher)
        await busy.begin()
        asked: Awaitable[object] = (
            service.stub.EncodePreference(encode_request(wish, hers))
            if way == "encoding"
            else num_cached(service, request(1, wish), hers)
        )
        work = asyncio.ensure_future(asked)
        while batcher.intake.is_empty and len(batcher._jobs) < 2:
            await service.free_slots()  # an RPC round trip each time
        forgetting = asyncio.ensure_future(
            service.stub.Forget(reward_pb2.ForgetRequest(subjects=[hers]))
        )
        while thread._num_unfinished < 2:
            await service.free_slots()
        await busy.end()
        await asyncio.gather(work, forgetting)
        assert (b"", wish) not in model.vectors._kept
        assert service.replica.cache.prefixes.num_tokens == 0
        # Nor is she an owner of what somebody else's request keeps meanwhile.
        await num_cached(service, request(2, wish), his)
        assert (b"", wish) in model.vectors._kept
        await num_cached(service, request(3, wish), hers)
        await service.stub.Forget(reward_pb2.ForgetRequest(subjects=[his]))
        assert (b"", wish) not in model.vectors._kept


async def test_an_encoding_whose_caller_gave_up_is_not_made(
    models: dict[Conditioning, PersRM],
) -> None:
    model, wish = models[Conditioning.VECTOR], "Hum."
    assert model.vectors is not None
    async with running_service(model) as service:
        busy = Busy(service.replica.batcher)
        await busy.begin()
        with pytest.raises(grpc.aio.AioRpcError, match="DEADLINE_EXCEEDED"):
            await service.stub.EncodePreference(encode_request(wish, BOB), timeout=0.2)
        await service.free_slots()  # a call later the server has noticed, too
        await busy.end()
        await service.replica.settle()
        assert (b"", wish) not in model.vectors._kept


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
