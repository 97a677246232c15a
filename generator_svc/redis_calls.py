"""Calls of Redis that end in time: a client without long retries, and one error for all silence."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import redis.exceptions as redis_errors
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff

from svc_common.errors import StoreUnavailableError

_UNAVAILABLE = (
    redis_errors.ConnectionError,
    redis_errors.TimeoutError,
    redis_errors.ReadOnlyError,
    redis_errors.OutOfMemoryError,
    redis_errors.ClusterDownError,
    OSError,  # of which TimeoutError is one
)


def connect(url: str, timeout_s: float, max_connections: int = 32) -> Redis:
    """Return a client that gives up after `timeout_s`, not after redis-py's own ten seconds.

    One retry, as the first command on a kept connection finds out that the server was restarted.
    """
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=max_connections,
        timeout=timeout_s,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(ConstantBackoff(0.005), 1, (redis_errors.ConnectionError,)),
    )
    return Redis.from_pool(pool)


@asynccontextmanager
async def answering(timeout_s: float) -> AsyncIterator[None]:
    """Turn silence, refusals and broken connections in the body into one error.

    Raises:
        StoreUnavailableError: The body did not get its answers within `timeout_s`.
    """
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except _UNAVAILABLE as error:
        raise StoreUnavailableError(
            f"profile store: must answer within {timeout_s} s, got {type(error).__name__}",
            retry_after_s=1.0,
        ) from error
