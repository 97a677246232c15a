"""Generator, reward replicas and Redis as real processes, with a proxy before each of the last."""

import asyncio
import contextlib
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import grpc.aio

from pad.v1 import generator_pb2, reward_pb2, reward_pb2_grpc
from pad.v1.generator_pb2_grpc import GeneratorServiceStub
from pad_client.embedded.child import Child, ChildSpec, Guard
from pad_client.embedded.ports import HOST
from tests.faults.forks import ForkedService
from tests.faults.models import Folders
from tests.faults.orders import give_order
from tests.faults.proxy import Network, Proxy
from tests.faults.store import Store

NUM_REPLICAS = 2
VERSION = "a"  # what the replicas serve while nothing is wrong
READY_S = 90.0
HEALED_S = 20.0
POLL_S = 0.1  # asking takes time from those who are asked
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "PYTHONUNBUFFERED": "1",
    "no_grpc_proxy": HOST,
}


class NotHealedError(AssertionError):
    """The stack is not as it was before the faults."""


async def until(
    condition: Callable[[], Awaitable[bool]], what: str, within_s: float = HEALED_S
) -> None:
    """Return once something holds that only asking tells."""
    try:
        async with asyncio.timeout(within_s):
            while True:
                if await condition():
                    return
                await asyncio.sleep(POLL_S)
    except TimeoutError:
        raise NotHealedError(f"not within {within_s:.0f} s: {what}") from None


