"""A load that does not wait for answers: calls arrive at a rate, whether or not there is room."""

import asyncio
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import grpc

from benchmarks.load import Answer, Ask
from pad.v1.generator_pb2_grpc import GeneratorServiceStub
from pad_client.errors import error_from_rpc
from pad_client.requests import CHANNEL_OPTIONS

TENANT_KEY = "x-bench-tenant"
NUM_CHANNELS = 8  # a balancer's or several backends' connections
TIMEOUT_S = 60.0
OWN_CHANNEL = ("grpc.use_local_subchannel_pool", 1)


@dataclass
class Call(Answer):
    """One call: `status` is OK, or what it was refused with after `ended_at - asked_at`."""

    status: str = ""
    ended_at: float = 0.0
    retry_after_s: float = 0.0

    @property
    def duration_s(self) -> float:
        return self.ended_at - self.asked_at


@dataclass
class OpenLoad:
    """Asks one generator over several channels. Made on the event loop that uses it."""

    address: str
    _channels: list[grpc.aio.Channel] = field(default_factory=list)
    _num_calls: int = 0

    def __post_init__(self) -> None:
        self._channels = [
            grpc.aio.insecure_channel(self.address, options=[*CHANNEL_OPTIONS, OWN_CHANNEL])
            for _ in range(NUM_CHANNELS)
        ]

    async def close(self) -> None:
        for channel in self._channels:
            await channel.close()

    async def arrive(
        self, asks: Iterator[Ask], tenant: str, rate: float, seconds: float, *, seed: int = 0
    ) -> list[Call]:
        """Start `rate` calls a second at random times for `seconds`, and let all end."""
        chance = random.Random(seed)
        tasks: list[asyncio.Task[Call]] = []
        start = at = time.perf_counter()
        while (at := at + chance.expovariate(rate)) < start + seconds:
            await asyncio.sleep(max(0.0, at - time.perf_counter()))
            tasks.append(asyncio.create_task(self.call(next(asks), tenant)))
        return await asyncio.gather(*tasks)

    async def crowd(
        self, asks: Iterator[Ask], tenant: str, num_callers: int, seconds: float, *, seed: int = 0
    ) -> list[Call]:
        """Let callers come within `seconds`, who are refused come back when they are told to.

        Nobody begins a call later than `seconds` after the first.
        """
        chance = random.Random(seed)
        end = time.perf_counter() + seconds
        calls: list[Call] = []

        async def visit(first_s: float, ask: Ask) -> None:
            await asyncio.sleep(first_s)
            while time.perf_counter() < end:
                call = await self.call(ask, tenant)
                calls.append(call)
                if call.status == "OK":
                    return
                await asyncio.sleep(call.retry_after_s)

        callers = [visit(chance.uniform(0, seconds / 2), next(asks)) for _ in range(num_callers)]
        await asyncio.gather(*callers)
        return calls

    async def burst(self, asks: Iterator[Ask], tenant: str, num_calls: int) -> list[Call]:
        """Start calls all at once, and let them end."""
        return await asyncio.gather(*(self.call(next(asks), tenant) for _ in range(num_calls)))

    async def in_turn(self, ask: Ask, tenant: str, seconds: float) -> list[Call]:
        """Start a call whenever the last one has ended, for `seconds`."""
        calls: list[Call] = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            calls.append(await self.call(ask, tenant))
        return calls

    async def call(self, ask: Ask, tenant: str) -> Call:
        """Carry out a call and return how it went."""
        self._num_calls += 1
        stub = GeneratorServiceStub(self._channels[self._num_calls % NUM_CHANNELS])
        call = Call(time.perf_counter())
        stream = stub.Generate(ask.message(), timeout=TIMEOUT_S, metadata=((TENANT_KEY, tenant),))
        try:
            async for response in stream:
                if response.HasField("token"):
                    call.token_times.append(time.perf_counter())
            call.status = "OK"
        except grpc.RpcError as error:
            found = error_from_rpc(error)
            call.status = found.code.name if found.code is not None else "UNKNOWN"
            call.retry_after_s = found.retry_after_s or 0.0
        call.ended_at = time.perf_counter()
        return call


def written(calls: Sequence[Call]) -> list[Call]:
    """Return the calls that got their answer."""
    return [call for call in calls if call.status == "OK"]


def refused(calls: Sequence[Call]) -> list[Call]:
    """Return the calls that were told to come back.

    Raises:
        ValueError: A call ended in a way that it should not.
    """
    others = {call.status for call in calls} - {"OK", "RESOURCE_EXHAUSTED"}
    if others:
        raise ValueError(f"calls: must end with OK or RESOURCE_EXHAUSTED, got {sorted(others)}")
    return [call for call in calls if call.status == "RESOURCE_EXHAUSTED"]
