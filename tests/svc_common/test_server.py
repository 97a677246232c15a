import asyncio
import logging
import os
import signal
import socket
import urllib.request
from dataclasses import replace
from functools import partial

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import CollectorRegistry

from svc_common.health import Health
from svc_common.server import bind, new_server, serve
from svc_common.settings import SettingsError
from tests.svc_common.small_service import NAME, OPTIONS, add_handlers, running

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def check(channel, name=""):
    stub = health_pb2_grpc.HealthStub(channel)
    return (await stub.Check(health_pb2.HealthCheckRequest(service=name))).status


class EventLog(logging.Handler):
    """Completes a future with the first record of an event."""

    def __init__(self):
        super().__init__()
        self._awaited = {}

    def event(self, name):
        return self._awaited.setdefault(name, asyncio.get_running_loop().create_future())

    def emit(self, record):
        if not self.event(record.getMessage()).done():
            self.event(record.getMessage()).set_result(record)


@pytest.fixture
def event_log():
    handler = EventLog()
    logger = logging.getLogger("svc_common.server")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


async def until(future):
    return await asyncio.wait_for(future, 5)


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


def start(slow, drain_s=5.0):
    health = Health([NAME])
    options = replace(OPTIONS, drain_s=drain_s)
    add = partial(add_handlers, {"server_stream": slow.__call__})
    return health, asyncio.create_task(serve(options, health, CollectorRegistry(), [add]))


