import asyncio
import json
import logging

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from svc_common import errors
from svc_common.logs import JsonFormatter
from svc_common.rpc_boundary import current_request_id
from tests.svc_common.small_service import NAME, running

SECRET = "sing me a song about kettles"


class LogLines(logging.Handler):
    """Keeps what the JSON formatter makes of each record."""

    def __init__(self):
        super().__init__()
        self.lines = []
        self.setFormatter(JsonFormatter())

    def emit(self, record):
        self.lines.append(self.format(record))

    def events(self, event):
        return [line for line in map(json.loads, self.lines) if line["event"] == event]


@pytest.fixture
def logs():
    handler = LogLines()
    logger = logging.getLogger("svc_common.rpc_boundary")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


async def failure(call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidRequestError("top_k: must be 1..64, got 0"), "INVALID_ARGUMENT"),
        (errors.ProfileNotFoundError("user_id: has no profile"), "NOT_FOUND"),
        (errors.ProfileConflictError("expected_revision: is 2, got 1"), "ABORTED"),
        (errors.ModelMismatchError("tokenizer: differs"), "FAILED_PRECONDITION"),
        (errors.OverloadedError("queue: is full"), "RESOURCE_EXHAUSTED"),
        (errors.RewardUnavailableError("rewards: none"), "UNAVAILABLE"),
        (errors.StoreUnavailableError("store: down"), "UNAVAILABLE"),
        (errors.ShuttingDownError("stopping"), "UNAVAILABLE"),
    ],
)
async def test_service_error_becomes_its_status(error, code):
    async def unary(request, context):
        raise error

    async with running(unary=unary) as service:
        failed = await failure(service.call("unary")(b""))
        assert (failed.code().name, failed.details()) == (code, str(error))
        assert await service.count("unary", code) == 1


async def test_retry_delay_reaches_programs_and_grpc_itself():
    async def unary(request, context):
        raise errors.OverloadedError("queue: is full", retry_after_s=1.25)

    async with running(unary=unary) as service:
        failed = await failure(service.call("unary")(b""))
    status = rpc_status.from_call(failed)
    retry_info = error_details_pb2.RetryInfo()
    assert status.details[0].Unpack(retry_info)
    assert retry_info.retry_delay.ToMilliseconds() == 1250
    assert dict(failed.trailing_metadata())["grpc-retry-pushback-ms"] == "1250"


async def test_bug_becomes_internal_error_with_traceback_in_log_alone(logs):
    async def unary(request, context):
        return 1 / 0

    async with running(unary=unary) as service:
        failed = await failure(service.call("unary")(b""))
        assert (failed.code().name, failed.details()) == ("INTERNAL", "internal error")
        assert await service.count("unary", "INTERNAL") == 1
    (event,) = logs.events("rpc failed")
    assert "ZeroDivisionError" in event["traceback"]
    assert event["request_id"] == dict(failed.trailing_metadata())["x-request-id"]


async def test_work_of_ours_that_was_cancelled_is_a_bug_and_not_a_hang_up():
    async def unary(request, context):
        other = asyncio.get_running_loop().create_future()
        other.cancel()
        await other

    async with running(unary=unary) as service:
        assert (await failure(service.call("unary")(b""))).code().name == "INTERNAL"


@pytest.mark.parametrize("arity", ["server_stream", "bidi"])
async def test_error_in_mid_stream_comes_after_the_messages_before_it(arity):
    async def stream(request, context):
        yield b"one"
        yield b"two"
        raise errors.RewardUnavailableError("rewards: none")

    async with running(**{arity: stream}) as service:
        call = service.call(arity)() if arity == "bidi" else service.call(arity)(b"")
        assert [await call.read(), await call.read()] == [b"one", b"two"]
        assert (await failure(call.read())).code() == grpc.StatusCode.UNAVAILABLE
        assert await service.count(arity, "UNAVAILABLE") == 1


