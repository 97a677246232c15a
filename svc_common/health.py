"""Whether this process takes work, told through the gRPC health protocol."""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from svc_common.errors import UnwatchedError

logger = logging.getLogger(__name__)

MAX_WATCHERS = 256  # open to all and without an end: so many leave room for other probes
Response = health_pb2.HealthCheckResponse


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """Answers probes; starts as NOT_SERVING, and says so for good once it is draining.

    The empty name stands for the process, the other names for its services, which may turn apart.
    The servicer that comes with gRPC keeps watchers for ever, so that a drain would always take
    all the time it is given.

    Attributes:
        draining: Set when the process begins to stop. Streams without an end of their own end then.
    """

    def __init__(self, service_names: Sequence[str]) -> None:
        self.service_names = tuple(service_names)
        self.draining = asyncio.Event()
        self._serving: set[str] = set()  # names
        self._num_watchers = 0
        self._changed = asyncio.Event()

    def set_serving(self, is_serving: bool, *names: str) -> None:
        """Say whether `names`, else all, take work; without effect once the process is draining."""
        turned = set(names) or {"", *self.service_names}
        is_serving = is_serving and not self.draining.is_set()
        if is_serving and "" in turned - self._serving:
            logger.info("taking calls")
        self._serving = self._serving | turned if is_serving else self._serving - turned
        self._changed.set()
        self._changed = asyncio.Event()

    def drain(self) -> None:
        """Say that no new work is taken any more, and end the watchers' streams."""
        self.draining.set()
        self.set_serving(False)

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802
        status = self._status(request.service)
        if status == Response.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "service: unknown name")
        return Response(status=status)

    async def List(self, request: Any, context: Any) -> Any:  # noqa: N802
        names = ("", *self.service_names)
        statuses = {name: Response(status=self._status(name)) for name in names}
        return health_pb2.HealthListResponse(statuses=statuses)

    async def Watch(self, request: Any, context: Any) -> AsyncGenerator[Any, None]:  # noqa: N802
        if self._num_watchers >= MAX_WATCHERS:
            rule = f"health: at most {MAX_WATCHERS} calls may watch it at once"
            await context.abort(UnwatchedError.code, rule)
        self._num_watchers += 1
        told = None
        try:
            while True:
                changed = self._changed
                status = self._status(request.service)
                if status != told:
                    yield Response(status=status)
                    told = status
                if self.draining.is_set():
                    return
                await changed.wait()
        finally:
            self._num_watchers -= 1

    def _status(self, service_name: str) -> int:
        if service_name and service_name not in self.service_names:
            return int(Response.SERVICE_UNKNOWN)
        return int(Response.SERVING if service_name in self._serving else Response.NOT_SERVING)
