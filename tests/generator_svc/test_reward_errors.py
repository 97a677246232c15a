"""Whatever status a replica answers a unary call with, callers get an error they handle."""

from collections.abc import AsyncIterator

import grpc
import pytest

from generator_svc.reward_client.errors import unary_errors
from pad.v1 import reward_pb2, reward_pb2_grpc
from svc_common.errors import (
    InvalidRequestError,
    ModelMismatchError,
    OverloadedError,
    RewardUnavailableError,
    ServiceError,
)

TEXT = "Be brief."
KINDS: dict[grpc.StatusCode, type[ServiceError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.FAILED_PRECONDITION: ModelMismatchError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: OverloadedError,
}
FAILURES = [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK]


class Refusing(reward_pb2_grpc.RewardServiceServicer):
    """Ends each call with a status, and quotes its caller in it."""

    code = grpc.StatusCode.UNKNOWN

    async def EncodePreference(
        self,
        request: reward_pb2.EncodePreferenceRequest,
        context: grpc.aio.ServicerContext,
    ) -> reward_pb2.EncodePreferenceResponse:
        await context.abort(self.code, request.preference.text)


@pytest.fixture
async def replica() -> AsyncIterator[tuple[Refusing, reward_pb2_grpc.RewardServiceStub]]:
    refusing = Refusing()
    server = grpc.aio.server()
    reward_pb2_grpc.add_RewardServiceServicer_to_server(refusing, server)
    port = server.add_insecure_port("localhost:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"localhost:{port}") as channel:
        yield refusing, reward_pb2_grpc.RewardServiceStub(channel)
    await server.stop(None)


@pytest.mark.parametrize("code", FAILURES, ids=lambda code: code.name)
async def test_a_refused_call_is_a_service_error(
    replica: tuple[Refusing, reward_pb2_grpc.RewardServiceStub],
    code: grpc.StatusCode,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """UNAUTHENTICATED, PERMISSION_DENIED and others were raw gRPC errors, which ended the process
    through its background work, and guided answers as INTERNAL.
    """
    refusing, stub = replica
    refusing.code = code
    request = reward_pb2.EncodePreferenceRequest()
    request.preference.text = TEXT
    with pytest.raises(ServiceError) as caught, unary_errors():
        await stub.EncodePreference(request, timeout=20)
    assert type(caught.value) is KINDS.get(code, RewardUnavailableError)
    assert all(TEXT not in record.getMessage() for record in caplog.records)
    if code is grpc.StatusCode.PERMISSION_DENIED:
        assert TEXT not in str(caught.value)
        assert [record.__dict__["code"] for record in caplog.records] == ["PERMISSION_DENIED"]