async def test_all_arities_answer():
    async def unary(request, context):
        return request

    async def server_stream(request, context):
        for byte in request:
            yield bytes([byte])

    async def client_stream(requests, context):
        return b"".join([request async for request in requests])

    async def bidi(requests, context):
        async for request in requests:
            yield request.upper()

    async with running(
        unary=unary, server_stream=server_stream, client_stream=client_stream, bidi=bidi
    ) as service:
        assert await service.call("unary")(b"ab") == b"ab"
        assert [m async for m in service.call("server_stream")(b"ab")] == [b"a", b"b"]
        assert await service.call("client_stream")(iter([b"a", b"b"])) == b"ab"
        assert [m async for m in service.call("bidi")(iter([b"a", b"b"]))] == [b"A", b"B"]
        arities = ("unary", "server_stream", "client_stream", "bidi")
        assert [await service.count(arity, "OK") for arity in arities] == [1, 1, 1, 1]


@pytest.mark.parametrize("arity", ["server_stream", "bidi"])
@pytest.mark.parametrize("is_writing", [True, False])
async def test_hang_up_closes_the_generator_before_the_rpc_is_counted(arity, is_writing, logs):
    """A generator left to gRPC was closed late, by the garbage collector, and counted as OK."""
    closed = asyncio.Event()
    codes_at_close = []

    async def stream(request, context):
        try:
            while True:
                yield b"x"
                # Hung up while it waits for work, or while gRPC writes what it yielded.
                await (asyncio.sleep(0) if is_writing else asyncio.Event().wait())
        finally:
            codes_at_close.extend(logs.events("rpc ended"))
            closed.set()

    async with running(**{arity: stream}) as service:
        call = service.call(arity)() if arity == "bidi" else service.call(arity)(b"")
        assert await call.read() == b"x"
        call.cancel()
        await asyncio.wait_for(closed.wait(), 2)
        assert codes_at_close == []
        assert await service.count(arity, "CANCELLED") == 1


async def test_passed_deadline_is_counted_as_such():
    started = asyncio.Event()

    async def unary(request, context):
        started.set()
        await asyncio.Event().wait()

    async with running(unary=unary) as service:
        failed = await failure(service.call("unary")(b"", timeout=0.1))
        assert failed.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        assert started.is_set()
        assert await service.count("unary", "DEADLINE_EXCEEDED") == 1


@pytest.mark.parametrize(
    ("sent", "is_kept"),
    [("order-17.b_2", True), ("a" * 64, True), ("a" * 65, False), ("two words", False)],
)
async def test_sane_request_id_of_the_caller_is_kept(sent, is_kept):
    async def unary(request, context):
        return current_request_id().encode()

    async with running(unary=unary) as service:
        call = service.call("unary")(b"", metadata=(("x-request-id", sent),))
        used = (await call).decode()
        assert (used == sent) == is_kept
        assert used
        assert dict(await call.trailing_metadata())["x-request-id"] == used
    assert current_request_id() == ""


async def test_log_names_method_code_and_id_and_no_content(logs):
    async def unary(request, context):
        raise errors.InvalidRequestError(f"prompt: is bad: {request.decode()}")

    async with running(unary=unary) as service:
        await failure(service.call("unary")(SECRET.encode()))
    (event,) = logs.events("rpc ended")
    assert event["method"] == f"{NAME}/unary"
    assert event["code"] == "INVALID_ARGUMENT"
    assert event["duration_s"] >= 0
    assert event["request_id"]
    assert not any("kettles" in line for line in logs.lines)


async def test_unknown_method_is_unimplemented_and_makes_no_series():
    async def unary(request, context):
        return b""

    async with running(unary=unary) as service:
        failed = await failure(service.channel.unary_unary(f"/{NAME}/made_up")(b""))
        assert failed.code() == grpc.StatusCode.UNIMPLEMENTED
        assert await service.count("made_up", "UNIMPLEMENTED") == 0


async def test_too_large_a_message_is_refused_by_its_size():
    async def unary(request, context):
        return b""

    async with running(unary=unary) as service:
        failed = await failure(service.call("unary")(b"x" * (5 * 1024 * 1024)))
    assert failed.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "larger than max" in failed.details()
