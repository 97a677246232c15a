"""Statuses of the reward service's unary calls as our own errors."""

from collections.abc import Iterator
from contextlib import contextmanager

import grpc

from svc_common.errors import (
    InvalidRequestError,
    ModelMismatchError,
    OverloadedError,
    RewardUnavailableError,
    ServiceError,
)

_ERRORS: dict[grpc.StatusCode, type[ServiceError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidRequestError,
    grpc.StatusCode.FAILED_PRECONDITION: ModelMismatchError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: OverloadedError,
    grpc.StatusCode.UNAVAILABLE: RewardUnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: RewardUnavailableError,
    grpc.StatusCode.CANCELLED: RewardUnavailableError,
}


@contextmanager
def unary_errors() -> Iterator[None]:
    """Raise a ServiceError for the statuses a caller can act on."""
    try:
        yield
    except grpc.aio.AioRpcError as error:
        kind = _ERRORS.get(error.code())
        if kind is None:
            raise
        raise kind(f"reward service: {error.details()}") from error
