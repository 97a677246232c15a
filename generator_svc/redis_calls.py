"""Calls of Redis that end in time, and one error for all silence."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Literal

import redis.exceptions as redis_errors

from svc_common.errors import StoreUnavailableError

# silent: no answer in time. unreachable: no connection, or a broken one. loading: it starts.
# read_only: it is, or became, a replica. full: its memory is. refused: any other refusal.
# down: it was not asked, as it answers nobody.
FailureKind = Literal["silent", "unreachable", "loading", "read_only", "full", "refused", "down"]


class WrongModeError(redis_errors.RedisError):
    """The store is a cluster where it is taken for one server, or the other way round."""


_UNAVAILABLE = (
    WrongModeError,
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
_REDIRECTION = re.compile(r"(?:^|-|')(?:MOVED|ASK)\b")
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
        raise_lost_cancel(num_cancels)
        if not (is_optional or _is_unavailable(error)):
            raise
        rule = f"was not reached, refused, or took over {timeout_s} s ({type(error).__name__})"
        hint = mode_hint(error)
        raise StoreUnavailableError(
            f"profile store: {rule}" + (f": {hint}" if hint else ""), retry_after_s=1.0
        ) from error
    raise_lost_cancel(num_cancels)


def failure_kind(error: BaseException | None) -> FailureKind:
    """Say what is the matter with a Redis that answers a call by `error`."""
    for known, kind in _KINDS:
        if isinstance(error, known):
            return kind
    words = _REFUSAL.search(str(error))
    return _KINDS_BY_WORD.get(words.group().strip("-'"), "refused") if words else "refused"


def mode_hint(error: BaseException | None) -> str:
    """Say what to set where `error` comes from taking a cluster for one server, or the reverse.

    `RedisCluster` follows redirections itself: only its other kind of client sees one.
    """
    if isinstance(error, WrongModeError):
        return str(error)
    is_redirection = isinstance(error, redis_errors.AskError) or (
        isinstance(error, redis_errors.ResponseError) and _REDIRECTION.search(str(error))
    )
    return "it is a Redis Cluster, set GENERATOR_REDIS_CLUSTER=true" if is_redirection else ""


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
