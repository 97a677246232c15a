"""Both clients against the fake server: one body of tests for the two."""

import asyncio
import gc
import inspect
from datetime import UTC, datetime
from typing import Any, get_type_hints

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
    GenerateOptions,
    GeneratorClient,
    InvalidRequestError,
    Message,
    Preference,
    ReferenceMode,
    Strategy,
)
from pad_client.enums import enum_member
from pad_client.errors import error_from_status
from pad_client.requests import build_request
from tests.client.fake_server import BASE_TOKENS, GUIDED_TOKENS, Failure, FakeServer

STATUSES = [
    ("INVALID_ARGUMENT", pad_client.InvalidRequestError, False),
    ("NOT_FOUND", pad_client.NotFoundError, False),
    ("ABORTED", pad_client.ConflictError, False),
    ("FAILED_PRECONDITION", pad_client.ModelMismatchError, False),
    ("UNAUTHENTICATED", pad_client.AccessDeniedError, False),
    ("PERMISSION_DENIED", pad_client.AccessDeniedError, False),
    ("RESOURCE_EXHAUSTED", pad_client.OverloadedError, True),
    ("UNAVAILABLE", pad_client.UnavailableError, True),
    ("DEADLINE_EXCEEDED", pad_client.DeadlineExceededError, False),
    ("CANCELLED", pad_client.RequestCancelledError, False),
    ("INTERNAL", pad_client.InternalError, False),
    ("UNIMPLEMENTED", pad_client.PadError, False),
]


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


@pytest.mark.parametrize(("status", "kind", "is_retryable"), STATUSES)
async def test_status_becomes_its_error(
    client: Any, fake: FakeServer, status: str, kind: type[Exception], is_retryable: bool
) -> None:
    fake.failure = Failure(grpc.StatusCode[status], "beta: must be 0..10, got 11")
    for call in (
        client.complete(prompt="Hi"),
        anext(client.generate(prompt="Hi")),
        client.get_profile("alice"),
    ):
        with pytest.raises(pad_client.PadError) as caught:
            await call
        assert type(caught.value) is kind
        assert caught.value.code is grpc.StatusCode[status]
        assert caught.value.message == str(caught.value) == "beta: must be 0..10, got 11"
        assert caught.value.retryable is is_retryable
        assert caught.value.retry_after_s is None


async def test_retry_delay_is_read_from_the_trailing_metadata(
    client: Any, fake: FakeServer
) -> None:
    fake.failure = Failure(grpc.StatusCode.RESOURCE_EXHAUSTED, "queue: full", pushback_ms="1500")
    for call in (client.complete(prompt="Hi"), anext(client.generate(prompt="Hi"))):
        with pytest.raises(pad_client.OverloadedError) as caught:
            await call
        assert (caught.value.retryable, caught.value.retry_after_s) == (True, 1.5)


@pytest.mark.parametrize("value", ["-1", "soon"])
def test_pushback_that_is_negative_or_unreadable_forbids_a_retry(value: str) -> None:
    error = error_from_status(grpc.StatusCode.UNAVAILABLE, "", [("grpc-retry-pushback-ms", value)])
    assert (error.retryable, error.retry_after_s, error.message) == (False, None, "UNAVAILABLE")


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


async def test_server_that_is_not_there_is_unavailable_with_a_hint() -> None:
    with (
        GeneratorClient("127.0.0.1:1") as client,
        pytest.raises(pad_client.UnavailableError) as caught,
    ):
        await asyncio.to_thread(client.server_info)
    assert "pad up" in caught.value.hint


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


@pytest.mark.parametrize("timeout_s", [0, -1, float("inf"), float("nan")])
async def test_timeout_that_is_none_is_refused(client: Any, timeout_s: float) -> None:
    with pytest.raises(InvalidRequestError, match="timeout_s"):
        await client.complete(prompt="Hi", timeout_s=timeout_s)


async def test_closing_a_stream_cancels_it_on_the_server(client: Any, fake: FakeServer) -> None:
    fake.hang_after = 2
    stream = client.generate(prompt="Hi")
    await anext(stream)
    await stream.aclose()
    await asyncio.wait_for(fake.cancelled.wait(), 5)
    with pytest.raises(pad_client.RequestCancelledError):
        async for _ in stream:
            pass


async def test_leaving_the_block_cancels_on_the_server(client: Any, fake: FakeServer) -> None:
    fake.hang_after = 2

    async def consume() -> None:
        async with client.generate(prompt="Hi") as stream:
            async for _ in stream:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await consume()
    await asyncio.wait_for(fake.cancelled.wait(), 5)


