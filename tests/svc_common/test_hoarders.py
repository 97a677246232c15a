"""Callers who take what they do not use: calls without requests, watchers, too many at once."""

import asyncio
from contextlib import suppress
from dataclasses import replace

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from pad_client.requests import CHANNEL_OPTIONS
from svc_common import health, rpc_boundary, running_calls
from svc_common.callers import Caller
from svc_common.errors import UnauthenticatedError
from svc_common.health import MAX_WATCHERS
from svc_common.running_calls import HEALTH_SERVICE
from tests.svc_common.small_service import NAME, OPTIONS, running


async def echo(request, context):
    return request


def without_request(service, arity="unary"):
    """Begin a call of one request that never sends it."""
    kinds = {"unary": service.channel.stream_unary, "server_stream": service.channel.stream_stream}
    return kinds[arity](f"/{NAME}/{arity}")()


async def refusal(call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


class Spans:
    """Remembers for which calls a span was begun."""

    def __init__(self):
        self.begun = []

    def begin(self, method, request_id, metadata):
        self.begun.append(method)


@pytest.mark.parametrize("arity", ["unary", "server_stream"])
async def test_a_call_whose_request_does_not_arrive_ends(arity):
    """It waited for as long as its caller liked, counted by nobody."""

    async def stream(request, context):
        yield request

    handlers = {"unary": echo, "server_stream": stream}
    options = replace(OPTIONS, max_stall_s=0.2)
    async with running(options, **{arity: handlers[arity]}) as service:
        call = without_request(service, arity)
        failed = await refusal(call if arity == "unary" else call.read())
        assert failed.code().name == "RESOURCE_EXHAUSTED"
        assert failed.details() == "request: must arrive within 0.2 s, did not"
        assert await service.count(arity, "RESOURCE_EXHAUSTED") == 1


async def test_a_stranger_is_refused_before_the_request_is_there():
    """A message was read, of whatever size, before anybody asked who sent it."""

    def nobody(context, method):
        raise UnauthenticatedError("authorization: must be sent once")

    spans = Spans()
    options = replace(OPTIONS, identify=nobody, spans=spans)
    async with running(options, unary=echo) as service:
        failed = await refusal(without_request(service))
        assert failed.code() == grpc.StatusCode.UNAUTHENTICATED
    assert spans.begun == []  # whatever the stranger's headers ask for


async def test_an_end_of_requests_without_one_is_the_callers_fault():
    async with running(unary=echo) as service:
        call = without_request(service)
        await call.done_writing()
        failed = await refusal(call)
        assert failed.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert failed.details() == "request: must be one message, got none"


async def test_a_hang_up_before_the_request_is_counted_as_one():
    arrived = asyncio.Event()

    def identify(context, method):
        arrived.set()
        return Caller("default")

    async with running(replace(OPTIONS, identify=identify), unary=echo) as service:
        call = without_request(service)
        await asyncio.wait_for(arrived.wait(), 5)
        call.cancel()
        with suppress(asyncio.CancelledError):
            await call
        assert await service.count("unary", "CANCELLED") == 1


async def test_more_calls_than_are_served_at_once_are_refused_with_a_delay():
    go_on = asyncio.Event()
    arrived = asyncio.Semaphore(0)

    async def wait(request, context):
        arrived.release()
        await go_on.wait()
        return request

    async with running(replace(OPTIONS, max_calls=2), unary=wait) as service:
        first = [service.call("unary")(b"1"), service.call("unary")(b"2")]
        for _ in first:
            await asyncio.wait_for(arrived.acquire(), 5)
        failed = await refusal(service.call("unary")(b"3"))
        assert failed.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert failed.details() == "TEST_MAX_CALLS: at most 2 calls are served at once"
        assert rpc_status.from_call(failed).details  # when to come again
        stub = health_pb2_grpc.HealthStub(service.channel)
        await stub.Check(health_pb2.HealthCheckRequest())  # probes are answered all the same
        go_on.set()
        assert await asyncio.gather(*first) == [b"1", b"2"]
        assert await service.call("unary")(b"3") == b"3"


async def test_a_connection_that_has_its_share_is_refused_and_others_are_not():
    """gRPC's own limit of streams refuses at random below it, as UNAVAILABLE."""
    go_on, arrived = asyncio.Event(), asyncio.Semaphore(0)

    async def wait(request, context):
        arrived.release()
        await go_on.wait()
        return request

    options = replace(OPTIONS, max_connection_calls=3)
    apart = [("grpc.use_local_subchannel_pool", 1)]
    async with (
        running(options, unary=wait) as service,
        grpc.aio.insecure_channel(service.address, options=apart) as other,
    ):
        calls = [service.call("unary")(bytes([i])) for i in range(3)]
        for _ in calls:
            await asyncio.wait_for(arrived.acquire(), 5)
        failed = await refusal(service.call("unary")(b"4"))
        assert failed.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert failed.details() == (
            "TEST_MAX_CONNECTION_CALLS: at most 3 calls of one connection are served at once"
        )
        neighbour = other.unary_unary(f"/{NAME}/unary")(b"n")
        await asyncio.wait_for(arrived.acquire(), 5)
        go_on.set()
        assert await asyncio.gather(*calls, neighbour) == [b"\0", b"\1", b"\2", b"n"]
        assert await service.call("unary")(b"5") == b"5"


async def test_probes_without_a_request_are_soon_ended_and_one_connection_takes_not_all(
    monkeypatch,
):
    """A thousand of them, from one stranger, refused all probes for a minute."""
    monkeypatch.setattr(rpc_boundary, "PROBE_S", 0.2)
    monkeypatch.setattr(running_calls, "MAX_PEER_PROBES", 3)
    apart = [("grpc.use_local_subchannel_pool", 1)]
    async with (
        running() as service,
        grpc.aio.insecure_channel(service.address, options=apart) as other,
    ):
        empty = [service.channel.stream_unary(f"/{HEALTH_SERVICE}/Check")() for _ in range(4)]
        await health_pb2_grpc.HealthStub(other).Check(health_pb2.HealthCheckRequest())
        details = sorted([(await refusal(call)).details() for call in empty])
        assert details == [
            "health: at most 3 calls of one connection are served at once",
            *["request: must arrive within 0.2 s, did not"] * 3,
        ]


async def test_watchers_leave_room_for_probes():
    async with running() as service:
        stub = health_pb2_grpc.HealthStub(service.channel)
        watchers = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(MAX_WATCHERS)]
        await asyncio.gather(*(watcher.read() for watcher in watchers))
        one_more = stub.Watch(health_pb2.HealthCheckRequest())
        assert (await refusal(one_more.read())).code() == grpc.StatusCode.UNIMPLEMENTED
        await stub.Check(health_pb2.HealthCheckRequest())
        watchers[0].cancel()
        with suppress(asyncio.CancelledError):
            await watchers[0].code()
        assert running_calls.MAX_PROBES > 2 * MAX_WATCHERS
        for watcher in watchers:
            watcher.cancel()


