"""What callers meet while a process stops: a status that says so, never a bare cancel."""

import asyncio
import os
import signal
from dataclasses import replace
from functools import partial

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from prometheus_client import CollectorRegistry

from svc_common.health import Health
from svc_common.server import serve
from tests.svc_common.small_service import NAME, OPTIONS, add_handlers

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
LONG_S = 600.0


async def until(future):
    return await asyncio.wait_for(future, 20)


class Slow:
    """A stream that ends when it is told to."""

    def __init__(self):
        self.may_end = asyncio.Event()
        self.is_closed = asyncio.Event()

    async def __call__(self, request, context):
        try:
            yield b"first"
            await self.may_end.wait()
            yield b"last"
        finally:
            self.is_closed.set()


async def echo(request, context):
    return request


def start(slow, **options):
    health = Health([NAME])
    add = partial(add_handlers, {"server_stream": slow.__call__, "unary": echo})
    serving = serve(replace(OPTIONS, **options), health, CollectorRegistry(), [add])
    return health, asyncio.create_task(serving)


async def address_of(event_log):
    return (await until(event_log.event("serving"))).address


async def open_stream(channel):
    call = channel.unary_stream(f"/{NAME}/server_stream")(b"")
    assert await call.read() == b"first"
    return call


async def failure(awaitable):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await until(awaitable)
    return caught.value


async def test_health_turns_first_and_calls_are_taken_for_the_delay(event_log):
    slow = Slow()
    health, serving = start(slow, drain_s=LONG_S, drain_delay_s=LONG_S)
    health.set_serving(True)
    async with grpc.aio.insecure_channel(await address_of(event_log)) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        os.kill(os.getpid(), signal.SIGTERM)
        assert (await until(watch.read())).status == NOT_SERVING
        assert await until(watch.read()) is grpc.aio.EOF
        assert await channel.unary_unary(f"/{NAME}/unary")(b"late") == b"late"
        os.kill(os.getpid(), signal.SIGTERM)  # ends the delay too
        await until(serving)


async def test_running_stream_finishes(event_log):
    slow = Slow()
    _, serving = start(slow, drain_s=LONG_S)
    async with grpc.aio.insecure_channel(await address_of(event_log)) as channel:
        call = await open_stream(channel)
        os.kill(os.getpid(), signal.SIGTERM)
        await until(event_log.event("draining"))
        assert not serving.done()
        slow.may_end.set()
        assert await until(call.read()) == b"last"
        assert await call.code() == grpc.StatusCode.OK
    await until(serving)


async def test_callers_who_keep_calling_are_told_where_to_go(event_log, monkeypatch):
    """gRPC alone resets what arrives as it stops: two of three such callers read CANCELLED."""
    monkeypatch.setattr("svc_common.server.REFUSAL_S", LONG_S)  # to the second signal
    slow = Slow()
    _, serving = start(slow, drain_s=LONG_S)
    address = await address_of(event_log)

    async def call_until_refused(method):
        while True:
            try:
                await method(b"")
            except grpc.aio.AioRpcError as error:
                return error

    async with grpc.aio.insecure_channel(address) as channel:
        call = await open_stream(channel)
        method = channel.unary_unary(f"/{NAME}/unary")
        callers = [asyncio.create_task(call_until_refused(method)) for _ in range(20)]
        await method(b"")
        os.kill(os.getpid(), signal.SIGTERM)
        refusals = await until(asyncio.gather(*callers))
        for refusal in refusals:
            assert refusal.code() == grpc.StatusCode.UNAVAILABLE
            assert refusal.details() == "server: is stopping, send the request to another"
            assert dict(refusal.trailing_metadata())["grpc-retry-pushback-ms"] == "500"
        slow.may_end.set()
        os.kill(os.getpid(), signal.SIGTERM)
        assert await until(call.read()) == b"last"
    await until(serving)


async def test_a_stream_that_outlasts_the_drain_is_told_why_it_ends(event_log):
    """It read CANCELLED, as if somebody had cancelled it."""
    slow = Slow()
    _, serving = start(slow, drain_s=0.1)
    async with grpc.aio.insecure_channel(await address_of(event_log)) as channel:
        call = await open_stream(channel)
        os.kill(os.getpid(), signal.SIGINT)
        error = await failure(call.read())
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        expected = "server: gave its calls 0.1 s and stopped before the answer was complete"
        assert error.details() == expected
        info = error_details_pb2.RetryInfo()
        (detail,) = rpc_status.from_call(error).details
        assert detail.Unpack(info)
        assert info.retry_delay.ToMilliseconds() == 500
    await until(serving)
    assert slow.is_closed.is_set()


async def test_second_signal_stops_at_once_and_says_so(event_log):
    slow = Slow()
    _, serving = start(slow, drain_s=LONG_S)
    async with grpc.aio.insecure_channel(await address_of(event_log)) as channel:
        call = await open_stream(channel)
        os.kill(os.getpid(), signal.SIGTERM)
        await until(event_log.event("draining"))
        os.kill(os.getpid(), signal.SIGTERM)
        error = await failure(call.read())
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        assert "had to end at once" in error.details()
        await until(serving)
    assert slow.is_closed.is_set()


async def test_a_reader_who_reads_nothing_does_not_hold_up_the_stop(event_log):
    async def flood(request, context):
        while True:
            yield b"x" * 65536

    registry = CollectorRegistry()
    add = partial(add_handlers, {"server_stream": flood})
    options = replace(OPTIONS, drain_s=0.1)
    serving = asyncio.create_task(serve(options, Health([NAME]), registry, [add]))
    async with grpc.aio.insecure_channel(await address_of(event_log)) as channel:
        call = channel.unary_stream(f"/{NAME}/server_stream")(b"")
        await call.read()
        os.kill(os.getpid(), signal.SIGTERM)
        await until(serving)