async def test_breaking_out_of_the_loop_cancels_on_the_server(
    client: Any, fake: FakeServer
) -> None:
    fake.hang_after = 2
    gc.disable()  # the reference alone must do
    try:
        async for _ in client.generate(prompt="Hi"):
            break
        await asyncio.wait_for(fake.cancelled.wait(), 5)
    finally:
        gc.enable()


async def test_consumer_that_raises_cancels_on_the_server(client: Any, fake: FakeServer) -> None:
    fake.hang_after = 2

    async def consume() -> None:
        async for _ in client.generate(prompt="Hi"):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await consume()
    await asyncio.wait_for(fake.cancelled.wait(), 5)


async def test_dropping_the_stream_unread_cancels_on_the_server(
    client: Any, fake: FakeServer
) -> None:
    fake.hang_after = 2
    stream = client.generate(prompt="Hi")
    await anext(stream)
    del stream
    await asyncio.wait_for(fake.cancelled.wait(), 5)


async def test_cancelling_the_waiting_task_cancels_on_the_server(
    address: str, fake: FakeServer
) -> None:
    fake.hang_after = 1
    async with AsyncGeneratorClient(address) as client:
        stream = client.generate(prompt="Hi")
        await anext(stream)
        waiting = asyncio.ensure_future(anext(stream))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await asyncio.wait_for(fake.cancelled.wait(), 5)


async def test_closing_the_client_closes_only_what_it_opened(address: str) -> None:
    async with grpc.aio.insecure_channel(address) as channel:
        async with AsyncGeneratorClient(channel) as client:
            await client.server_info()
        await AsyncGeneratorClient(channel).server_info()
    async with AsyncGeneratorClient(address) as client:
        await client.server_info()
    with pytest.raises(grpc.aio.UsageError):
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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "prompt, messages: exactly one"),
        ({"prompt": "a", "messages": []}, "prompt, messages: exactly one"),
        ({"prompt": "a", "preferences": "Be brief."}, "preferences: must be a list"),
        ({"prompt": "a", "stop": "x"}, "stop: must be a list"),
        ({"prompt": "a", "top_k": -1}, "top_k: out of the field's range, got -1"),
        ({"prompt": "a", "seed": 2**64}, "seed: out of the field's range"),
        ({"prompt": "a", "strategy": "best"}, "strategy: must be one of base, prompt, pad, "),
        ({"prompt": "a", "fallback": "never"}, "fallback: must be one of fail, unguided, got"),
    ],
)
def test_what_the_wire_cannot_carry_is_refused(options: Any, message: str) -> None:
    with pytest.raises(InvalidRequestError, match=message):
        build_request(**options)


def test_misspelt_option_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="betta"):
        build_request(prompt="a", betta=1.0)  # type: ignore[call-arg]


def test_options_are_the_arguments_of_a_request() -> None:
    assert get_type_hints(GenerateOptions) == {
        name: hint for name, hint in get_type_hints(build_request).items() if name != "return"
    }


def test_options_are_the_fields_of_the_contract() -> None:
    fields = set(generator_pb2.GenerateRequest.DESCRIPTOR.fields_by_name)
    assert set(GenerateOptions.__annotations__) == fields - {"chat"} | {"messages"}


@pytest.mark.parametrize(
    ("enum", "wire_enum"),
    [
        (Strategy, generator_pb2.Strategy),
        (FallbackPolicy, generator_pb2.FallbackPolicy),
        (Detail, generator_pb2.Detail),
        (FinishReason, generator_pb2.FinishReason),
        (ReferenceMode, common_pb2.ReferenceMode),
    ],
)
def test_enums_are_those_of_the_contract(enum: Any, wire_enum: Any) -> None:
    known = {enum_member(enum, wire_enum.DESCRIPTOR, number) for number in wire_enum.values()}
    assert known == set(enum) | {None}  # None: unspecified


def test_number_of_a_newer_server_is_none() -> None:
    assert enum_member(Strategy, generator_pb2.Strategy.DESCRIPTOR, 99) is None


def test_both_clients_have_the_same_methods_and_arguments() -> None:
    def methods(client: type) -> dict[str, list[str]]:
        return {
            name.removeprefix("a") if name == "aclose" else name: list(
                inspect.signature(member).parameters
            )
            for name, member in vars(client).items()
            if inspect.isfunction(member) and not name.startswith("_")
        }

    assert methods(GeneratorClient) == methods(AsyncGeneratorClient)
