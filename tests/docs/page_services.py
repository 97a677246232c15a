"""Services that a page starts by itself, on ports of the test."""

import signal
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from tests.docs.elsewhere import Command
from tests.e2e.processes import HOST, START_S, Service, free_ports, turns_serving, until

DEFAULT_PORTS = {"generator_svc": 50051, "reward_svc": 50052}


class PageServices:
    """What runs until the page is over, and where each default address is then."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self._folder = folder
        self._redis_url = redis_url
        self._running: list[Service] = []
        self._starting: list[tuple[Service, str]] = []  # with the address of their health
        self.addresses: dict[str, str] = {}

    @staticmethod
    def can_start(command: Command) -> bool:
        """Return whether a command starts a service with models that are here."""
        module = command.words[-1]
        if module not in DEFAULT_PORTS:
            return False
        model = command.environment[f"{module.removesuffix('_svc').upper()}_MODEL_DIR"]
        return model.startswith("models/")

    def start(self, command: Command) -> None:
        """Start the service, and do not wait for it."""
        module = command.words[-1]
        prefix = module.removesuffix("_svc").upper()
        port, metrics_port, health_port = free_ports(3)
        health = f"{HOST}:{health_port}"  # in plain text, also where the service has keys
        environment = self._here(command.environment) | {f"{prefix}_HEALTH_LISTEN": health}
        service = Service(module, environment, self._folder, port, metrics_port)
        self._running.append(service)
        self._starting.append((service, health))
        service.launch()
        self.addresses[f"{HOST}:{DEFAULT_PORTS[module]}"] = service.address

    def wait(self) -> None:
        """Wait until all that were started serve."""
        while self._starting:
            service, health = self._starting.pop()
            until(partial(_serves, service, health), f"{service.module} to serve", START_S)

    def stop(self) -> None:
        for service in reversed(self._running):
            if service.process.poll() is None:
                service.stop(signal.SIGKILL)

    def _here(self, environment: Mapping[str, str]) -> dict[str, str]:
        found = dict(environment)
        for name, text in environment.items():
            found[name] = self.addresses.get(text, text)
            if name == "GENERATOR_REDIS_URL":
                found[name] = self._redis_url
        return found


def _serves(service: Service, health: str) -> bool:
    assert service.process.poll() is None, f"{service.module} ended:\n{service.log[-2000:]}"
    return turns_serving(health, "", timeout_s=5.0)
