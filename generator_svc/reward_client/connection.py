"""A channel and one stream to a reward replica, made again whenever they are lost."""

import asyncio
import logging
from typing import Protocol

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from generator_svc.reward_client.connector import Connector, Metadata
from pad.v1 import reward_pb2, reward_pb2_grpc
from svc_common.fault_points import FaultPoints

logger = logging.getLogger(__name__)

RECONNECT_S = (0.1, 2.0)  # first pause after a lost stream, and the longest
INFO_TIMEOUT_S = 2.0
HEALTH_INTERVAL_S = 0.2  # where it cannot be watched; a drain waits a moment longer than this


class ConnectionEvents(Protocol):
    """What a connection tells its owner."""

    def connected(self, info: reward_pb2.RewardServiceGetServerInfoResponse) -> None:
        """It was reached; a ValueError says that it is of no use."""

    def health_changed(self, *, is_serving: bool) -> None:
        """It takes sessions, or takes no more."""

    def receive(self, response: reward_pb2.ScoreResponse) -> None:
        """A message came; a ValueError says that no sound replica sends it."""

    def disconnected(self) -> None:
        """The stream has ended; nothing that was asked on it will be answered."""


class Connection:
    """Keeps one stream to an address alive and carries messages both ways."""

    def __init__(
        self, address: str, events: ConnectionEvents, connector: Connector, faults: FaultPoints
    ) -> None:
        self.address = address
        self._connector = connector
        self._events = events
        self._faults = faults
        self._outgoing: asyncio.Queue[reward_pb2.ScoreRequest] = asyncio.Queue()
        self._abort = asyncio.Event()
        self._stub: reward_pb2_grpc.RewardServiceAsyncStub | None = None
        self._is_serving = False
        self._is_healthy: bool | None = None  # as it said last on this stream

    @property
    def is_reached(self) -> bool:
        """Whether it answered, and is not lost: unary calls can be made, though it may drain."""
        return self._stub is not None

    @property
    def stub(self) -> "reward_pb2_grpc.RewardServiceAsyncStub":
        """For unary calls; only while the replica is reached."""
        assert self._stub is not None, "replica is not connected"
        return self._stub

    @property
    def metadata(self) -> Metadata:
        """What every call to the replica must carry."""
        return self._connector.metadata

    def send(self, message: reward_pb2.ScoreRequest) -> None:
        """Have a message leave on the stream there is now."""
        self._outgoing.put_nowait(message)

    def give_up(self) -> None:
        """End the stream, and begin again."""
        self._abort.set()

    async def run(self) -> None:
        """Connect, serve, and connect again, until cancelled."""
        pause = RECONNECT_S[0]
        while True:
            async with self._connector.open(self.address) as channel:
                try:
                    await self._connect(channel)
                    pause = RECONNECT_S[0]
                    await self._serve(channel)
                # InvalidStateError: a write to a stream that ended meanwhile.
                except (grpc.aio.AioRpcError, ValueError, asyncio.InvalidStateError) as error:
                    reason = error.details() if isinstance(error, grpc.aio.AioRpcError) else error
                    logger.info(
                        "reward replica lost" if self._is_serving else "reward replica not reached",
                        extra={"address": self.address, "reason": str(reason)[:200]},
                    )
                finally:
                    self._stub = None
                    self._is_serving = False
                    self._events.disconnected()
            await asyncio.sleep(pause)
            pause = min(2 * pause, RECONNECT_S[1])

    async def _connect(self, channel: grpc.aio.Channel) -> None:
        """Learn what the replica serves.

        Raises:
            ValueError: it is of no use to this generator.
        """
        stub = reward_pb2_grpc.RewardServiceStub(channel)
        info = await stub.GetServerInfo(
            reward_pb2.RewardServiceGetServerInfoRequest(),
            timeout=INFO_TIMEOUT_S,
            metadata=self.metadata,
        )
        self._events.connected(info)
        self._stub = stub

    async def _serve(self, channel: grpc.aio.Channel) -> None:
        """Carry messages both ways until the stream, the replica's health or a step fails."""
        self._outgoing = asyncio.Queue()
        self._abort = asyncio.Event()
        self._is_healthy = None
        stream = self.stub.Score(metadata=self.metadata)
        tasks = [
            asyncio.create_task(self._write(stream)),
            asyncio.create_task(self._read(stream)),
            asyncio.create_task(self._watch(channel)),
            asyncio.create_task(self._abort.wait()),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            stream.cancel()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _write(self, stream: "Stream") -> None:
        while True:
            message = await self._outgoing.get()
            if self._faults.is_armed:
                async for spoilt in self._faults.spoil("requests", message):
                    await stream.write(spoilt)
            else:
                await stream.write(message)

    async def _read(self, stream: "Stream") -> None:
        async for response in stream:
            self._events.receive(response)
        raise ValueError("stream was closed by the replica")

    async def _watch(self, channel: grpc.aio.Channel) -> None:
        """Follow the replica's health; ask for it where as many watch it as may."""
        stub, request = health_pb2_grpc.HealthStub(channel), health_pb2.HealthCheckRequest()
        try:
            async for response in stub.Watch(request):
                self._note_health(response)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.UNIMPLEMENTED:
                raise
            while True:
                self._note_health(await stub.Check(request, timeout=INFO_TIMEOUT_S))
                await asyncio.sleep(HEALTH_INTERVAL_S)
        await self._abort.wait()  # the stream's own end decides

    def _note_health(self, response: health_pb2.HealthCheckResponse) -> None:
        is_serving = response.status == health_pb2.HealthCheckResponse.SERVING
        if is_serving == self._is_healthy:
            return
        self._is_healthy = is_serving
        self._is_serving = self._is_serving or is_serving
        self._events.health_changed(is_serving=is_serving)


Stream = grpc.aio.StreamStreamCall[reward_pb2.ScoreRequest, reward_pb2.ScoreResponse]
