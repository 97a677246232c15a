import asyncio
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


async def until(future):
    return await asyncio.wait_for(future, 5)


async def test_serving_logs_addresses_that_answer(event_log):
    health = Health([NAME])
    serving = asyncio.create_task(serve(OPTIONS, health, CollectorRegistry(), []))
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


async def test_services_turn_apart():
    async with running() as service:
        service.health.set_serving(True, NAME)
        assert [await check(service.channel, name) for name in ("", NAME)] == [NOT_SERVING, SERVING]
        service.health.set_serving(True, "")
        assert await check(service.channel) == SERVING


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
