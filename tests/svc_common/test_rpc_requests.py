"""Requests that cannot be read, and statuses that would not fit."""

import gc
import weakref
from collections.abc import Iterator
from functools import partial

import grpc
import pytest
from google.protobuf import wrappers_pb2
from grpc_status import rpc_status
from prometheus_client import CollectorRegistry

from svc_common import errors
from svc_common.health import Health
from svc_common.server import bind, new_server
from tests.svc_common.small_service import NAME, OPTIONS, running

MALFORMED = b"\xff\xff"


def add_bidi(handler, server):
    method = grpc.stream_stream_rpc_method_handler(
        handler, request_deserializer=wrappers_pb2.StringValue.FromString
    )
    handlers = grpc.method_handlers_generic_handler(NAME, {"bidi": method})
    server.add_generic_rpc_handlers([handlers])


async def test_malformed_message_of_a_stream_is_the_callers_fault(caplog):
    """It was INTERNAL, with a traceback in our log, while one of a unary call was not."""

    async def bidi(requests, context):
        async for request in requests:
            yield request.value.upper().encode()

    health, registry = Health([NAME]), CollectorRegistry()
    server = new_server(OPTIONS, health, registry, [partial(add_bidi, bidi)])
    address = bind(server, OPTIONS)
    await server.start()
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.stream_stream(f"/{NAME}/bidi")()
        await call.write(wrappers_pb2.StringValue(value="ab").SerializeToString())
        assert await call.read() == b"AB"
        await call.write(MALFORMED)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    await server.stop(2)
    assert caught.value.code().name == "INVALID_ARGUMENT"
    assert caught.value.details().startswith("request: must be a message of this method")
    labels = {"method": f"{NAME}/bidi", "code": "INVALID_ARGUMENT"}
    assert registry.get_sample_value("pad_rpc_total", labels) == 1
    assert not [record for record in caplog.records if record.exc_info]


@pytest.mark.parametrize("letter", ["x", "漢"])
@pytest.mark.parametrize("error_type", [errors.InvalidRequestError, errors.OverloadedError])
async def test_long_message_is_cut_to_what_a_status_can_carry(letter, error_type):
    """gRPC refused such a status: the caller saw neither code nor message, but a metadata limit."""

    async def unary(request, context):
        raise error_type("field: " + letter * 1_000_000)

    async with running(unary=unary) as service:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await service.call("unary")(b"")
    assert caught.value.code() is error_type.code
    assert caught.value.details().startswith("field: " + letter * 300)
    assert caught.value.details().endswith("...")
    assert len(caught.value.details().encode()) <= 1000
    status = rpc_status.from_call(caught.value)
    assert status is None or status.message == caught.value.details()


class Large:
    """A request of which somebody sees whether it is still there."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        seen.add(self)


seen: "weakref.WeakSet[Large]" = weakref.WeakSet()


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def add_refusing(server):
    async def unary(request, context):
        raise errors.InvalidRequestError("field: must be other")

    async def bidi(requests, context):
        async for _ in requests:
            raise errors.InvalidRequestError("field: must be other")
        yield b""

    new = {
        "unary": grpc.unary_unary_rpc_method_handler(unary, Large),
        "bidi": grpc.stream_stream_rpc_method_handler(bidi, Large),
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(NAME, new)])


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("method", ["unary", "bidi"])
async def test_a_refused_request_is_free_at_once(method):
    """gRPC keeps the exception of each `abort`, and with it was what the handlers had in hand: some
    messages of 4 MB, of 150 MB once read, took all memory before the garbage collector came."""
    health, registry = Health([NAME]), CollectorRegistry()
    server = new_server(OPTIONS, health, registry, [add_refusing])
    address = bind(server, OPTIONS)
    await server.start()
    async with grpc.aio.insecure_channel(address) as channel:
        call = (
            channel.stream_stream(f"/{NAME}/bidi")(iter([b"x"])).read()
            if method == "bidi"
            else channel.unary_unary(f"/{NAME}/unary")(b"x")
        )
        with pytest.raises(grpc.aio.AioRpcError):
            await call
        del call
    await server.stop(2)
    labels = {"method": f"{NAME}/{method}"}
    assert registry.get_sample_value("pad_rpc_duration_seconds_count", labels) == 1
    assert not seen
