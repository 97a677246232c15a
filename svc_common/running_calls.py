"""The RPCs that are being served: a process that stops refuses new ones and ends late ones."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from svc_common.errors import OverloadedError, ShuttingDownError, UnwatchedError

HEALTH_SERVICE = "grpc.health.v1.Health"
# Probes are open to all, and must be answered when all else is full: they have a count of their
# own, as whoever watches the health may do so for ever.
MAX_PROBES = 1024
MAX_PEER_PROBES = 512  # of one connection: what watches may be all that may watch


def is_health_probe(method: str) -> bool:
    """Return whether a method asks for the health alone."""
    return method.startswith(f"{HEALTH_SERVICE}/")


@dataclass(frozen=True)
class CallLimits:
    """How many RPCs may run at once; 0 is no limit.

    Attributes:
        max_calls: Of all callers together.
        max_peer_calls: Of one connection.
        prefix: Of the settings' names, for refusals.
    """

    max_calls: int = 0
    max_peer_calls: int = 0
    prefix: str = ""


class RunningCalls:
    """Knows the tasks of all running RPCs, and refuses one that is too many.

    gRPC's own `stop` resets what arrives while it stops, and what runs when its time is over:
    callers read CANCELLED, which says neither who cancelled nor whether to try again. So both are
    told here, by a status, before gRPC stops.

    Args:
        limits: Of RPCs that run at once.
    """

    def __init__(self, limits: CallLimits = CallLimits()) -> None:
        self._limits = limits
        self._num_probes = 0
        self._probes_by_peer: Counter[str] = Counter()
        self._num_by_peer: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[object]] = set()
        self._ended: set[asyncio.Task[object]] = set()
        self._is_refusing = False
        self._reason = ""

    def __len__(self) -> int:
        return len(self._tasks)

    def refuse(self) -> None:
        """Serve no more RPCs; health answers all the same."""
        self._is_refusing = True

    def end(self, reason: str) -> int:
        """Have all running RPCs end as UNAVAILABLE with this text, and return how many they are."""
        self._reason = reason
        self._ended |= self._tasks
        for task in self._tasks:
            task.cancel()
        return len(self._tasks)

    @contextmanager
    def serving(self, method: str, peer: str) -> Iterator[None]:
        """Count the RPC of a peer, whose task this is, for as long as it is served.

        Raises:
            ShuttingDownError: the process takes no more RPCs, or ended this one.
            OverloadedError, UnwatchedError: too many RPCs run.
        """
        is_probe = is_health_probe(method)
        if is_probe:
            self._check_probes(method, peer)
        else:
            self._check_room(peer)
        task = asyncio.current_task()
        assert task is not None, "an RPC is served by a task"
        self._tasks.add(task)
        self._num_probes += is_probe
        by_peer = self._probes_by_peer if is_probe else self._num_by_peer
        by_peer[peer] += 1
        try:
            yield
        except asyncio.CancelledError:
            if task in self._ended:
                raise ShuttingDownError(self._reason) from None
            raise
        finally:
            self._tasks.discard(task)
            self._ended.discard(task)
            self._num_probes -= is_probe
            by_peer[peer] -= 1
            if not by_peer[peer]:
                del by_peer[peer]

    def _check_probes(self, method: str, peer: str) -> None:
        refusal = UnwatchedError if method == f"{HEALTH_SERVICE}/Watch" else OverloadedError
        if self._num_probes >= MAX_PROBES:
            raise refusal(f"health: at most {MAX_PROBES} calls are served at once")
        if _is_connection(peer) and self._probes_by_peer[peer] >= MAX_PEER_PROBES:
            raise refusal(
                f"health: at most {MAX_PEER_PROBES} calls of one connection are served at once"
            )

    def _check_room(self, peer: str) -> None:
        if self._is_refusing:
            raise ShuttingDownError("server: is stopping, send the request to another")
        limits = self._limits
        if limits.max_calls and len(self._tasks) - self._num_probes >= limits.max_calls:
            raise OverloadedError(
                f"{limits.prefix}MAX_CALLS: at most {limits.max_calls} calls are served at once"
            )
        most = limits.max_peer_calls
        if most and _is_connection(peer) and self._num_by_peer[peer] >= most:
            raise OverloadedError(
                f"{limits.prefix}MAX_CONNECTION_CALLS: at most {most} calls of one connection are"
                " served at once"
            )


def _is_connection(peer: str) -> bool:
    """Tell whether a peer is one connection; a unix socket does not say which."""
    return not peer.startswith("unix:")
