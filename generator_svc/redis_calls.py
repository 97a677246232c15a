"""Calls of Redis that end in time: a client without long retries, and one error for all silence."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import redis.exceptions as redis_errors
from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from redis.credentials import CredentialProvider

from svc_common.errors import StoreUnavailableError

# silent: no answer in time. unreachable: no connection, or a broken one. loading: it starts.
# read_only: it is, or became, a replica. full: its memory is. refused: any other refusal.
# down: it was not asked, as it answers nobody.
FailureKind = Literal["silent", "unreachable", "loading", "read_only", "full", "refused", "down"]

_UNAVAILABLE = (
    redis_errors.ConnectionError,
    redis_errors.TimeoutError,
    redis_errors.ReadOnlyError,
    redis_errors.OutOfMemoryError,
    redis_errors.NoPermissionError,
    redis_errors.ClusterDownError,
    redis_errors.TryAgainError,
    redis_errors.AskError,  # of which MovedError is one
    redis_errors.ExecAbortError,
    OSError,  # of which TimeoutError is one
)
# Refusals for which redis-py has no class, or whose class is lost behind a script's or a
# pipeline's own words: a server's state, which no caller of ours can change.
_REFUSAL = re.compile(
    r"(?:^|-|')(?:NOREPLICAS|MISCONF|NOPERM|NOAUTH|READONLY|OOM|LOADING|BUSY|MASTERDOWN"
    r"|NOMASTERLINK|CLUSTERDOWN|TRYAGAIN|EXECABORT|MOVED|ASK)\b"
)
# Classes first: of several that fit, the first one counts.
_KINDS: tuple[tuple[type[Exception], FailureKind], ...] = (
    (redis_errors.BusyLoadingError, "loading"),
    (redis_errors.ReadOnlyError, "read_only"),
    (redis_errors.OutOfMemoryError, "full"),
    (redis_errors.AuthenticationError, "refused"),
    (redis_errors.TimeoutError, "silent"),
    (TimeoutError, "silent"),
    (redis_errors.ConnectionError, "unreachable"),
    (OSError, "unreachable"),
)
_KINDS_BY_WORD: dict[str, FailureKind] = {"READONLY": "read_only", "OOM": "full"}


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
        StoreUnavailableError: The body did not get its answers within `timeout_s`; its cause says
            which kind of failure it is, see `failure_kind`.
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


def failure_kind(error: BaseException | None) -> FailureKind:
    """Say what is the matter with a Redis that answers a call by `error`."""
    for known, kind in _KINDS:
        if isinstance(error, known):
            return kind
    words = _REFUSAL.search(str(error))
    return _KINDS_BY_WORD.get(words.group().strip("-'"), "refused") if words else "refused"


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
