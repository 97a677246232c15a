"""Statuses of the reward service's unary calls as our own errors."""

import logging
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

logger = logging.getLogger(__name__)

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
    """Raise a ServiceError whatever the status: each of them is an answer that did not come.

    What is wrong with a replica, or with how it is asked, is the operator's to see: of statuses
    that no sound pair of services produces the code is logged. Their texts may be anybody's.
    """
    try:
        yield
    except grpc.aio.AioRpcError as error:
        code = error.code()
        kind = _ERRORS.get(code)
        if kind is None:
            logger.warning("reward service refused a call", extra={"code": code.name})
            raise RewardUnavailableError(f"reward service: answered {code.name}") from error
        raise kind(f"reward service: {error.details()}") from error
