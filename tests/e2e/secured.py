"""Both services as real processes with everything that asks who calls, and a real Redis server."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from pad_client.tokens import NewToken, TokenScope, new_token
from tests.tls_keys import Authority

START_TIMEOUT_S = 120
EVERYDAY = (TokenScope.GENERATE, TokenScope.PROFILES_READ, TokenScope.PROFILES_WRITE)
KEY_OPTIONS = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]


class Service:
    """A process, and every line it has written."""

    def __init__(self, module: str, variables: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module],
            env={**os.environ, "OMP_NUM_THREADS": "1", **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._changed:
                self._lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._lines.append("")
            self._changed.notify_all()

    @property
    def log(self) -> str:
        with self._changed:
            return "".join(self._lines)

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait_for(self, event: str) -> dict[str, Any]:
        """Return the first log line of an event, once it is there."""
        mark = json.dumps(event)
        with self._changed:
            came = self._changed.wait_for(
                lambda: any(mark in line or not line for line in self._lines), START_TIMEOUT_S
            )
            line = next((line for line in self._lines if mark in line), "")
        assert came, f"no event {event!r} in {self.log}"
        assert line, f"the process ended:\n{self.log}"
        found: dict[str, Any] = json.loads(line)
        return found

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)
        self._reader.join()
        assert self._process.stdout is not None
        self._process.stdout.close()


@dataclass
class Secured:
    """The running stack, its files, and every secret that is in use."""

    folder: Path
    authority: Authority
    generator: Service
    reward: Service
    address: str
    reward_address: str
    tokens: dict[str, NewToken]
    secrets: list[str] = field(default_factory=list)

    def channel(self, name: str = "pad.test") -> grpc.Channel:
        """Return a new channel to the generator, which presents itself under a name."""
        credentials = grpc.ssl_channel_credentials(self.authority.cert.read_bytes())
        options = [*KEY_OPTIONS, ("grpc.ssl_target_name_override", name)]
        return grpc.secure_channel(self.address, credentials, options)

    def write_tokens(self, tokens: Sequence[NewToken]) -> None:
        """Replace the generator's tokens at once."""
        new = self.folder / "tokens.new"
        new.write_text("".join(f"{token.line}\n" for token in tokens))
        new.replace(self.folder / "tokens")
        self.secrets += [secret for token in tokens for secret in in_all_forms(token)]

    @property
    def addresses(self) -> dict[str, dict[str, Any]]:
        """What each service logged of where it listens."""
        services = {"generator": self.generator, "reward": self.reward}
        return {name: service.wait_for("serving") for name, service in services.items()}


def in_all_forms(token: NewToken) -> list[str]:
    """Return a token and what a server knows of it."""
    return [token.secret, hashlib.sha256(token.secret.encode()).hexdigest()]


@contextmanager
def secured_stack(folder: Path, models_dir: Path, redis_url: str) -> Iterator[Secured]:
    """Start reward service and generator: TLS on both, certificates and a token between them."""
    authority = Authority(folder / "keys", "ca")
    authority.issue("server", "DNS:pad.test").move_to(folder / "tls.crt", folder / "tls.key")
    rewards = authority.issue("reward", "DNS:reward.test")
    own = authority.issue("generator", "DNS:generator.test")
    inner = new_token("pad", "generator", [TokenScope.SCORE], None)
    powerless = new_token("pad", "powerless", [TokenScope.GENERATE], None)
    (folder / "reward-tokens").write_text(f"{inner.line}\n{powerless.line}\n")
    (folder / "reward-token").write_text(f"{inner.secret}\n")
    tokens = {
        "a": new_token("tenant-a", "of-a", EVERYDAY, None),
        "b": new_token("tenant-b", "of-b", EVERYDAY, None),
        "admin": new_token("tenant-a", "root", [TokenScope.ADMIN], None),
        "writer": new_token("tenant-a", "writes", [TokenScope.GENERATE], None),
    }
    (folder / "tokens").write_text("".join(f"{token.line}\n" for token in tokens.values()))
    common = {
        "LISTEN": "127.0.0.1:0",
        "METRICS_PORT": "0",
        "HEALTH_LISTEN": "127.0.0.1:0",
        "LOG_LEVEL": "debug",
    }
    with ExitStack() as cleanup:
        reward = _start(
            cleanup,
            "reward_svc",
            common
            | {
                "MODEL_DIR": str(models_dir / "demo-persrm"),
                "BACKBONE_DIR": str(models_dir / "demo-base"),
                "TLS_CERT_FILE": str(rewards.cert),
                "TLS_KEY_FILE": str(rewards.key),
                "TLS_CLIENT_CA_FILE": str(authority.cert),
                "ALLOWED_CLIENTS": "generator.test,generator-2.test",
                "TOKENS_FILE": str(folder / "reward-tokens"),
            },
        )
        reward_address = _ready(reward)["address"]
        generator = _start(
            cleanup,
            "generator_svc",
            common
            | {
                "MODEL_DIR": str(models_dir / "demo-base"),
                "REWARD_TARGETS": reward_address,
                "REWARD_OPEN_TIMEOUT_S": "60",
                "REDIS_URL": redis_url,
                "TLS_CERT_FILE": str(folder / "tls.crt"),
                "TLS_KEY_FILE": str(folder / "tls.key"),
                "TOKENS_FILE": str(folder / "tokens"),
                "REWARD_CA_FILE": str(authority.cert),
                "REWARD_CERT_FILE": str(own.cert),
                "REWARD_KEY_FILE": str(own.key),
                "REWARD_SERVER_NAME": "reward.test",
                "REWARD_TOKEN_FILE": str(folder / "reward-token"),
            },
        )
        address = _ready(generator)["address"]
        tokens |= {"reward": inner, "powerless": powerless}
        secrets = [secret for token in tokens.values() for secret in in_all_forms(token)]
        for key in folder.rglob("*.key"):
            secrets += [line for line in key.read_text().splitlines() if "PRIVATE" not in line]
        yield Secured(
            folder, authority, generator, reward, address, reward_address, tokens, secrets
        )


def _start(cleanup: ExitStack, module: str, variables: dict[str, str]) -> Service:
    prefix = module.partition("_")[0].upper()
    service = Service(module, {f"{prefix}_{name}": value for name, value in variables.items()})
    cleanup.callback(service.stop)
    return service


def _ready(service: Service) -> dict[str, Any]:
    """Return where a service listens, once it has warmed up and takes work."""
    serving = service.wait_for("serving")
    with grpc.insecure_channel(serving["health_address"], KEY_OPTIONS) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(), timeout=START_TIMEOUT_S
        )
        for answer in watch:
            if answer.status == health_pb2.HealthCheckResponse.SERVING:
                break
        watch.cancel()
    return serving


def code_of(call: Any) -> str:
    """Make a call and return the name of its status."""
    try:
        call()
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"
