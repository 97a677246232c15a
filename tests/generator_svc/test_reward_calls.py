"""Unary calls to replicas that are lost, suspended or about to stop meanwhile."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from generator_svc.reward_client.breaker import MAX_FAILURES
from generator_svc.reward_client.calls import RewardCalls
from pad.v1 import reward_pb2
from svc_common import health
from svc_common.errors import RewardUnavailableError
from tests.generator_svc.fake_replica import FakeReplica
from tests.generator_svc.test_reward_pool import CONTEXT, running_pool

ANN = b"ann"
WAIT_S = 20.0


class Slow(FakeReplica):
    """Answers unary calls when it is told to; until then nothing comes of them."""

    def __init__(self) -> None:
        super().__init__()
        self.was_asked, self.may_answer = asyncio.Event(), asyncio.Event()
        self.forgotten: list[bytes] = []

    async def _wait(self) -> None:
        self.was_asked.set()
        await self.may_answer.wait()

    async def EncodePreference(self, request: Any, context: Any) -> Any:
        await self._wait()
        return await super().EncodePreference(request, context)

    async def ScoreSequences(self, request: Any, context: Any) -> Any:
        await self._wait()
        return reward_pb2.ScoreSequencesResponse(rewards=[1.0])

    async def Forget(self, request: Any, context: Any) -> Any:
        await self._wait()
        self.forgotten += request.subjects
        return reward_pb2.ForgetResponse()


async def encode(calls: RewardCalls) -> object:
    return await calls.encode_preference("Be brief.", ANN, WAIT_S)


async def score(calls: RewardCalls) -> object:
    return await calls.score_sequences(CONTEXT, [[1, 2]], WAIT_S)


async def forget(calls: RewardCalls) -> object:
    return await calls.forget([ANN], WAIT_S)


@pytest.mark.parametrize("call", [encode, score])
async def test_a_call_whose_connection_is_given_up_did_not_come(
    call: Callable[[RewardCalls], Awaitable[object]],
) -> None:
    """gRPC cancelled it, and the answer or erasure that awaited it ended as INTERNAL."""
    slow = Slow()
    async with running_pool(slow) as harness:
        await harness.ready(1)
        asking = asyncio.ensure_future(call(harness.calls))
        await slow.was_asked.wait()
        harness.pool.fleet.replicas[0].connection.give_up()
        with pytest.raises(RewardUnavailableError, match="the connection was given up"):
            await asking


async def test_an_erasure_is_not_confirmed_where_the_connection_is_given_up() -> None:
    slow = Slow()
    async with running_pool(slow) as harness:
        await harness.ready(1)
        asking = asyncio.ensure_future(forget(harness.calls))
        await slow.was_asked.wait()
        harness.pool.fleet.replicas[0].connection.give_up()
        assert not await asking


async def test_a_caller_that_is_cancelled_is_cancelled() -> None:
    slow = Slow()
    async with running_pool(slow) as harness:
        await harness.ready(1)
        asking = asyncio.ensure_future(encode(harness.calls))
        await slow.was_asked.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking


async def test_replicas_that_get_no_sessions_hear_of_erasures_all_the_same() -> None:
    """One that was suspended, or about to stop, kept what it knew of the user."""
    suspended, draining, well = Slow(), Slow(), Slow()
    async with running_pool(suspended, draining, well) as harness:
        await harness.ready(3)
        by_port = {int(one.address.rpartition(":")[2]): one for one in harness.pool.fleet.replicas}
        for _ in range(MAX_FAILURES):
            by_port[suspended.port].breaker.note_failure()
        draining.health.set_serving(False)
        await harness.ready(1)
        for replica in harness.replicas:
            replica.may_answer.set()  # type: ignore[attr-defined]
        assert await harness.calls.forget([ANN], WAIT_S)
        assert [one.forgotten for one in (suspended, draining, well)] == [[ANN]] * 3


async def test_a_replica_that_as_many_watch_as_may_is_asked_for_its_health(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Strangers who watched it kept a generator from it for good."""
    monkeypatch.setattr(health, "MAX_WATCHERS", 0)
    async with running_pool(FakeReplica()) as harness:
        await harness.ready(1)
        await harness.open()
        harness.replicas[0].health.set_serving(False)
        await harness.ready(0)
        harness.replicas[0].health.set_serving(True)
        await harness.ready(1)