@pytest.mark.parametrize("limit", ["watchers", "probes of all", "probes of one connection"])
async def test_clients_that_find_no_place_to_watch_the_health_can_call_all_the_same(
    monkeypatch, limit
):
    """256 watchers, of whom a stranger can be each, kept all further clients out: gRPC takes a
    server whose health it cannot watch for one that serves nobody."""
    names = {
        "watchers": (health, "MAX_WATCHERS"),
        "probes of all": (running_calls, "MAX_PROBES"),
        "probes of one connection": (running_calls, "MAX_PEER_PROBES"),
    }
    monkeypatch.setattr(*names[limit], 0)
    async with (
        running(unary=echo) as service,
        grpc.aio.insecure_channel(service.address, options=CHANNEL_OPTIONS) as careful,
    ):
        service.health.set_serving(True)
        assert await careful.unary_unary(f"/{NAME}/unary")(b"1", timeout=20) == b"1"


async def test_an_aged_connection_is_left_quietly_and_cuts_no_answer():
    """The long answer ends on the connection it began on; later calls are on new ones."""
    peers, go_on = [], asyncio.Event()

    async def unary(request, context):
        peers.append(context.peer())
        return request

    async def stream(request, context):
        yield b"begins"
        await go_on.wait()
        yield b"ends"

    options = replace(OPTIONS, max_connection_age_s=0.3)
    async with running(options, unary=unary, server_stream=stream) as service:
        long = service.call("server_stream")(b"")
        assert await long.read() == b"begins"
        async with asyncio.timeout(20):
            while len(set(peers)) < 4:
                assert await service.call("unary")(b"x") == b"x"
        go_on.set()
        assert await long.read() == b"ends"
        assert await long.code() == grpc.StatusCode.OK
