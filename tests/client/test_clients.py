"""Both clients against the fake server: one body of tests for the two."""

import asyncio
import gc
from datetime import UTC, datetime
from typing import Any

import grpc
import grpc.aio
import pytest

import pad_client
from pad.v1 import common_pb2, generator_pb2
from pad_client import (
    AsyncGeneratorClient,
    Detail,
    FallbackPolicy,
    FinishReason,
    GeneratorClient,
    InvalidRequestError,
    Message,
    Preference,
    Strategy,
)
from tests.client.fake_server import BASE_TOKENS, GUIDED_TOKENS, Failure, FakeServer


async def test_stream_gives_every_token_then_the_summary(client: Any) -> None:
    async with client.generate(prompt="Hi", user_id="alice", seed=7) as stream:
        tokens = [token async for token in stream]
    assert tuple(token.text for token in tokens) == GUIDED_TOKENS
    assert [token.index for token in tokens] == list(range(len(GUIDED_TOKENS)))
    assert [token.text for token in tokens if token.changed] == ["Sure", ", what", " would", "!"]
    assert all(token.guided and token.candidates == () for token in tokens)
    summary = stream.summary
    assert summary.finish_reason is FinishReason.END_OF_TURN
    assert summary.strategy is Strategy.PAD
    assert (summary.num_tokens, summary.num_changed_tokens, summary.seed) == (9, 4, 7)
    assert summary.timings.total_s == pytest.approx(0.18)


async def test_summary_before_the_last_token_is_an_error(client: Any) -> None:
    async with client.generate(prompt="Hi") as stream:
        await anext(stream)
        with pytest.raises(RuntimeError, match="after the last token"):
            _ = stream.summary


async def test_complete_gives_what_the_stream_gives(client: Any) -> None:
    completion = await client.complete(prompt="Hi", user_id="alice")
    async with client.generate(prompt="Hi", user_id="alice") as stream:
        assert completion.tokens == tuple([token async for token in stream])
    assert completion.text == "".join(GUIDED_TOKENS)
    assert completion.summary == stream.summary


async def test_candidates_come_with_detail(client: Any) -> None:
    completion = await client.complete(prompt="Hi", detail=Detail.CANDIDATES)
    assert completion.tokens[0].candidates[0].text == BASE_TOKENS[0]
    assert completion.tokens[0].candidates[0].score == -0.25


async def test_every_field_reaches_the_server(client: Any, fake: FakeServer) -> None:
    await client.complete(
        messages=[Message("system", "s"), Message("user", "u")],
        user_id="alice",
        preferences=["Be brief.", Preference("Be kind.", weight=0.5)],
        beta=0.0,
        top_k=5,
        temperature=0.0,
        top_p=0.9,
        seed=0,
        max_tokens=12,
        stop=["\n"],
        strategy=Strategy.PAD,
        reference="base",
        fallback=FallbackPolicy.UNGUIDED,
        detail="candidates",
        num_samples=3,
        preference_in_base_prompt=True,
        ignore_end_of_turn=True,
    )
    assert fake.requests == [
        generator_pb2.GenerateRequest(
            chat=common_pb2.Chat(
                messages=[
                    common_pb2.ChatMessage(role="system", content="s"),
                    common_pb2.ChatMessage(role="user", content="u"),
                ]
            ),
            user_id="alice",
            preferences=[
                common_pb2.Preference(text="Be brief."),
                common_pb2.Preference(text="Be kind.", weight=0.5),
            ],
            beta=0.0,
            top_k=5,
            temperature=0.0,
            top_p=0.9,
            seed=0,
            max_tokens=12,
            stop=["\n"],
            strategy=generator_pb2.STRATEGY_PAD,
            reference=common_pb2.REFERENCE_MODE_BASE,
            fallback=generator_pb2.FALLBACK_POLICY_UNGUIDED,
            detail=generator_pb2.DETAIL_CANDIDATES,
            num_samples=3,
            preference_in_base_prompt=True,
            ignore_end_of_turn=True,
        )
    ]


async def test_what_is_left_out_stays_absent(client: Any, fake: FakeServer) -> None:
    await client.complete(prompt="Hi")
    assert fake.requests == [generator_pb2.GenerateRequest(prompt="Hi")]


async def test_server_info_lists_replicas(client: Any) -> None:
    info = await client.server_info()
    assert (info.model_id, info.max_top_k, info.default_beta) == ("demo-base", 100, 1.5)
    assert [each.address for each in info.reward_replicas] == ["127.0.0.1:50052"]


async def test_profile_is_put_read_listed_and_deleted(client: Any) -> None:
    stored = await client.put_profile("alice", ["Be brief.", Preference("Be kind.", 2.0)], beta=2.5)
    assert stored == await client.get_profile("alice")
    assert stored.preferences == (Preference("Be brief."), Preference("Be kind.", 2.0))
    assert (stored.beta, stored.revision) == (2.5, 1)
    assert stored.updated_at == datetime.fromtimestamp(1_700_000_000, UTC)
    again = await client.put_profile("alice", ["Be brief."], expected_revision=1)
    assert (again.beta, again.revision) == (None, 2)
    await client.delete_profile("alice", expected_revision=2)
    with pytest.raises(pad_client.NotFoundError):
        await client.get_profile("alice")