def free_port() -> int:
    """Return a free port that no connection going out will take before it is used."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((HOST, port))
            return port


@dataclass(eq=False)
class Process:
    """A reward service; `faults` is where its fault points are armed."""

    child: ForkedService
    port: int
    version: str
    faults: Path
    channel: grpc.aio.Channel = field(init=False)

    def __post_init__(self) -> None:
        self.channel = grpc.aio.insecure_channel(f"{HOST}:{self.port}")

    @property
    def stub(self) -> "reward_pb2_grpc.RewardServiceAsyncStub":
        return reward_pb2_grpc.RewardServiceStub(self.channel)

    async def info(self) -> reward_pb2.RewardServiceGetServerInfoResponse | None:
        """Return what it says of itself, None if it does not answer."""
        request = reward_pb2.RewardServiceGetServerInfoRequest()
        with contextlib.suppress(grpc.aio.AioRpcError):
            return await self.stub.GetServerInfo(request, timeout=1.0)
        return None

    async def is_ready(self) -> bool:
        self.child.check()
        return await self.info() is not None

    async def is_idle(self) -> bool:
        info = await self.info()
        return (
            info is not None
            and not info.load.num_sessions
            and info.load.num_free_slots == info.num_slots
        )

    async def end(self) -> None:
        """Kill it if it still runs."""
        await self.channel.close()
        await asyncio.to_thread(self.child.kill)


class FaultStack:
    """A running stack; `replicas[i]` serves behind `proxies[i]`."""

    def __init__(self, folders: Folders, directory: Path, guard: Guard) -> None:
        self._folders = folders
        self._directory = directory
        self._guard = guard
        self._spares: dict[str, asyncio.Task[Process]] = {}
        self._num_started = 0
        self.replicas: list[Process] = []
        self.proxies: list[Proxy] = []
        self.generator: Child | None = None
        self.store: Store | None = None
        self.versions: dict[str, str] = {}  # what our names for versions are called on the wire

    async def start(self, environment: Mapping[str, str], stack: contextlib.AsyncExitStack) -> None:
        redis_port, self.port, self.metrics_port = (free_port() for _ in range(3))
        self.store = Store(self._launch, self._directory / "redis", redis_port)
        await until(self.store.answers, "Redis answers")
        self.redis_proxy = await stack.enter_async_context(Proxy(redis_port))
        processes = await asyncio.gather(*(self._new(VERSION) for _ in range(NUM_REPLICAS)))
        for process in processes:
            self.replicas.append(process)
            self.proxies.append(await stack.enter_async_context(Proxy(process.port)))
        self.generator_faults = self._directory / "generator.faults"
        self.generator = self._launch(
            "generator",
            [sys.executable, "-m", "generator_svc"],
            {
                **os.environ,
                **ENVIRONMENT,
                "GENERATOR_LISTEN": f"{HOST}:{self.port}",
                "GENERATOR_METRICS_PORT": str(self.metrics_port),
                "GENERATOR_MODEL_DIR": str(self._folders.base),
                "GENERATOR_REWARD_TARGETS": ",".join(f"{HOST}:{p.port}" for p in self.proxies),
                "GENERATOR_REDIS_URL": f"redis://{HOST}:{self.redis_proxy.port}/0",
                "GENERATOR_FAULT_POINTS": str(self.generator_faults),
                "GENERATOR_MAX_TOKENS": "900",
                **environment,
            },
        )
        self.channel = grpc.aio.insecure_channel(f"{HOST}:{self.port}")
        stack.push_async_callback(self.channel.close)
        self.stub = GeneratorServiceStub(self.channel)
        await until(self._generator_is_up, "the generator answers", READY_S)
        await self.heal()

    # -- what breaks ----------------------------------------------------------------------------

    async def replace(self, index: int, version: str = VERSION) -> None:
        """Have a fresh process of a version serve behind a proxy; the old one is ended."""
        old, self.replicas[index] = self.replicas[index], await self._take_spare(version)
        self.proxies[index].target_port = self.replicas[index].port
        await old.end()
        await self.proxies[index].cut()

    async def lose_store(self, for_s: float, *, is_empty: bool) -> None:
        """Kill Redis, and return once it answers again, with what it held or without."""
        assert self.store is not None
        await self.store.kill()
        await asyncio.sleep(for_s)
        await self.store.restart(is_empty=is_empty)
        await until(self.store.answers, "Redis answers again")

    async def heal(self) -> None:
        """Undo all faults, and return when everything is as it was before any.

        Raises:
            NotHealedError: something did not come back, or was not given back.
        """
        for index, (process, proxy) in enumerate(zip(self.replicas, self.proxies, strict=True)):
            process.child.signal(signal.SIGCONT)
            proxy.set_network(Network())
            await give_order(process.faults, {})
            is_whole = process.child.is_running and process.version == VERSION
            if not is_whole or await process.info() is None:  # None: it drains
                await self.replace(index)
        self.redis_proxy.set_network(Network())
        self._check_generator()
        await give_order(self.generator_faults, {})
        await until(self._has_all_replicas, "the generator reaches all replicas again")
        await until(self._is_idle, "no answer, session or row is left")

    async def _generator_is_up(self) -> bool:
        self._check_generator()
        return await self.server_info() is not None

    def _check_generator(self) -> None:
        assert self.generator is not None
        self.generator.check()

    async def server_info(self) -> generator_pb2.GetServerInfoResponse | None:
        """Return what the generator says of itself, None if it does not answer."""
        with contextlib.suppress(grpc.aio.AioRpcError):
            request = generator_pb2.GetServerInfoRequest()
            return await self.stub.GetServerInfo(request, timeout=1.0)
        return None

    async def _has_all_replicas(self) -> bool:
        info = await self.server_info()
        wanted = self.versions[VERSION]
        return info is not None and all(
            replica.is_available and replica.model_version == wanted
            for replica in info.reward_replicas
        )

    async def _is_idle(self) -> bool:
        for process in self.replicas:
            if not await process.is_idle():
                return False
        return not await self.metric('pad_sessions{state="active"}')

    async def metric(self, series: str) -> float:
        """Return a number of the generator's metrics; 0 if it has not begun to count."""
        url = f"http://{HOST}:{self.metrics_port}/metrics"

        def read() -> str:
            with urllib.request.urlopen(url, timeout=5) as response:
                text: str = response.read().decode()
            return text

        for line in (await asyncio.to_thread(read)).splitlines():
            if line.startswith(f"{series} "):
                return float(line.rpartition(" ")[2])
        return 0.0

    # -- processes ------------------------------------------------------------------------------

    def _launch(self, name: str, command: list[str], environment: Mapping[str, str]) -> Child:
        spec = ChildSpec(name, command, "", lambda: True, environment)
        return Child(spec, self._directory, self._guard)

    async def _new(self, version: str) -> Process:
        """Start a reward service and return it once it serves."""
        self._num_started += 1
        name = f"reward-{version}-{self._num_started}"
        port, metrics_port = free_port(), free_port()
        faults = self._directory / f"{name}.faults"
        environment = {
            **os.environ,
            **ENVIRONMENT,
            "REWARD_LISTEN": f"{HOST}:{port}",
            "REWARD_METRICS_PORT": str(metrics_port),
            "REWARD_MODEL_DIR": str(self._folders.theta[version]),
            "REWARD_BACKBONE_DIR": str(self._folders.backbone),
            "REWARD_FAULT_POINTS": str(faults),
        }
        service = (ForkedService, name, environment, self._directory, self._guard)
        child = await asyncio.to_thread(*service)
        process = Process(child, port, version, faults)
        await until(process.is_ready, f"{name} answers", READY_S)
        info = await process.info()
        assert info is not None
        self.versions[version] = info.model_version
        return process

    def prepare(self, version: str = VERSION) -> None:
        """Start a process in the background, for the next that is replaced."""
        if version not in self._spares:
            self._spares[version] = asyncio.ensure_future(self._new(version))

    async def _take_spare(self, version: str) -> Process:
        self.prepare(version)
        process = await self._spares.pop(version)
        self.prepare(version)
        return process

    async def close(self) -> None:
        """End all processes."""
        for spare in self._spares.values():
            spare.cancel()
        spares = await asyncio.gather(*self._spares.values(), return_exceptions=True)
        processes = [*self.replicas, *(s for s in spares if isinstance(s, Process))]
        for process in processes:
            await process.end()
        if self.generator is not None:
            await asyncio.to_thread(self.generator.kill)
        if self.store is not None:
            await self.store.close()


@asynccontextmanager
async def running_fault_stack(
    folders: Folders, environment: Mapping[str, str]
) -> AsyncIterator[FaultStack]:
    """Run a stack until the block ends; its logs go with it."""
    directory = Path(tempfile.mkdtemp(prefix="pad-faults-"))
    guard = Guard(directory, grace_s=1.0)
    stack = FaultStack(folders, directory, guard)
    try:
        async with contextlib.AsyncExitStack() as exits:
            exits.push_async_callback(stack.close)
            await stack.start(environment, exits)
            yield stack
    finally:
        guard.close()
        shutil.rmtree(directory, ignore_errors=True)
