"""What the stack runs: the options, and from them each child's command and environment."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from pad_client.embedded.child import OWN_PYTHON, ChildSpec
from pad_client.embedded.errors import StackError
from pad_client.embedded.ports import HOST, choose_ports
from pad_client.embedded.probes import answers_http, answers_ping, is_serving, reaches_replicas

BASE_MODEL = "demo-base"
REWARD_MODEL = "demo-persrm"
_PACKAGES = ("torch", "transformers", "redis")  # those of the extra `server` that are not small
_PORT_OPTIONS = ("--port", "--metrics-port")
_EDGE_OPTIONS = ("--edge-port",)
_PLAYGROUND_OPTIONS = ("--playground-port",)
_MAX_SOCKET_PATH_BYTES = 107  # what Linux allows, less the final zero
# One torch thread each: with several, services on one machine take each other's cores. gRPC must
# not go through a proxy to reach its neighbour.
_CHILD_ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "PYTHONUNBUFFERED": "1",
    "no_grpc_proxy": HOST,
}


def default_models_dir() -> Path:
    """Return `models/` of the checkout this package lies in; it may not exist."""
    return Path(__file__).resolve().parents[3] / "models"


@dataclass(frozen=True, slots=True)
class StackOptions:
    """What to start; ports that are None are chosen among the free ones."""

    models_dir: Path = field(default_factory=default_models_dir)
    num_reward_replicas: int = 1
    generator_port: int | None = None
    generator_metrics_port: int | None = None
    reward_ports: Sequence[int] = ()  # one a replica; fewer: the rest is chosen
    reward_metrics_ports: Sequence[int] = ()
    start_timeout_s: float = 180.0  # until all are ready; two models are loaded on one machine
    stop_grace_s: float = 10.0  # between asking a child to stop and killing it
    generator_environment: Mapping[str, str] = field(default_factory=dict)
    reward_environment: Mapping[str, str] = field(default_factory=dict)
    # Cores by child: "redis", "reward-0", ..., "generator", "edge", "playground"; absent: not
    # pinned.
    cpus: Mapping[str, Sequence[int]] = field(default_factory=dict)
    generator_command: Sequence[str] = (*OWN_PYTHON, "generator_svc")
    reward_command: Sequence[str] = (*OWN_PYTHON, "reward_svc")
    has_edge: bool = False  # whether the OpenAI-compatible HTTP edge runs beside the generator
    edge_port: int | None = None
    edge_environment: Mapping[str, str] = field(default_factory=dict)
    edge_command: Sequence[str] = (*OWN_PYTHON, "edge_svc")
    has_playground: bool = False  # whether the web page to try profiles on runs beside them
    playground_port: int | None = None
    playground_environment: Mapping[str, str] = field(default_factory=dict)
    playground_command: Sequence[str] = (*OWN_PYTHON, "playground_svc")
    # A generator that runs already: no services and no store are started, only what is before it.
    generator: str = ""


def check_packages(options: StackOptions) -> None:
    """Raise `StackError` where the client is installed without the services."""
    for command in (options.generator_command, options.reward_command):
        if tuple(command[:-1]) != OWN_PYTHON:
            return  # a command of the caller's
    names = (options.generator_command[-1], options.reward_command[-1], *_PACKAGES)
    _check_installed("the services need", names, "server")


def _check_installed(who_needs: str, names: Sequence[str], extra: str) -> None:
    missing = [name for name in names if find_spec(name) is None]
    if missing:
        raise StackError(
            f"{who_needs} packages that are not installed: {', '.join(missing)}",
            hint=f"pip install ./client '.[{extra}]' in a checkout",
        )


def check_models(options: StackOptions) -> None:
    """Raise `StackError` if a model is missing."""
    for model in (BASE_MODEL, REWARD_MODEL):
        path = options.models_dir / model
        if not path.is_dir() or not any(path.iterdir()):
            raise StackError(
                f"no model in {path}",
                hint=f"name the folder that holds {BASE_MODEL}/ and {REWARD_MODEL}/: --models DIR",
            )


def redis_spec(options: StackOptions, binary: Path, directory: Path) -> ChildSpec:
    """Return the store: on a unix socket alone, nothing written to disk."""
    path = directory / "redis.sock"
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH_BYTES:
        raise StackError(
            f"the path of the Redis socket is too long: {path}",
            hint="set TMPDIR to a shorter path",
        )
    settings = {
        "--port": "0",  # no TCP
        "--unixsocket": str(path),
        "--unixsocketperm": "700",
        "--save": "",
        "--appendonly": "no",
        "--slowlog-max-len": "0",  # it holds commands, with texts in them
        "--dir": str(directory),
    }
    return ChildSpec(
        name="redis",
        command=[str(binary), *(word for pair in settings.items() for word in pair)],
        address=f"unix://{path}",
        is_ready=lambda: answers_ping(path),
        environment=os.environ,
        cpus=options.cpus.get("redis", ()),
    )


def service_specs(options: StackOptions, redis_url: str) -> tuple[ChildSpec, list[ChildSpec]]:
    """Return the generator and its reward replicas."""
    num_replicas = options.num_reward_replicas
    ports = choose_ports(
        [
            options.generator_port,
            options.generator_metrics_port,
            *_pad(options.reward_ports, num_replicas),
            *_pad(options.reward_metrics_ports, num_replicas),
        ],
        _PORT_OPTIONS,
    )
    address, *rewards = (f"{HOST}:{port}" for port in (ports[0], *ports[2 : 2 + num_replicas]))
    generator = ChildSpec(
        name="generator",
        command=options.generator_command,
        address=address,
        is_ready=lambda: is_serving(address) and reaches_replicas(address, num_replicas),
        environment={
            **os.environ,
            **_CHILD_ENVIRONMENT,
            **options.generator_environment,
            "GENERATOR_LISTEN": address,
            "GENERATOR_METRICS_PORT": str(ports[1]),
            "GENERATOR_MODEL_DIR": str(options.models_dir / BASE_MODEL),
            "GENERATOR_REWARD_TARGETS": ",".join(rewards),
            "GENERATOR_REDIS_URL": redis_url,
        },
        cpus=options.cpus.get("generator", ()),
        metrics_address=f"{HOST}:{ports[1]}",
    )
    return generator, [
        _reward_spec(options, index, rewards[index], ports[2 + num_replicas + index])
        for index in range(num_replicas)
    ]


def front_specs(options: StackOptions, generator: str) -> list[ChildSpec]:
    """Return what is wanted in front of the generator at this address."""
    edge = [_edge_spec(options, generator)] if options.has_edge else []
    playground = [_playground_spec(options, generator)] if options.has_playground else []
    return [*edge, *playground]


def _edge_spec(options: StackOptions, generator: str) -> ChildSpec:
    """Return the HTTP edge in front of the generator at this address.

    Raises:
        StackError: What it is made with is not installed, or its port is not free.
    """
    _check_installed("the edge needs", ("edge_svc", "fastapi", "uvicorn"), "edge")
    port, metrics_port = choose_ports([options.edge_port, None], _EDGE_OPTIONS)
    address = f"{HOST}:{port}"
    return ChildSpec(
        name="edge",
        command=options.edge_command,
        address=address,
        is_ready=lambda: answers_http(address, "/readyz"),
        environment={
            **os.environ,
            **_CHILD_ENVIRONMENT,
            **options.edge_environment,
            "EDGE_LISTEN": address,
            "EDGE_METRICS_PORT": str(metrics_port),
            "EDGE_GENERATOR": generator,
        },
        cpus=options.cpus.get("edge", ()),
        metrics_address=f"{HOST}:{metrics_port}",
    )


def _playground_spec(options: StackOptions, generator: str) -> ChildSpec:
    """Return the web page in front of the generator at this address.

    Raises:
        StackError: What it is made with is not installed, or its port is not free.
    """
    names = ("playground_svc", "fastapi", "uvicorn")
    _check_installed("the playground needs", names, "playground")
    (port,) = choose_ports([options.playground_port], _PLAYGROUND_OPTIONS)
    address = f"{HOST}:{port}"
    return ChildSpec(
        name="playground",
        command=options.playground_command,
        address=address,
        is_ready=lambda: answers_http(address, "/healthz"),
        environment={
            "PLAYGROUND_PRESETS": os.environ.get("PAD_PRESETS", ""),  # the words of `pad profile`
            **os.environ,
            **_CHILD_ENVIRONMENT,
            **options.playground_environment,
            "PLAYGROUND_LISTEN": address,
            "PLAYGROUND_GENERATOR": generator,
        },
        cpus=options.cpus.get("playground", ()),
    )


def _reward_spec(options: StackOptions, index: int, address: str, metrics_port: int) -> ChildSpec:
    return ChildSpec(
        name=f"reward-{index}",
        command=options.reward_command,
        address=address,
        is_ready=lambda: is_serving(address),
        environment={
            **os.environ,
            **_CHILD_ENVIRONMENT,
            **options.reward_environment,
            "REWARD_LISTEN": address,
            "REWARD_METRICS_PORT": str(metrics_port),
            "REWARD_MODEL_DIR": str(options.models_dir / REWARD_MODEL),
            "REWARD_BACKBONE_DIR": str(options.models_dir / BASE_MODEL),
        },
        cpus=options.cpus.get(f"reward-{index}", ()),
        metrics_address=f"{HOST}:{metrics_port}",
        is_replica=True,
    )


def _pad(ports: Sequence[int], count: int) -> list[int | None]:
    if len(ports) > count:
        raise StackError(f"reward ports: {len(ports)} given for {count} replicas")
    return [*ports, *[None] * (count - len(ports))]
