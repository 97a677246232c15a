"""Calls of a server that is gone, or going, are sent to another; answers that began never are."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2_grpc

import pad_client
from pad_client import AsyncGeneratorClient, GeneratorClient
from pad_client.addresses import grpc_target
from pad_client.retries import MAX_ATTEMPTS, MAX_REPEATS, Attempts, RetryBudget
from svc_common.health import Health
from tests.client.conftest import ThreadedClient
from tests.client.fake_server import BASE_TOKENS, Failure, FakeServer, add_to_server

TEXT = "".join(BASE_TOKENS)
STOPPING = Failure(grpc.StatusCode.UNAVAILABLE, "server: is stopping", pushback_ms="500")
NO_REWARDS = Failure(grpc.StatusCode.UNAVAILABLE, "reward service: none", pushback_ms="1000")


class Member:
    """One of several servers, with health as the services have it."""

    def __init__(self) -> None:
        self.fake = FakeServer()
        self.health = Health(["pad.v1.GeneratorService"])
        self.health.set_serving(True)
        self.server = grpc.aio.server()
        add_to_server(self.fake, self.server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.server)
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"


@pytest.fixture
async def members() -> AsyncIterator[list[Member]]:
    members = [Member(), Member()]
    for member in members:
        await member.server.start()
    yield members
    for member in members:
        member.health.drain()
        await member.server.stop(None)


@pytest.fixture(params=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Callable[[Sequence[str]], Any]:
    def connected(target: Sequence[str]) -> Any:
        if request.param == "async":
            return AsyncGeneratorClient(target, timeout_s=20)
        return ThreadedClient(GeneratorClient(target, timeout_s=20))

    return connected


async def close(client: Any) -> None:
    await (client.aclose() if isinstance(client, AsyncGeneratorClient) else client.close())


async def read(client: Any) -> str:
    async with client.generate(prompt="Hi") as stream:
        return "".join([token.text async for token in stream])


async def test_several_servers_take_calls_in_turn(
    connect: Callable[..., Any], members: list[Member]
) -> None:
    client = connect([member.address for member in members])
    while not all(member.fake.requests for member in members):
        assert await read(client) == TEXT
    await close(client)


async def test_a_lost_server_costs_no_call(
    connect: Callable[..., Any], members: list[Member]
) -> None:
    client = connect(",".join(member.address for member in members))
    while not all(member.fake.requests for member in members):
        await client.complete(prompt="Hi")
    members[0].health.drain()
    await members[0].server.stop(None)
    for _ in range(4):
        assert await read(client) == TEXT
        assert (await client.complete(prompt="Hi")).text == TEXT
        await client.server_info()
    await close(client)


async def test_a_server_that_says_it_takes_nothing_is_left(
    connect: Callable[..., Any], members: list[Member]
) -> None:
    members[0].health.set_serving(False)
    client = connect([member.address for member in members])
    for _ in range(6):
        assert await read(client) == TEXT
    assert members[0].fake.requests == []
    await close(client)


async def test_a_call_that_a_stopping_server_refused_is_sent_again(
    client: Any, fake: FakeServer
) -> None:
    fake.failure, fake.max_failures = STOPPING, 1
    assert await read(client) == TEXT
    fake.num_failures = 0
    assert (await client.complete(prompt="Hi")).text == TEXT
    fake.num_failures = 0
    assert (await client.put_profile("alice", ["Be brief."])).revision == 1
    assert len(fake.requests) == 4


async def test_what_the_server_answers_is_the_answer(client: Any, fake: FakeServer) -> None:
    fake.failure = NO_REWARDS
    for call in (client.complete(prompt="Hi"), anext(client.generate(prompt="Hi"))):
        with pytest.raises(pad_client.UnavailableError):
            await call
    assert fake.num_failures == 2


async def test_an_answer_that_has_begun_is_not_sent_again(client: Any, fake: FakeServer) -> None:
    fake.failure, fake.failure_after = STOPPING, 3
    stream = client.generate(prompt="Hi")
    assert [(await anext(stream)).text for _ in range(3)] == list(BASE_TOKENS[:3])
    with pytest.raises(pad_client.UnavailableError, match="is stopping"):
        await anext(stream)
    assert len(fake.requests) == 1


async def test_a_stream_that_is_closed_is_not_sent_again(client: Any, fake: FakeServer) -> None:
    fake.failure = STOPPING
    stream = client.generate(prompt="Hi", timeout_s=20)
    waiting = asyncio.ensure_future(anext(stream))
    await asyncio.wait_for(fake.called.wait(), 20)
    await stream.aclose()
    with pytest.raises(pad_client.PadError):
        await waiting
    assert len(fake.requests) == 1


class Lost(grpc.RpcError):
    """What gRPC raises where a server never answered."""

    def __init__(self, code: grpc.StatusCode, details: str = "") -> None:
        self._code, self._details = code, details

    def code(self) -> grpc.StatusCode:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()


def test_pauses_grow_and_end() -> None:
    attempts = Attempts(1000.0, RetryBudget())
    error = Lost(grpc.StatusCode.UNAVAILABLE)
    pauses = [attempts.pause_s(error) for _ in range(MAX_ATTEMPTS)]
    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, None]


def test_no_pause_outlasts_the_call() -> None:
    assert Attempts(0.04, RetryBudget()).pause_s(Lost(grpc.StatusCode.UNAVAILABLE)) is None


@pytest.mark.parametrize(
    ("error", "is_sent_again"),
    [
        (Lost(grpc.StatusCode.UNAVAILABLE, "Socket closed"), True),
        (Lost(grpc.StatusCode.CANCELLED, "CANCELLED"), True),  # reset by a server that stops
        (Lost(grpc.StatusCode.CANCELLED, "Channel closed!"), False),
        (Lost(grpc.StatusCode.DEADLINE_EXCEEDED), False),
        (Lost(grpc.StatusCode.RESOURCE_EXHAUSTED), False),
    ],
)
def test_what_is_sent_again(error: Lost, is_sent_again: bool) -> None:
    assert (Attempts(20.0, RetryBudget()).pause_s(error) is not None) is is_sent_again


def test_repeats_are_bounded_over_all_calls_of_a_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call was sent six times while no server was there, however many calls there were."""
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    budget, error = RetryBudget(), Lost(grpc.StatusCode.UNAVAILABLE)

    def num_repeats(num_calls: int) -> int:
        every = [Attempts(1000.0, budget) for _ in range(num_calls)]
        return sum(attempts.pause_s(error) is not None for attempts in every)

    assert num_repeats(80) == 80  # all of those that a lost server cut off together
    assert num_repeats(1000) == MAX_REPEATS  # what was left, and what these calls earned
    assert num_repeats(50) == 12
    now = 1.0
    assert num_repeats(50) == 23  # a second's, and a fourth of the calls
    now = 1000.0
    assert num_repeats(1000) == MAX_REPEATS