async def test_stale_write_is_a_conflict(client: Any) -> None:
    await client.put_profile("alice", ["Be brief."], expected_revision=0)
    with pytest.raises(pad_client.ConflictError, match="is 1"):
        await client.put_profile("alice", ["Be long."], expected_revision=0)


async def test_listing_goes_through_all_pages(client: Any) -> None:
    users = [f"user{number}" for number in range(7)]
    for user in users:
        await client.put_profile(user, ["Be brief."])
    for page_size in (1, 3, 7, 100):
        listed = [profile.user_id async for profile in client.list_profiles(page_size=page_size)]
        assert listed == users


async def test_listing_ends_with_the_users_whose_profiles_are_damaged(
    client: Any, fake: FakeServer
) -> None:
    await client.put_profile("alice", ["Be brief."])
    fake.damaged = ("bob", "carol")
    profiles = client.list_profiles()
    assert (await anext(profiles)).user_id == "alice"
    with pytest.raises(pad_client.DamagedProfileError, match="2 users are damaged: bob, carol"):
        await anext(profiles)


async def test_error_in_mid_stream_comes_after_the_tokens_before_it(
    client: Any, fake: FakeServer
) -> None:
    fake.failure, fake.failure_after = Failure(grpc.StatusCode.UNAVAILABLE, "gone"), 3
    stream = client.generate(prompt="Hi")
    assert tuple([(await anext(stream)).text for _ in range(3)]) == BASE_TOKENS[:3]
    with pytest.raises(pad_client.UnavailableError, match="gone"):
        await anext(stream)


async def test_stream_without_a_summary_is_an_internal_error(client: Any, fake: FakeServer) -> None:
    fake.has_summary = False
    with pytest.raises(pad_client.InternalError, match="without a summary"):
        async for _ in client.generate(prompt="Hi"):
            pass


async def test_timeout_ends_the_call_on_both_sides(client: Any, fake: FakeServer) -> None:
    fake.hang_after = 0
    with pytest.raises(pad_client.DeadlineExceededError):
        await client.complete(prompt="Hi", timeout_s=0.2)
    await asyncio.wait_for(fake.cancelled.wait(), 5)
    fake.cancelled.clear()
    with pytest.raises(pad_client.DeadlineExceededError):
        await anext(client.generate(prompt="Hi", timeout_s=0.2))
    await asyncio.wait_for(fake.cancelled.wait(), 5)


async def test_every_call_carries_a_deadline(client: Any, fake: FakeServer) -> None:
    await client.complete(prompt="Hi")
    await client.complete(prompt="Hi", timeout_s=3)
    assert 10 < fake.time_remaining_s[0] < 21
    assert fake.time_remaining_s[1] < 4


async def test_a_closed_client_says_so(address: str, recwarn: pytest.WarningsRecorder) -> None:
    """gRPC's own errors said nothing of it, and its stream failed once more when it was dropped."""
    loop = AsyncGeneratorClient(address)
    await loop.aclose()
    with pytest.raises(RuntimeError, match="the client is closed"):
        await loop.complete(prompt="Hi")
    with pytest.raises(RuntimeError, match="the client is closed"):
        loop.generate(prompt="Hi")
    threads = GeneratorClient(address)
    threads.close()
    with pytest.raises(RuntimeError, match="the client is closed"):
        threads.server_info()
    with pytest.raises(RuntimeError, match="the client is closed"):
        threads.generate(prompt="Hi")
    async with grpc.aio.insecure_channel(address) as channel:
        lent = AsyncGeneratorClient(channel)
        await lent.aclose()
        await lent.server_info()  # the channel is its caller's to close
    with pytest.raises(grpc.aio.UsageError):
        lent.generate(prompt="Hi")
    gc.collect()
    assert not recwarn.list


@pytest.mark.parametrize("timeout_s", [0, -1, float("inf"), float("nan"), 1e10])
async def test_timeout_that_is_none_is_refused(client: Any, timeout_s: float) -> None:
    with pytest.raises(InvalidRequestError, match="timeout_s"):
        await client.complete(prompt="Hi", timeout_s=timeout_s)


async def test_closing_the_client_closes_only_what_it_opened(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        async with AsyncGeneratorClient(channel) as client:
            await client.server_info()
        await AsyncGeneratorClient(channel).server_info()
    async with AsyncGeneratorClient(address) as client:
        await client.server_info()
    with pytest.raises(RuntimeError, match="the client is closed"):
        await client.server_info()


async def test_sync_client_leaves_a_given_channel_open(address: str) -> None:
    with grpc.insecure_channel(address) as channel:
        with GeneratorClient(channel) as client:
            await asyncio.to_thread(client.server_info)
        await asyncio.to_thread(GeneratorClient(channel).server_info)
    with pytest.raises(ValueError, match="closed channel"):
        client.server_info()


async def test_metadata_goes_with_every_call(address: str, fake: FakeServer) -> None:
    metadata = [("authorization", "Bearer x")]
    async with AsyncGeneratorClient(address, metadata=metadata) as client:
        await client.complete(prompt="Hi")
    with GeneratorClient(address, metadata=metadata) as threaded:
        await asyncio.to_thread(threaded.complete, prompt="Hi")
    assert [sent["authorization"] for sent in fake.metadata] == ["Bearer x"] * 2
