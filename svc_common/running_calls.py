"""The RPCs that are being served: a process that stops refuses new ones and ends late ones."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from svc_common.errors import ShuttingDownError

HEALTH_SERVICE = "grpc.health.v1.Health"


class RunningCalls:
    """Knows the tasks of all running RPCs.

    gRPC's own `stop` resets what arrives while it stops, and what runs when its time is over:
    callers read CANCELLED, which says neither who cancelled nor whether to try again. So both are
    told here, by a status, before gRPC stops.
    """

    def __init__(self) -> None:
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
    def serving(self, method: str) -> Iterator[None]:
        """Count the RPC whose task this is for as long as it is served.

        Raises:
            ShuttingDownError: the process takes no more RPCs, or ended this one.
        """
        if self._is_refusing and not method.startswith(f"{HEALTH_SERVICE}/"):
            raise ShuttingDownError("server: is stopping, send the request to another")
        task = asyncio.current_task()
        assert task is not None, "an RPC is served by a task"
        self._tasks.add(task)
        try:
            yield
        except asyncio.CancelledError:
            if task in self._ended:
                raise ShuttingDownError(self._reason) from None
            raise
        finally:
            self._tasks.discard(task)
            self._ended.discard(task)