async def test_sigterm_lets_the_running_stream_finish_and_refuses_new_calls(event_log):
    slow = Slow()
    health, serving = start(slow)
    address = (await until(event_log.event("serving"))).address
    health.set_serving(True)
    async with grpc.aio.insecure_channel(address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        call = channel.unary_stream(f"/{NAME}/server_stream")(b"")
        assert await call.read() == b"first"
        os.kill(os.getpid(), signal.SIGTERM)
        assert (await until(watch.read())).status == NOT_SERVING
        assert await until(watch.read()) is grpc.aio.EOF
        async with grpc.aio.insecure_channel(address) as late:
            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await late.unary_stream(f"/{NAME}/server_stream")(b"").read()
        assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
        assert not serving.done()
        slow.may_end.set()
        assert await call.read() == b"last"
        assert await call.code() == grpc.StatusCode.OK
    await until(serving)


async def test_drain_ends_calls_by_force_when_its_time_is_over(event_log):
    slow = Slow()
    _, serving = start(slow, drain_s=0.1)
    async with grpc.aio.insecure_channel(
        (await until(event_log.event("serving"))).address
    ) as channel:
        call = channel.unary_stream(f"/{NAME}/server_stream")(b"")
        assert await call.read() == b"first"
        os.kill(os.getpid(), signal.SIGINT)
        await until(serving)
        assert slow.is_closed.is_set()


async def test_second_signal_stops_at_once(event_log):
    slow = Slow()
    _, serving = start(slow, drain_s=600.0)
    async with grpc.aio.insecure_channel(
        (await until(event_log.event("serving"))).address
    ) as channel:
        call = channel.unary_stream(f"/{NAME}/server_stream")(b"")
        assert await call.read() == b"first"
        os.kill(os.getpid(), signal.SIGTERM)
        await until(event_log.event("draining"))
        os.kill(os.getpid(), signal.SIGTERM)
        await until(serving)
        assert slow.is_closed.is_set()


async def test_serving_logs_addresses_that_answer(event_log):
    health, serving = start(Slow())
    record = await until(event_log.event("serving"))
    health.set_serving(True)
    async with grpc.aio.insecure_channel(record.address) as channel:
        assert await check(channel) == SERVING
    url = f"http://127.0.0.1:{record.metrics_port}/metrics"
    page = (await asyncio.to_thread(lambda: urllib.request.urlopen(url).read())).decode()
    assert 'pad_rpc_total{code="OK",method="grpc.health.v1.Health/Check"} 1.0' in page
    os.kill(os.getpid(), signal.SIGTERM)
    await until(serving)


async def test_health_turns_with_the_caller_and_stays_off_once_draining():
    async with running() as service:
        assert [await check(service.channel, name) for name in ("", NAME)] == [NOT_SERVING] * 2
        service.health.set_serving(True)
        assert [await check(service.channel, name) for name in ("", NAME)] == [SERVING] * 2
        service.health.set_serving(False)
        assert await check(service.channel) == NOT_SERVING
        service.health.drain()
        service.health.set_serving(True)
        assert await check(service.channel) == NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await check(service.channel, "made.up")
        assert caught.value.code() == grpc.StatusCode.NOT_FOUND
        stub = health_pb2_grpc.HealthStub(service.channel)
        listed = await stub.List(health_pb2.HealthListRequest())
        assert set(listed.statuses) == {"", NAME}


async def test_thousands_of_calls_at_once_are_all_answered():
    async with running() as service:
        service.health.set_serving(True)
        answers = await asyncio.gather(*(check(service.channel) for _ in range(3500)))
        assert set(answers) == {SERVING}


async def test_reflection_names_the_services():
    async with running() as service:
        stub = reflection_pb2_grpc.ServerReflectionStub(service.channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        call = stub.ServerReflectionInfo(iter([request]))
        answer = await call.read()
        names = {listed.name for listed in answer.list_services_response.service}
        assert {NAME, "grpc.health.v1.Health"} <= names
        await call.read()


async def test_taken_port_stops_the_start_and_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        server = new_server(OPTIONS, Health([]), CollectorRegistry(), [])
        with pytest.raises(SettingsError) as caught:
            bind(server, replace(OPTIONS, listen=address))
        await server.stop(None)
    assert str(caught.value) == (
        f"TEST_LISTEN: must be a free address of this machine, got {address}"
    )


async def test_port_of_another_grpc_server_is_taken_too():
    """With SO_REUSEPORT, gRPC's default, both servers got half of the calls."""
    async with running() as service:
        server = new_server(OPTIONS, Health([]), CollectorRegistry(), [])
        other = new_server(OPTIONS, Health([]), CollectorRegistry(), [])
        address = bind(server, OPTIONS)
        with pytest.raises(SettingsError, match="TEST_LISTEN"):
            bind(other, replace(OPTIONS, listen=address))
        await other.stop(None)
        await server.stop(None)
        assert await check(service.channel) == NOT_SERVING


async def test_taken_metrics_port_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        options = replace(OPTIONS, metrics_port=taken.getsockname()[1])
        with pytest.raises(SettingsError, match="TEST_METRICS_PORT: must be a free address"):
            await serve(options, Health([]), CollectorRegistry(), [])


async def test_probes_have_a_port_of_their_own_that_answers_nothing_else(event_log):
    options = replace(OPTIONS, health_listen="127.0.0.1:0")
    health = Health([NAME])
    add = partial(add_handlers, {"unary": lambda request, context: b""})
    serving = asyncio.create_task(serve(options, health, CollectorRegistry(), [add]))
    address = (await until(event_log.event("serving"))).health_address
    async with grpc.aio.insecure_channel(address) as channel:
        assert await check(channel) == NOT_SERVING
        health.set_serving(True)
        assert await check(channel) == SERVING
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await channel.unary_unary(f"/{NAME}/unary")(b"")
        assert refused.value.code() == grpc.StatusCode.UNIMPLEMENTED
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == SERVING
        os.kill(os.getpid(), signal.SIGTERM)
        assert (await until(watch.read())).status == NOT_SERVING
    await until(serving)


async def test_taken_health_port_is_named():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        options = replace(OPTIONS, health_listen=address)
        with pytest.raises(SettingsError, match="TEST_HEALTH_LISTEN: must be a free address"):
            await serve(options, Health([]), CollectorRegistry(), [])
