"""Service processes of their own that tests may stop and start again, at addresses that stay."""

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

SERVING = health_pb2.HealthCheckResponse.SERVING
HOST = "127.0.0.1"
START_S = 180.0  # several models are loaded on a busy machine
STOP_S = 60.0


def free_ports(count: int) -> list[int]:
    """Return ports that are free now, all different."""
    with ExitStack() as held:
        probes = [held.enter_context(socket.create_server((HOST, 0))) for _ in range(count)]
        return [probe.getsockname()[1] for probe in probes]


def until(condition: Callable[[], bool], what: str, timeout_s: float = 60.0) -> None:
    """Ask another process again and again until `condition` holds: it offers no event."""
    give_up_at = monotonic() + timeout_s
    while not condition():
        assert monotonic() < give_up_at, f"waited {timeout_s} s for {what}"


def turns_serving(address: str, name: str, timeout_s: float) -> bool:
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        request = health_pb2.HealthCheckRequest(service=name)
        call = health_pb2_grpc.HealthStub(channel).Watch(
            request, timeout=timeout_s, wait_for_ready=True
        )
        try:
            return any(answer.status == SERVING for answer in call)
        except grpc.RpcError:
            return False
        finally:
            call.cancel()


@dataclass
class Service:
    """A generator or reward service."""

    module: str
    environment: dict[str, str]
    folder: Path
    port: int
    metrics_port: int
    processes: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        return self.processes[-1]

    @property
    def log(self) -> str:
        return (self.folder / f"{self.module}-{self.port}.log").read_text()

    def launch(self) -> None:
        prefix = self.module.removesuffix("_svc").upper()
        own = {
            f"{prefix}_LISTEN": self.address,
            f"{prefix}_METRICS_PORT": str(self.metrics_port),
            "OMP_NUM_THREADS": "1",
            "no_grpc_proxy": HOST,
        }
        with (self.folder / f"{self.module}-{self.port}.log").open("ab") as log:
            self.processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", self.module],
                    env={**os.environ, **self.environment, **own},
                    stdout=log,
                    stderr=log,
                )
            )

    def wait_until_serving(self, name: str = "") -> None:
        """Wait until health says SERVING of `name`, else of the process."""

        def serves() -> bool:
            assert self.process.poll() is None, f"{self.module} ended:\n{self.log[-2000:]}"
            return turns_serving(self.address, name, timeout_s=5.0)

        until(serves, f"{self.module} to serve", START_S)
        assert self.process.poll() is None, f"{self.module} ended:\n{self.log[-2000:]}"

    def wait_for_log(self, event: str) -> None:
        until(lambda: event in self.log, f"{event!r} in the log of {self.module}", START_S)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Signal the process and return its exit status."""
        self.process.send_signal(number)
        return self.process.wait(STOP_S)

    def metric(self, series: str) -> float:
        """Return a sample; 0 if there is none (yet)."""
        assert self.process.poll() is None, f"{self.module} ended:\n{self.log[-2000:]}"
        url = f"http://{HOST}:{self.metrics_port}/metrics"
        with urllib.request.urlopen(url, timeout=10) as response:
            page = response.read().decode()
        found = re.search(rf"^{re.escape(series)} (\S+)$", page, re.MULTILINE)
        return float(found.group(1)) if found else 0.0


@dataclass(frozen=True)
class Fleet:
    """Generators that all know all of the reward services, with one store."""

    generators: list[Service]
    rewards: list[Service]

    @property
    def addresses(self) -> list[str]:
        return [generator.address for generator in self.generators]

    def launch(self) -> None:
        for service in (*self.rewards, *self.generators):
            service.launch()

    def wait_until_serving(self) -> None:
        for service in (*self.rewards, *self.generators):
            service.wait_until_serving()


@contextmanager
def fleet(
    models_dir: Path,
    folder: Path,
    redis_url: str,
    *,
    num_generators: int = 1,
    num_rewards: int = 1,
    **settings: str,
) -> Iterator[Fleet]:
    """Yield services that are not started yet; what runs at the end is killed.

    Args:
        models_dir: With the demo models.
        folder: For logs.
        redis_url: The store.
        num_generators: How many generators.
        num_rewards: How many reward services.
        settings: Further variables of the services.
    """
    ports = iter(free_ports(2 * (num_generators + num_rewards)))

    def service(module: str, environment: dict[str, str]) -> Service:
        prefix = module.removesuffix("_svc").upper()
        further = {name: text for name, text in settings.items() if name.startswith(f"{prefix}_")}
        return Service(module, {**environment, **further}, folder, next(ports), next(ports))

    reward = {
        "REWARD_MODEL_DIR": str(models_dir / "demo-persrm"),
        "REWARD_BACKBONE_DIR": str(models_dir / "demo-base"),
    }
    rewards = [service("reward_svc", reward) for _ in range(num_rewards)]
    generator = {
        "GENERATOR_MODEL_DIR": str(models_dir / "demo-base"),
        "GENERATOR_REWARD_TARGETS": ",".join(each.address for each in rewards),
        "GENERATOR_REDIS_URL": redis_url,
    }
    generators = [service("generator_svc", generator) for _ in range(num_generators)]
    try:
        yield Fleet(generators, rewards)
    finally:
        for each in (*generators, *rewards):
            if each.processes and each.process.poll() is None:
                each.process.kill()
                each.process.wait()
