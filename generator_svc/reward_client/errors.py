"""Statuses of the reward service's unary calls as our own errors."""

import asyncio
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

    So is a call whose connection is given up meanwhile: gRPC cancels it, and whoever awaits it
    reads the same as if it were cancelled itself.

    What is wrong with a replica, or with how it is asked, is the operator's to see: of statuses
    that no sound pair of services produces the code is logged. Their texts may be anybody's.
    """
    task = asyncio.current_task()
    num_cancels = task.cancelling() if task is not None else 0
    try:
        yield
    except asyncio.CancelledError:
        if task is None or task.cancelling() > num_cancels:
            raise
        raise RewardUnavailableError("reward service: the connection was given up") from None
    except grpc.aio.UsageError as error:  # before the call began
        raise RewardUnavailableError("reward service: the connection was given up") from error
    except grpc.aio.AioRpcError as error:
        code = error.code()
        kind = _ERRORS.get(code)
        if kind is None:
            logger.warning("reward service refused a call", extra={"code": code.name})
            raise RewardUnavailableError(f"reward service: answered {code.name}") from error
        raise kind(f"reward service: {error.details()}") from error
