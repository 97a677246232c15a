"""Calls beside the steps: how long they may take in all."""

import asyncio
import logging
import socket
from typing import Any

import grpc
import pytest

from svc_common.errors import InvalidRequestError
from tests.generator_svc.fake_replica import FakeReplica, running_replica
from tests.generator_svc.test_reward_pool import CONTEXT, running_pool


class AskedReplica(FakeReplica):
    """Notes how much time whole answers may take to be scored."""

    def __init__(self) -> None:
        super().__init__()
        self.left_s: list[float] = []

    async def ScoreSequences(self, request: Any, context: Any) -> Any:
        self.left_s.append(context.time_remaining())
        await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "context: too long")


async def test_waiting_for_a_replica_takes_from_the_time_of_the_call(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Once the call had all of it again, and could outlast its caller's deadline."""
    caplog.set_level(logging.INFO)
    replica = AskedReplica()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    async with running_pool(extra=(f"127.0.0.1:{port}",)) as harness:
        scoring = asyncio.create_task(harness.calls.score_sequences(CONTEXT, [[1]], 30.0))
        # It is tried again a tenth of a second later.
        await harness.until(lambda: "reward replica not reached" in caplog.messages)
        async with running_replica(replica, port):
            with pytest.raises(InvalidRequestError):
                await scoring
    (left_s,) = replica.left_s
    assert left_s < 29.95
