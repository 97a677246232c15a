"""Calls of Redis that end in time: a client without long retries, and one error for all silence."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import redis.exceptions as redis_errors
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from redis.credentials import CredentialProvider

from svc_common.errors import StoreUnavailableError

_UNAVAILABLE = (
    redis_errors.ConnectionError,
    redis_errors.TimeoutError,
    redis_errors.ReadOnlyError,
    redis_errors.OutOfMemoryError,
    redis_errors.NoPermissionError,
    redis_errors.ClusterDownError,
    redis_errors.TryAgainError,
    redis_errors.ExecAbortError,
    OSError,  # of which TimeoutError is one
)
# Refusals for which redis-py has no class, or whose class is lost behind a script's or a
# pipeline's own words: a server's state, which no caller of ours can change.
_REFUSAL = re.compile(
    r"(?:^|-|')(?:NOREPLICAS|MISCONF|NOPERM|NOAUTH|READONLY|OOM|LOADING|BUSY|MASTERDOWN"
    r"|NOMASTERLINK|CLUSTERDOWN|TRYAGAIN|EXECABORT)\b"
)


def connect(
    url: str,
    timeout_s: float,
    max_connections: int = 32,
    password: CredentialProvider | None = None,
) -> Redis:
    """Return a client that gives up after `timeout_s`, not after redis-py's own ten seconds.

    One retry, as the first command on a kept connection finds out that the server was restarted.
    With a `password` the URL must name neither user nor password.
    """
    pool = BlockingConnectionPool.from_url(
        url,
        max_connections=max_connections,
        credential_provider=password,
        timeout=timeout_s,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(ConstantBackoff(0.005), 1, (redis_errors.ConnectionError,)),
    )
    return Redis.from_pool(pool)


@asynccontextmanager
async def answering(timeout_s: float, *, is_optional: bool = False) -> AsyncIterator[None]:
    """Turn silence, refusals and broken connections in the body into one error.

    Args:
        timeout_s: What the body has for all of its calls.
        is_optional: What Redis holds can be done without: whatever it answers is that error.

    Raises:
        StoreUnavailableError: The body did not get its answers within `timeout_s`.
    """
    num_cancels = _num_cancels()
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except (redis_errors.RedisError, OSError) as error:
        if not (is_optional or _is_unavailable(error)):
            raise
        raise StoreUnavailableError(
            f"profile store: was not reached, refused, or took over {timeout_s} s"
            f" ({type(error).__name__})",
            retry_after_s=1.0,
        ) from error
    raise_lost_cancel(num_cancels)


def _is_unavailable(error: Exception) -> bool:
    if isinstance(error, _UNAVAILABLE):
        return True
    return isinstance(error, redis_errors.ResponseError) and bool(_REFUSAL.search(str(error)))


def raise_lost_cancel(num_cancels_before: int = 0) -> None:
    """Cancel the running task if it was asked to end and redis-py did not notice.

    redis-py sends through `asyncio.wait_for`. Until Python 3.12 that may return as if nothing had
    happened when the send ends and the cancellation comes in the same turn (python/cpython#86296).
    """
    if _num_cancels() > num_cancels_before:
        raise asyncio.CancelledError


def _num_cancels() -> int:
    task = asyncio.current_task()
    return 0 if task is None else task.cancelling()