def test_a_write_that_may_have_been_done_is_not_sent_again() -> None:
    attempts = Attempts(20.0, RetryBudget(), is_repeatable=False)
    assert attempts.pause_s(Lost(grpc.StatusCode.UNAVAILABLE, "Socket closed")) is None


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("generator:50051", "generator:50051"),
        (["generator:50051"], "generator:50051"),
        ("dns:///generator:50051", "dns:///generator:50051"),
        ("[::1]:50051", "[::1]:50051"),
        ("unix:/run/pad.sock", "unix:/run/pad.sock"),
        ("unix-abstract:pad", "unix-abstract:pad"),
        ("10.0.0.1:1, 10.0.0.2:2", "ipv4:10.0.0.1:1,10.0.0.2:2"),
        (["[::1]:1", "[::2]:2"], "ipv6:[::1]:1,[::2]:2"),
        ("ipv4:10.0.0.1:1,10.0.0.2:2", "ipv4:10.0.0.1:1,10.0.0.2:2"),
    ],
)
def test_targets(target: str | list[str], expected: str) -> None:
    assert grpc_target(target) == expected


@pytest.mark.parametrize(
    ("target", "rule"),
    [
        ("", "must be host:port, got ''"),
        (["10.0.0.1:1", ""], "must be host:port, got ''"),
        ("http://127.0.0.1:50051", "must be host:port without a scheme, got 'http://127"),
        ("localhost", "must be host:port, got 'localhost'"),
        ("garbage:x", "must be host:port, got 'garbage:x'"),
        ("::1:50051", "must be host:port, got '::1:50051'"),
        (":50051", "must be host:port, got ':50051'"),
        ("127.0.0.1:0", "must have a port of 1..65535, got '127.0.0.1:0'"),
        ("127.0.0.1:99999", "must have a port of 1..65535, got '127.0.0.1:99999'"),
        ("dns:///pad:65536", "must have a port of 1..65535, got 'dns:///pad:65536'"),
        ("10.0.0.1:1,10.0.0.2:70000", "must have a port of 1..65535, got '10.0.0.2:70000'"),
    ],
)
def test_what_is_no_address_is_refused(target: str | list[str], rule: str) -> None:
    """gRPC called port 34463 for 99999, and 443 where there is none."""
    with pytest.raises(pad_client.InvalidRequestError) as caught:
        grpc_target(target)
    assert str(caught.value).startswith(f"target: {rule}")


@pytest.mark.parametrize("target", ["a:1,b:2", "10.0.0.1:1,10.0.0.2", "10.0.0.1:1,[::1]:1", []])
def test_targets_that_grpc_could_not_balance_are_refused(target: str | list[str]) -> None:
    with pytest.raises(pad_client.InvalidRequestError, match="target: "):
        grpc_target(target)
